"""`shala-audio prepare`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shala_audio.data.licences import SOURCES
from shala_audio.errors import UserError, nearest

CORPORA = ("chaosnli", "goemotions", "crema_d", "msp_podcast", "mini", "mini_text")


def prepare(
    corpus: Annotated[str, typer.Argument(help=f"One of {', '.join(CORPORA)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the manifest, the split and the summary.")],
    source: Annotated[Path | None, typer.Option(help="The corpus as it was downloaded (not for mini).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split, where the corpus has none.")] = 0,
    max_rows: Annotated[int | None, typer.Option(help="Keep so many rows, the same share of every split.")] = None,
    fold: Annotated[
        int | None, typer.Option(help="ChaosNLI, CREMA-D: fold of a cross-validation, 0 to 4, as the test split.")
    ] = None,
    part: Annotated[str | None, typer.Option(help="ChaosNLI: snli, mnli or both; snli where not given.")] = None,
    task: Annotated[str | None, typer.Option(help="MSP-Podcast: msp_podcast, msp_podcast_9 or msp_podcast_4.")] = None,
    secondary: Annotated[
        float, typer.Option(help="MSP-Podcast: share of a rater's vote that the secondary choices get, 0 to below 1.")
    ] = 0.0,
) -> None:
    """Make a manifest, a split that leaks no speaker, and a summary.

    Example: shala-audio prepare crema_d --source CREMA-D --out data
    """
    from shala_audio.data import chaosnli, crema_d, goemotions, mini, msp_podcast
    from shala_audio.data.prepare import write_prepared
    from shala_audio.tasks import load_task

    if max_rows is not None and max_rows < 1:
        raise UserError(f"--max-rows is {max_rows}; use 1 or more")
    if fold is not None and corpus not in ("chaosnli", "crema_d"):
        raise UserError(f"--fold: {corpus} has a split of its own")
    if part is not None and corpus != "chaosnli":
        raise UserError("--part: of chaosnli alone")
    if corpus != "msp_podcast" and (task or secondary):
        raise UserError(f"--{'task' if task else 'secondary'}: of msp_podcast alone")
    if corpus in ("mini", "mini_text"):
        prepared = mini.prepare(out, seed, rows=max_rows or mini.ROWS, text=corpus == "mini_text")
        max_rows = None
    else:
        if corpus not in CORPORA:
            raise UserError(f"{corpus}: no such corpus; known are {', '.join(CORPORA)}{nearest(corpus, CORPORA)}")
        licence, address = SOURCES[corpus]
        if source is None:
            raise UserError(f"--source: name the folder of {corpus}, as its owners give it ({address}; {licence})")
        if not source.is_dir():
            raise UserError(f"{source}: no such folder")
        print(f"{corpus}: {licence}; from {address}", file=sys.stderr)
        if corpus == "chaosnli":
            part = part or "snli"
            prepared = chaosnli.prepare(source, seed, part, fold)
        elif corpus == "goemotions":
            prepared = goemotions.prepare(source, seed)
        elif corpus == "crema_d":
            prepared = crema_d.prepare(source, seed, fold)
        else:
            prepared = msp_podcast.prepare(source, seed, task or corpus, secondary)
    options = {"part": part, "fold": fold, "secondary": secondary or None}
    summary = write_prepared(prepared, load_task(task or corpus), out, seed, max_rows, **options)
    show_summary(summary, out)


def show_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Print what a prepared corpus holds, and where its manifest is."""
    console = Console(stderr=True)
    table = Table("split", "rows", "without votes", "speakers", "also in train", "raters per row")
    for split, found in summary["splits"].items():
        raters = found.get("raters_per_row")
        shown = f"{raters['min']:g} to {raters['max']:g}, mean {raters['mean']:.1f}" if raters else "–"
        table.add_row(
            split,
            str(found["rows"]),
            str(found["without_votes"]),
            str(found["speakers"]),
            str(found.get("speakers_also_in_train", "")),
            shown,
        )
    console.print(table)
    for reason, count in summary["left_out"].items():
        if count:
            console.print(f"left out: {count:g} {reason}")
    console.print(f"{summary['caveat']} Licence: {summary['licence']}.", highlight=False)
    print(out / "manifest.jsonl")
