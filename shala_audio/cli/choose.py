"""`shala-audio choose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def choose(
    runs: Annotated[list[Path], typer.Argument(help="Folders of trained models with predictions_dev.jsonl.")],
    manifest: Annotated[Path, typer.Option(help="Manifest with the votes.")],
    out: Annotated[Path, typer.Option(help="Folder for a copy of the best one.")],
) -> None:
    """Of runs that differ in a setting, keep the one closest to the raters on dev, and put on record what was tried.

    Example: shala-audio choose tuning/3e-4 tuning/1e-3 --manifest data/manifest.jsonl --out exp/sft_soft
    """
    from shala_audio.evaluation.tuning import choose_run, in_words

    tried = choose_run(runs, manifest, out)
    for settings, distance in tried:
        print(f"{in_words(settings)}: jsd {distance:.4f} on dev")
    best, _ = min(tried, key=lambda one: one[1])
    print(f"{out}: {in_words(best)}")
