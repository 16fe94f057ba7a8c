"""`shala-audio score` and `shala-audio compare`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

TaskOption = Annotated[
    str | None, typer.Option(help="Task: a name in configs/tasks, or a YAML file; that of the rows if not given.")
]


SplitOption = Annotated[str | None, typer.Option(help="Rows of this split alone; all that are predicted if not given.")]


def score(
    predictions: Annotated[Path, typer.Argument(help="JSON Lines (id, probs) or CSV (id, a column a label).")],
    manifest: Annotated[Path, typer.Argument(help="Manifest with the votes.")],
    out: Annotated[
        Path | None, typer.Option(help="File for the measures as JSON; the terminal where not given.")
    ] = None,
    task: TaskOption = None,
    bootstrap: Annotated[int, typer.Option(help="Draws for the 95 % intervals; 0 for none.", min=0)] = 1000,
    split: SplitOption = None,
) -> None:
    """Measure predictions against the raters' votes, beside the constant prior and the raters' own agreement.

    Example: shala-audio score predictions.jsonl data/manifest.jsonl --out score.json
    """
    from shala_audio.evaluation.score import distances_beside
    from shala_audio.evaluation.score import score as measure
    from shala_audio.files import write_json
    from shala_audio.inference.card import write_card
    from shala_audio.models.folder import SETTINGS
    from shala_audio.tasks import load_task

    result = measure(predictions, manifest, load_task(task).label_names if task else None, bootstrap, split)
    if len(result["splits"]) > 1:
        parts = ", ".join(f"{count} of {name}" for name, count in result["splits"].items())
        print(
            f"{predictions}: rows of several splits are scored together ({parts}); --split test takes one",
            file=sys.stderr,
        )
    if result["unpredicted"]:
        print(
            f"{predictions}: {result['unpredicted']} rows with votes have no prediction and do not count",
            file=sys.stderr,
        )
    # Kept apart, for `report`: they tell of single rows' votes, and a score is published.
    distances = result.pop("row_jsd")
    if out is None:
        print(json.dumps(result, indent=2))
    else:
        write_json(out, result)
        write_json(distances_beside(out), distances)
        if out.name == "score.json" and (out.parent / SETTINGS).is_file():  # the model's own: its card shows it
            write_card(out.parent)
        print(f"{out}: {result['n']} rows, jsd {result['jsd']['value']:.4f}")


def compare(
    first: Annotated[Path, typer.Argument(help="Predictions of one system.")],
    second: Annotated[Path, typer.Argument(help="Predictions of the other.")],
    manifest: Annotated[Path, typer.Argument(help="Manifest with the votes.")],
    task: TaskOption = None,
    split: SplitOption = None,
    out: Annotated[Path | None, typer.Option(help="File for the result as JSON.")] = None,
) -> None:
    """Test whether one system is closer to the raters than another: paired permutations of the rows both predict.

    Example: shala-audio compare exp/shala/predictions.jsonl exp/linear/predictions.jsonl data/manifest.jsonl
    """
    from rich.console import Console
    from rich.table import Table

    from shala_audio.evaluation.compare import compare as test
    from shala_audio.files import write_json
    from shala_audio.tasks import load_task

    result = test(first, second, manifest, load_task(task).label_names if task else None, split)
    if out is not None:
        write_json(out, result)
    table = Table("measure", "first", "second", "difference", "p")
    for name in ("jsd", "kl", "accuracy"):
        if name in result:
            found = result[name]
            numbers = [f"{found[part]:.4f}" for part in ("first", "second")]
            table.add_row(name, *numbers, f"{found['difference']:+.4f}", f"{found['p']:.4f}")
    console = Console()
    console.print(table)
    left = f"; {result['only_first']} only in the first, {result['only_second']} only in the second"
    console.print(f"{result['n']} rows in both{left if result['only_first'] or result['only_second'] else ''}")
