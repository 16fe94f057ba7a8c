"""`shala-audio convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shala_audio.errors import UserError, not_one_of

FORMATS = ("lhotse", "datasets")


def convert(
    source: Annotated[
        Path, typer.Argument(help="A manifest, or a folder of Lhotse's manifests or of a saved dataset.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write (--to), or manifest to write (--from).")],
    to: Annotated[str | None, typer.Option(help="lhotse or datasets: what to make of a manifest.")] = None,
    source_format: Annotated[
        str | None, typer.Option("--from", help="lhotse or datasets: what to make a manifest of.")
    ] = None,
    audio_root: Annotated[
        Path | None,
        typer.Option(help="Folder of the sound; a dataset's is written there."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task of rows that name none; a name or a YAML file.")] = None,
) -> None:
    """Turn manifests into Lhotse's or Hugging Face `datasets`, and back.

    shala-audio convert data/manifest.jsonl --to lhotse --audio-root CREMA-D --out lhotse

    shala-audio convert data/manifest.jsonl --to datasets --audio-root CREMA-D --out dataset

    shala-audio convert lhotse --from lhotse --task crema_d --out data/manifest.jsonl
    """
    from shala_audio.data import hf_datasets, lhotse
    from shala_audio.data.rows import read_manifest, write_manifest
    from shala_audio.tasks import load_task

    format = to or source_format
    if (to is None) == (source_format is None):
        raise UserError("say --to lhotse or datasets of a manifest, or --from lhotse or datasets to make one")
    if format not in FORMATS:
        raise not_one_of("--to" if to else "--from", str(format), FORMATS)
    if to is not None:
        rows = read_manifest(source)
        if not rows:
            raise UserError(f"{source}: no rows")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: is there already, and not empty")
        if to == "lhotse":
            if audio_root is None:
                raise UserError("--audio-root: name the folder of the sound")
            recordings, supervisions = lhotse.to_lhotse(rows, audio_root, out)
            print(f"{out}: {recordings} recordings, {supervisions} supervisions")
        else:
            labels = load_task(task or rows[0].task).label_names
            counts = hf_datasets.to_datasets(rows, labels, audio_root, out)
            print(f"{out}: {', '.join(f'{count} {split}' for split, count in counts.items())}")
        return
    name = load_task(task).name if task else None
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    if source_format == "lhotse":
        write_manifest(out, lhotse.from_lhotse(source, name, audio_root))
    else:
        write_manifest(out, hf_datasets.from_datasets(source, name, audio_root))
    print(out)
