"""`shala-audio validate`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shala_audio.cli.score import TaskOption
from shala_audio.errors import UserError

if TYPE_CHECKING:
    from shala_audio.data.rows import Row


def validate(
    manifest: Annotated[Path, typer.Argument(help="Manifest to check.")],
    audio_root: Annotated[Path | None, typer.Option(help="Folder of the sound; without it, sound is not read.")] = None,
    task: TaskOption = None,
    good: Annotated[
        Path | None, typer.Option(help="Write a manifest of the rows without a fault, and exit with 0.")
    ] = None,
) -> None:
    """Check every row: its fields, its votes, its sound, and that no speaker is in two splits.

    Prints a line for each fault and exits with 2 if there is any. What is odd but can be used, such as clipped sound, is
    printed as a note.

    Example: shala-audio validate data/manifest.jsonl --audio-root CREMA-D
    """
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    from shala_audio.data.rows import write_manifest
    from shala_audio.data.splits import check_speakers

    if not manifest.is_file():
        raise UserError(f"{manifest}: no such manifest")
    faults = 0

    def fault(line: str) -> None:
        nonlocal faults
        faults += 1
        print(line, file=sys.stderr)

    rows: dict[str, tuple[str, Row]] = {}
    for where, row in _rows(manifest, task, fault):
        if row.id in rows:
            fault(f"{where}: id {row.id!r} appears twice")
        else:
            rows[row.id] = where, row
    bad: set[str] = set()
    notes = 0
    if audio_root is not None:
        heard = [(where, row) for where, row in rows.values() if row.audio is not None]
        with ThreadPoolExecutor() as pool:
            reports = pool.map(lambda item: _listen(item[1], audio_root), heard)
            for (where, row), (reason, found) in tqdm(
                zip(heard, reports, strict=True), total=len(heard), unit="clip", desc="sound", disable=None
            ):
                for note in found:
                    notes += 1
                    print(f"note: {where}: {note}", file=sys.stderr)
                if reason:
                    bad.add(row.id)
                    fault(f"{where}: {reason}")
    kept = [row for _, row in rows.values() if row.id not in bad]
    try:
        check_speakers([row for row in kept if row.votes])
    except UserError as error:
        fault(f"{manifest}: {error}")
        if good is not None:
            raise UserError(f"--good: {error}; no choice of rows mends that") from None
    print(f"{len(rows)} rows, {faults} faults" + (f", {notes} notes" if notes else ""))
    if good is not None:
        write_manifest(good, kept)
        print(f"{good}: {len(kept)} rows; {faults} left out")
    elif faults:
        raise typer.Exit(2)


def _rows(manifest: Path, task: str | None, fault: Callable[[str], None]) -> Iterator[tuple[str, Row]]:
    """Rows whose fields and votes are right, with their place; the others are told to `fault`."""
    from functools import cache

    from shala_audio.data.rows import row_from_json
    from shala_audio.data.votes import to_distribution
    from shala_audio.tasks import load_task

    labels = cache(lambda name: load_task(task or name).label_names)
    try:
        lines = manifest.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{manifest}: not UTF-8 ({error})") from None
    for number, line in enumerate(lines, start=1):
        where = f"{manifest}:{number}"
        try:
            row = row_from_json(line, where)
            if row.votes:
                to_distribution(row.votes, labels(row.task))
        except UserError as error:
            fault(str(error) if str(error).startswith(str(manifest)) else f"{where}: {error}")
        else:
            yield where, row


def _listen(row: Row, root: Path) -> tuple[str | None, list[str]]:
    """Why a row's sound cannot be used, if so, and what is odd about it."""
    from shala_audio.audio.sound import read_row_audio, remarks

    assert row.audio is not None
    try:
        return None, [f"{row.audio.path}: {remark}" for remark in remarks(read_row_audio(row.audio, root))]
    except UserError as error:
        return str(error), []
