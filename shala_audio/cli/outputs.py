"""How `shala-audio predict` writes: a table or JSON at the end, JSON Lines or CSV as the predictions come."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from shala_audio.cli.shards import Shard
from shala_audio.distribution import LabelDistribution
from shala_audio.errors import UserError

FORMATS = ("table", "json", "jsonl", "csv")
Prediction = tuple[dict[str, Any], LabelDistribution]


def part_of(out: Path, share: Shard) -> Path:
    """The file of one of several processes, beside that of all."""
    return out if share[1] == 1 else out.with_name(f"{out.name}.{share[0]}-of-{share[1]}")


def write_together(
    write_part: Callable[[], None], manifest: str, split: str | None, out: Path, launched: Shard
) -> None:
    """Each process writes its part beside; when all have, the first puts them together."""
    from accelerate import PartialState

    from shala_audio.data.rows import iterate_manifest
    from shala_audio.evaluation.pool import merge_predictions

    parts = [part_of(out, (part, launched[1])) for part in range(1, launched[1] + 1)]
    try:
        write_part()
    except UserError as error:
        alone = UserError(f"process {launched[0]} of {launched[1]}: {error}")
        alone.one_process = True
        raise alone from None
    PartialState().wait_for_everyone()
    if launched[0] == 1:
        wanted = (row.id for row in iterate_manifest(manifest) if split is None or row.split == split)
        merge_predictions(parts, wanted, out)
        for part in parts:
            part.unlink()
    PartialState().wait_for_everyone()  # what each process has begun is kept until all is together


def record(head: dict[str, Any], distribution: LabelDistribution) -> dict[str, Any]:
    return {**head, **distribution.to_record()}


def write(predictions: Iterable[Prediction], format: str, out: Path | None) -> None:
    from shala_audio.files import write_beside

    if out is None:
        _write_to(predictions, format, sys.stdout)
        return
    with write_beside(out) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
        _write_to(predictions, format, file)


def _write_to(predictions: Iterable[Prediction], format: str, file: Any) -> None:
    if format == "json":
        json.dump([record(*prediction) for prediction in predictions], file, indent=2, ensure_ascii=False)
        file.write("\n")
    elif format == "csv":
        writer = None
        for head, distribution in predictions:
            flat = {**head, **distribution.to_dict(), "entropy": distribution.entropy, **distribution.attributes}
            if writer is None:
                writer = csv.DictWriter(file, list(flat))
                writer.writeheader()
            writer.writerow(flat)
    elif format == "jsonl":
        for prediction in predictions:
            file.write(json.dumps(record(*prediction), ensure_ascii=False) + "\n")
            file.flush()
    else:
        from rich.console import Console
        from rich.markup import escape

        console = Console(file=file, highlight=False, width=None if file is sys.stdout else 100)
        for head, distribution in predictions:
            place = (
                f" {head['start']:.2f} to {head['end']:.2f} s, voice in {head['voiced']:.0%}" if "start" in head else ""
            )
            console.print(f"[bold]{escape(head['id'])}[/bold]{place}")
            console.print(distribution)
