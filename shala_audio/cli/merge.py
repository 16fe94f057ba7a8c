"""`shala-audio merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    parts: Annotated[list[Path], typer.Argument(help="Predictions (.jsonl) of `predict --shard`.", metavar="PART...")],
    manifest: Annotated[Path, typer.Option(help="The manifest that was predicted.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    split: Annotated[str | None, typer.Option(help="Only the rows of this split, as in `predict`.")] = None,
) -> None:
    """Put the parts that several jobs predicted together, checking that no row is missing or twice.

    Example: shala-audio merge part1.jsonl part2.jsonl --manifest data/manifest.jsonl --split test --out predictions.jsonl
    """
    from shala_audio.data.rows import iterate_manifest
    from shala_audio.evaluation.pool import merge_predictions

    wanted = [row.id for row in iterate_manifest(manifest) if split is None or row.split == split]
    merge_predictions(parts, wanted, out)
    print(f"{out}: {len(wanted)} rows")
