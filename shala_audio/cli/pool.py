"""`shala-audio pool`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shala_audio.errors import UserError


def pool(
    folds: Annotated[
        list[str],
        typer.Argument(help="A fold's experiment, a colon, its manifest.", metavar="EXP:MANIFEST"),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pooled manifest and predictions.")],
) -> None:
    """Gather the test predictions of the folds of a cross-validation, checking that no row is missing or twice.

    Example: shala-audio pool exp/cv/fold0:data/fold0/manifest.jsonl exp/cv/fold1:data/fold1/manifest.jsonl --out exp/cv
    """
    from shala_audio.evaluation.pool import Fold, pool_folds

    pairs = [text.rsplit(":", 1) for text in folds]
    if wrong := [text for text, pair in zip(folds, pairs, strict=True) if len(pair) != 2]:
        raise UserError(f"{wrong[0]}: write it as EXP:MANIFEST")
    systems = pool_folds([Fold(Path(experiment), Path(manifest)) for experiment, manifest in pairs], out)
    print(f"{out}: {', '.join(systems)}")
