"""`shala-audio report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from shala_audio.evaluation.results import System

PICTURES = ("jsd", "terciles", "reliability", "entropy", "confusion", "training")


def report(
    experiments: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of systems with a score.json, or of experiments; or files of `score`.", metavar="EXP"
        ),
    ],
    out: Annotated[Path, typer.Option(help="Markdown file; CSV, LaTeX and pictures go beside it.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the manifest's summary.json: caveat and split.")] = None,
    title: Annotated[str, typer.Option(help="Heading.")] = "Results",
    note: Annotated[list[str] | None, typer.Option(help="A paragraph under the heading; repeat for several.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="System to test against every other, and to draw; SHALA if not given.")
    ] = None,
) -> None:
    """Write one table of several systems, with pictures, and what every run was. Runs of several seeds become one line.

    Example: shala-audio report exp/zero_shot exp/warm_start exp/shala --data data --out RESULTS.md
    """
    from shala_audio.errors import UserError
    from shala_audio.evaluation import rivals
    from shala_audio.evaluation.results import find_runs, gather, table_rows
    from shala_audio.evaluation.sharpened import apart, section
    from shala_audio.evaluation.tables import AMBIGUITY, as_csv, latex, markdown
    from shala_audio.evaluation.trainings import what_they_were
    from shala_audio.files import read_json, write_text

    runs = find_runs(experiments)
    systems, sharpened = apart(gather(runs))
    rows = table_rows(systems)
    lines = [f"# {title}", ""]
    for paragraph in note or []:
        lines += [paragraph, ""]
    if data is not None:
        lines += _about(read_json(data / "summary.json"))
    lines += [markdown(rows), _key(systems), ""]
    tested = rivals.reference(systems, reference)
    if tests := rivals.against_others(tested, systems) if tested else []:
        lines += tests
    elif reference is not None:
        raise UserError(
            f"--reference {reference}: no other system is known by the same rows; score all against the same file, with --out"
        )
    elif len(systems) > 1:
        why = "no other is known by the same rows as SHALA" if tested else "none is SHALA: name one with --reference"
        print(f"no system is tested against the others, since {why}", file=sys.stderr)
    lines += [markdown([row for row in rows if "terciles" in row[1]], AMBIGUITY)]
    lines += [_thirds(systems[0]), ""]
    if attributes := sorted({key for _, found in rows for key in found if key.startswith("ccc_")}):
        stating = [row for row in rows if any(key in row[1] for key in attributes)]
        lines += [
            markdown(stating, attributes),
            "Concordance (CCC) of the stated attributes with the raters' means.",
            "",
        ]
    lines += section(tested, systems, sharpened)
    lines += what_they_were(runs)
    lines += _pictures(systems, tested or systems[-1], rows, out)
    every = [*rows, *((system.name, system.score) for system in sharpened)]
    write_text(out.with_suffix(".csv"), as_csv(every))
    write_text(out.with_suffix(".tex"), latex(every))
    write_text(out, "\n".join(lines))
    _show(rows, title)
    print(out)


def _show(rows: Any, title: str) -> None:
    """The measures that matter most, on the terminal."""
    from rich.console import Console
    from rich.table import Table

    from shala_audio.evaluation.tables import cell, measure

    table = Table("system", "jsd to the raters", "accuracy", "macro F1", title=title)
    for name, found in rows:
        cells = [cell(measure(found, column), column == "jsd") for column in ("jsd", "accuracy", "macro_f1")]
        table.add_row(name, *cells)
    Console().print(table)


def _about(summary: dict[str, Any]) -> list[str]:
    rows = ", ".join(f"{name} {found['rows']}" for name, found in summary["splits"].items())
    lines = [f"Rows: {rows}. Split seed {summary['seed']}, sha256 {summary['split_sha256'][:16]}.", ""]
    return lines + ([summary["caveat"], ""] if summary["caveat"] else [])


def _key(systems: Sequence[System]) -> str:
    """What the columns and rows of the first table mean."""
    from shala_audio.evaluation.intervals import FEWEST_GROUPS
    from shala_audio.evaluation.score import FRESH, ONE_LABEL_EACH

    counts = sorted({len(system.runs) for system in systems})
    groups = systems[0].score["jsd"].get("groups")
    over = (
        f"interval over {groups} groups of rows (speakers or premises)"
        if groups
        else "bootstrap interval over the rows"
    )
    spread = f"jsd with its 95 % {over}, other measures have theirs, over the rows, in the CSV file"
    if counts[-1] > 1:
        seeds = f"{counts[0]} to {counts[-1]} seeds" if counts[0] < counts[-1] else f"{counts[0]} seeds"
        most = max(systems, key=lambda system: len(system.rows)).rows
        if len(most) > 1:
            same = all(rows.keys() == most[0].keys() for rows in most)
            seeds += ", on the same test rows" if same else ", each with test rows of its own"
        spread = f"mean ± standard deviation over {seeds}; jsd with its 95 % {over} too"
    ties = systems[0].score.get("ties", 0)
    lines = [
        f"Less is better for jsd, jsd_nats and kl, more for the rest; {spread}. Accuracy, F1 and UAR are against the "
        f"raters' plurality label; {ties} rows that have none are left out of them."
    ]
    own = systems[0].groups  # of every row
    if groups is None and (few := len(set(own.values()))) < min(len(own), FEWEST_GROUPS):
        lines.append(
            f"The rows are of {few} speakers (or premises), too few to say more than what other rows of theirs would give."
        )
    first = systems[0].score
    if (kind := first.get("ceiling", {}).get("kind")) in (FRESH, ONE_LABEL_EACH):
        fewer = first["ceiling"]["n"] < first["n"]
        raters = f", of the {first['ceiling']['n']} rows with several votes" if fewer else ""
        lines.append(f"The ceiling is as many votes, drawn anew from each row's own{raters}.")
        lines.append(
            "Other people would be somewhat further off; it has no kl, since few votes leave labels at 0."
            if kind == FRESH
            else "They name one label each, where raters could name several, so a model can be nearer; it has no kl."
        )
    if "split_half" in first:
        lines.append(
            "Halves of the raters are small groups, so a model can be nearer to all than one half is to the other."
        )
    judged = [(system.name, set().union(*(rows.keys() for rows in system.rows))) for system in systems if system.rows]
    if odd := [name for name, keys in judged if keys != judged[0][1]]:
        lines.append(f"Not on the same rows as {judged[0][0]}: {', '.join(odd)}.")
    if len(systems) > 1 and (untold := [system.name for system in systems if not system.rows]):
        lines.append(
            f"Without the rows' distances, and so not tested (`shala-audio score` writes them): {', '.join(untold)}."
        )
    return " ".join(lines)


def _thirds(system: System) -> str:
    terciles = system.score.get("terciles", {})
    counts = ", ".join(str(terciles.get(third, {}).get("n", 0)) for third in ("low", "middle", "high"))
    said = f"Thirds of the rows by the raters' entropy ({counts} rows); rows of equal entropy stay together."
    by_group = system.score["jsd"].get("groups") and terciles.get("low", {}).get("jsd", {}).get("low") is not None
    return said + (" Intervals here are over rows." if by_group else "")


def _pictures(systems: Sequence[System], drawn: System, rows: Any, out: Path) -> list[str]:
    """Draw them where matplotlib is installed; return the lines that show them. `drawn`: the system whose rows are shown."""

    def place(what: str) -> Path:
        return out.with_name(f"{out.stem}_{what}.png")

    if find_spec("matplotlib") is None:
        print("no pictures: matplotlib is not installed", file=sys.stderr)
        for what in PICTURES:
            place(what).unlink(missing_ok=True)  # an earlier report's
        return []
    from shala_audio.evaluation import plots

    shown: dict[str, str] = {"jsd": "jsd of every system", "terciles": "jsd by the raters' entropy"}
    plots.plot_jsd(rows, place("jsd"))
    plots.plot_terciles(rows, place("terciles"))
    plots.plot_reliability(systems, place("reliability"))
    seeds = max(len(system.runs) for system in systems) > 1
    first, its = (f", seed {one.runs[0].training.get('seed', 0)}" if seeds else "" for one in (systems[0], drawn))
    shown["reliability"] = f"stated against human entropy, in bins{first}"
    plots.plot_entropy(drawn, place("entropy"))
    plots.plot_confusion(drawn, place("confusion"))
    shown |= {
        "entropy": f"human and stated entropy, {drawn.name}{its}",
        "confusion": f"plurality labels, {drawn.name}" + (", every seed" if seeds else ""),
    }
    logs = [
        (system.name, log)
        for system in systems
        for run in system.runs
        if not run.calibration and (log := run.folder / "log.jsonl").is_file()
    ]
    if logs:
        plots.plot_training(logs, place("training"))
        shown["training"] = "loss and reward by step" + (", every seed" if seeds else "")
    else:
        place("training").unlink(missing_ok=True)
    return [*(f"![{text}]({place(what).name})" for what, text in shown.items()), ""]
