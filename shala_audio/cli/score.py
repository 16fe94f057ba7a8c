"""`shala-audio score` and `shala-audio compare`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

TaskOption = Annotated[
    str | None, typer.Option(help="Task: a name in configs/tasks, or a YAML file; that of the rows if not given.")
]
Votes = Annotated[
    Path,
    typer.Argument(
        help="Manifest with the votes; or a CSV: id, a column a label with the number of raters who chose it.",
        metavar="VOTES",
    ),
]
SplitOption = Annotated[str | None, typer.Option(help="Rows of this split alone; all that are predicted if not given.")]


def score(
    predictions: Annotated[Path, typer.Argument(help="JSON Lines (id, probs) or CSV (id, a column a label).")],
    votes: Votes,
    out: Annotated[
        Path | None, typer.Option(help="File for the measures as JSON; the terminal where not given.")
    ] = None,
    task: TaskOption = None,
    bootstrap: Annotated[int, typer.Option(help="Draws for the 95 % intervals; 0 for none.", min=0)] = 1000,
    split: SplitOption = None,
) -> None:
    """Measure predictions against the raters' votes, beside the constant prior and the raters' own agreement.

    Of another system: a CSV with an id and a column a label for the predictions, another for the votes, with the same ids.

    Example: shala-audio score predictions.jsonl data/manifest.jsonl --out score.json
    """
    from shala_audio.evaluation.by_row import distances_beside
    from shala_audio.evaluation.score import score as measure
    from shala_audio.files import write_json
    from shala_audio.inference.card import write_card
    from shala_audio.models.folder import SETTINGS
    from shala_audio.tasks import load_task

    result = measure(predictions, votes, load_task(task) if task else None, bootstrap, split)
    _warn_of_splits(predictions, result["splits"])
    if result["unpredicted"]:
        print(
            f"{predictions}: {result['unpredicted']} rows with votes have no prediction and do not count",
            file=sys.stderr,
        )
    # Kept apart, for `report`: they tell of single rows' votes, and a score is published.
    distances = result.pop("rows")
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
    votes: Votes,
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

    result = test(first, second, votes, load_task(task) if task else None, split)
    _warn_of_splits(first, result["splits"])
    if out is not None:
        write_json(out, result)
    table = Table("measure", "first", "second", "difference", "95 % interval", "p")
    for name in ("jsd", "kl", "accuracy"):
        if name in result:
            found = result[name]
            numbers = [f"{found[part]:.4f}" for part in ("first", "second")]
            interval = "–" if found["low"] is None else f"{found['low']:+.4f} to {found['high']:+.4f}"
            table.add_row(name, *numbers, f"{found['difference']:+.4f}", interval, f"{found['p']:.4f}")
    console = Console()
    console.print(table)
    left = f"; {result['only_first']} only in the first, {result['only_second']} only in the second"
    console.print(f"{result['n']} rows in both{left if result['only_first'] or result['only_second'] else ''}")
    if (groups := result["jsd"]["groups"]) < result["n"]:
        few = "too few to be flipped together, so that rows count as independent"
        together = "whose rows' signs are flipped together" if result["jsd"]["by_group"] else few
        console.print(f"{groups} speakers or premises, {together}")
    console.print("The p-values are not corrected for there being several.")


def _warn_of_splits(predictions: Path, splits: Mapping[str, int]) -> None:
    if len(splits) > 1:
        parts = ", ".join(f"{count} of {name}" for name, count in splits.items())
        print(
            f"{predictions}: rows of several splits are scored together ({parts}); --split test takes one",
            file=sys.stderr,
        )
