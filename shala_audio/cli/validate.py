"""`shala-audio validate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shala_audio.errors import UserError


def validate(
    manifest: Annotated[Path, typer.Argument(help="Manifest to check.")],
    audio_root: Annotated[Path | None, typer.Option(help="Folder of the sound; without it, sound is not read.")] = None,
) -> None:
    """Check every row: its fields, its votes, its sound, and that no speaker is in two splits.

    Prints a line for each fault and exits with 2 if there is any.
    """
    from shala_audio.audio.sound import read_row_audio
    from shala_audio.data.rows import Row, row_from_json
    from shala_audio.data.splits import check_speakers
    from shala_audio.data.votes import to_distribution
    from shala_audio.tasks import load_task

    if not manifest.is_file():
        raise UserError(f"{manifest}: no such manifest")
    faults = 0
    rows: list[Row] = []
    seen: set[str] = set()

    def fault(line: str) -> None:
        nonlocal faults
        faults += 1
        print(line, file=sys.stderr)

    for number, line in enumerate(manifest.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        where = f"{manifest}:{number}"
        try:
            row = row_from_json(line, where)
            rows.append(row)
            if row.id in seen:
                raise UserError(f"{where}: id {row.id!r} appears twice")
            seen.add(row.id)
            if row.votes:
                to_distribution(row.votes, load_task(row.task).label_names)
            if row.audio is not None and audio_root is not None:
                read_row_audio(row.audio, audio_root)
        except UserError as error:
            fault(str(error) if str(error).startswith(str(manifest)) else f"{where}: {error}")
    try:
        check_speakers([row for row in rows if row.votes])
    except UserError as error:
        fault(f"{manifest}: {error}")
    print(f"{len(seen)} rows, {faults} faults")
    if faults:
        raise typer.Exit(2)
