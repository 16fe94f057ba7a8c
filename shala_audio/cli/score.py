"""`shala-audio score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def score(
    predictions: Annotated[Path, typer.Argument(help="JSON Lines of any system: id, probs.")],
    manifest: Annotated[Path, typer.Argument(help="Manifest with the votes.")],
    out: Annotated[
        Path | None, typer.Option(help="File for the measures as JSON; the terminal where not given.")
    ] = None,
) -> None:
    """Measure predictions against the raters' votes, beside the constant prior.

    Example: shala-audio score predictions.jsonl data/manifest.jsonl --out score.json
    """
    from shala_audio.evaluation.score import score as measure
    from shala_audio.files import write_json

    result = measure(predictions, manifest)
    if out is None:
        print(json.dumps(result, indent=2))
    else:
        write_json(out, result)
        print(f"{out}: {result['n']} rows, jsd {result['jsd']['value']:.4f}")
