"""Tables of measures in Markdown, CSV and LaTeX, with paired tests, and what each run was: cost, commands, hashes, versions.

Systems stand there a second time, with a temperature of their own that brings jsd down on dev. The expected divergence, and often
the distance, is least for an answer sharper than the mean of what may be. A loss of that kind teaches sharpness, cross-entropy does
not, and one number fitted on dev gives it to either.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shala_audio.distribution import FLOOR
from shala_audio.errors import UserError, not_one_of
from shala_audio.evaluation.calibration import HIGHEST, LOWEST
from shala_audio.evaluation.compare import paired
from shala_audio.evaluation.runs import Run, System, find_runs, gather, run_name, table_rows
from shala_audio.evaluation.stats import Paired, holm
from shala_audio.evaluation.tuning import in_words
from shala_audio.io import read_json, write_text

Rows = Sequence[tuple[str, Mapping[str, Any]]]

CLOSENESS = ("jsd", "jsd_nats", "kl", "bhattacharyya", "accuracy", "macro_f1", "weighted_f1", "uar")
SHARED_TASK = ("cross_entropy", "micro_f1", "manhattan", "wasserstein")  # LeWiDi's, in tables of its corpora
THIRDS = ("low", "middle", "high")
AMBIGUITY = (*THIRDS, "entropy_correlation", "contested_auroc", "entropy_error")
HEADS = {
    "low": "jsd, least contested third",
    "middle": "middle third",
    "high": "most contested third",
    "entropy_correlation": "entropy ρ",
    "contested_auroc": "contested AUROC",
    "entropy_error": "entropy error (bits)",
}


def measure(measures: Mapping[str, Any], column: str) -> Mapping[str, Any]:
    """{value, low, high} or {value, sd} of a measure, or of jsd within a third of the rows; empty where there is none."""
    if column in THIRDS:
        return measures.get("terciles", {}).get(column, {}).get("jsd", {})
    return measures.get(column) or {}


def cell(found: Mapping[str, Any], interval: bool) -> str:
    """A number with three decimals, its interval or its deviation over seeds; a dash where there is none."""
    if found.get("value") is None:
        return "–"
    text = f"{found['value']:.3f}"
    if found.get("sd") is not None:
        text += f" ± {found['sd']:.3f}"
    return f"{text} [{found['low']:.3f}, {found['high']:.3f}]" if interval and found.get("low") is not None else text


def closeness(rows: Rows) -> tuple[str, ...]:
    """Columns of how near the systems come: with LeWiDi's measures where rows say who chose what, as its corpora do."""
    found = {column for _, measures in rows for column in measures}
    wanted = SHARED_TASK if found & {"raters_named", "micro_f1"} else ("wasserstein",)
    return CLOSENESS + tuple(column for column in wanted if column in found)


def markdown(rows: Rows, columns: Sequence[str] | None = None) -> str:
    """One table; the first column of numbers has its interval, the others have it in the CSV."""
    columns = columns or closeness(rows)
    heads = [HEADS.get(column, column) for column in columns]
    lines = ["| system | n | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(columns)]
    for name, measures in rows:
        cells = [cell(measure(measures, column), interval=column == columns[0]) for column in columns]
        lines.append(f"| {name} | {measures['n']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def as_csv(rows: Rows) -> str:
    """Every measure with its interval (or deviation over seeds), one line a system and measure. `groups`: how many speakers
    or premises the interval is over; where it is empty, the interval is over rows."""
    columns = (*closeness(rows), "total_variation", "js_divergence", "multilabel_f1")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["system", "n", "measure", "value", "low", "high", "sd", "groups"])
    for name, measures in rows:
        attributes = sorted(key for key in measures if key.startswith("ccc_"))
        lines = {column: measures.get(column) or {} for column in columns}
        for third in THIRDS:
            within = measures.get("terciles", {}).get(third, {})
            lines |= {f"{column}_{third}_tercile": within.get(column) or {} for column in columns}
        others = (*AMBIGUITY, "entropy_distance_correlation", *attributes)
        lines |= {column: measures.get(column) or {} for column in others if column not in THIRDS}
        for label, found in lines.items():
            if found.get("value") is not None:
                ends = [found.get(end) for end in ("value", "low", "high", "sd")]
                numbers = ["" if number is None else f"{number:.6f}" for number in ends]
                writer.writerow([name, measures["n"], label, *numbers, found.get("groups", "")])
    return out.getvalue()


def latex(rows: Rows) -> str:
    """A tabular for `booktabs`."""
    columns = closeness(rows)
    lines = [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule"]
    lines.append(" & ".join(["system", *(_escape(column) for column in columns)]) + r" \\")
    lines.append("\\midrule")
    for name, measures in rows:
        cells = [cell(measure(measures, column), interval=False).replace("±", r"$\pm$") for column in columns]
        lines.append(" & ".join([_escape(name), *(text.replace("–", "--") for text in cells)]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _escape(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text


# What SHALA is compared as, where a table has several forms of it: the first of these.
REFERENCES = ("shala_exact", "shala", "shala_static", "shala_dynamic", "shala_unweighted")


def find_reference(systems: Sequence[System], name: str | None = None) -> System | None:
    """The system to test against all others: the one of that name, or SHALA, not calibrated; None where there is no SHALA.

    Args:
        systems: of the table.
        name: a system's, or its first word.

    Raises:
        UserError: no system has that name, or several begin with it.
    """
    named = {system.name.split(" ")[0]: system for system in reversed(systems) if not system.runs[0].calibration}
    if name is None:
        return next((named[shala] for shala in REFERENCES if shala in named), None)
    meant = [system for system in systems if system.name == name] or [
        system for system in systems if system.name.split(" ")[0] == name and not system.runs[0].calibration
    ]
    if len(meant) != 1:
        raise not_one_of("--reference", name, [system.name for system in systems])
    return meant[0]


def pairwise_tests(ours: System, systems: Sequence[System]) -> list[tuple[System, Paired, float]]:
    """A system against every other, on the rows that both were judged on.

    Returns:
        For each other system whose rows are known the difference in jsd with its p-value, and that corrected for their number
        (Holm).
    """
    found = [(other, paired(ours.rows, other.rows, ours.groups)) for other in systems if other is not ours]
    known = [(other, one) for other, one in found if one is not None]
    corrected = holm([one.p for _, one in known])
    return [(other, one, p) for (other, one), p in zip(known, corrected, strict=True)]


def against_others(ours: System, systems: Sequence[System]) -> list[str]:
    """The tests as a Markdown table; nothing where there are none."""
    if not (against := pairwise_tests(ours, systems)):
        return []
    return [*table_of_tests(ours, against), "", _in_words(ours, against), ""]


def table_of_tests(ours: System, against: Sequence[tuple[System, Paired, float]]) -> list[str]:
    """What `pairwise_tests` found, as the lines of a Markdown table."""
    lines = [
        f"| {ours.name} against | rows | groups | jsd, less the other's | p | p, corrected |",
        "|---|---|---|---|---|---|",
    ]
    for other, one, corrected in against:
        gap = f"{one.difference:+.3f}" + ("" if one.low is None else f" [{one.low:+.3f}, {one.high:+.3f}]")
        groups = one.groups if one.by_group else "–"
        lines.append(f"| {other.name} | {one.rows} | {groups} | {gap} | {one.p:.4f} | {corrected:.4f} |")
    return lines


def _in_words(ours: System, against: Sequence[tuple[System, Paired, float]]) -> str:
    said = [
        f"Below 0, {ours.name} is nearer to the raters. Paired by row (of several seeds, its mean), with a 95 % interval and "
        "a two-sided p of 10,000 random signs, so 0.0001 is the least that it can be, or of all signs where there are fewer; "
        "corrected for the number of systems (Holm)."
    ]
    if any(one.by_group for _, one, _ in against):
        said.append(
            "Groups are speakers or premises, whose rows' signs are flipped together; G groups give a p of 2 / 2^G at least."
        )
    if not all(one.by_group for _, one, _ in against):
        said.append("Where none are named, rows are independent.")
    said.append("Seeds count as given: another run may say otherwise.")
    return " ".join(said)


KIND = "temperature_jsd"
COLUMNS = {name: HEADS.get(name, name).removeprefix("jsd, ") for name in ("jsd", "jsd_nats", "kl", *THIRDS)}


def apart(systems: Sequence[System]) -> tuple[list[System], list[System]]:
    """Systems, and apart from them those that were scaled. Where nothing else is there, these are the systems."""
    scaled = [system for system in systems if system.runs[0].calibration == KIND]
    rest = [system for system in systems if system not in scaled]
    return (rest, scaled) if rest else (scaled, [])


def calibrated_section(tested: System | None, systems: Sequence[System], scaled: Sequence[System]) -> list[str]:
    """The table of the scaled systems and the tests of one against the others, as lines of Markdown; none where none is.

    Args:
        tested: the system that is tested, before it was scaled.
        systems: those of the main table.
        scaled: those of this one.
    """
    if not scaled:
        return []
    heads = ["system", "n", "T", "dev rows", *COLUMNS.values()]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    edges = False
    for system in scaled:
        numbers = [cell(measure(system.score, column), column == "jsd") for column in COLUMNS]
        fitted, edges = system.temperatures, edges or system.is_at_the_edge
        cells = [
            _span([t for t, _ in fitted], ".2f") + " (edge)" * system.is_at_the_edge,
            _span([rows for _, rows in fitted], ",d"),
            *numbers,
        ]
        lines.append(f"| {system.name} | {system.score['n']} | " + " | ".join(cells) + " |")
    said = [
        "One temperature T for each system, run and fold, fitted to jsd on dev; below 1 it sharpens. These answers are nearer to "
        "the votes, not to what people would say; kl says more of that. T counts as known in intervals and p."
    ]
    if edges:
        said.append(
            f"(edge): T is at an end of its search ({1 / HIGHEST:g} or {1 / LOWEST:g}), so answers are nearly one-hot or uniform, "
            "and a better T may lie beyond."
        )
    folders = {_folders(one) for one in scaled}
    if missing := [
        system.name for system in systems if not system.runs[0].calibration and _folders(system) not in folders
    ]:
        said.append(f"Without such a temperature, or not in all runs: {', '.join(missing)}.")
    lines += ["", " ".join(said), ""]
    ours = next((one for one in scaled if tested and _folders(one) & _folders(tested)), None)
    if ours and (against := pairwise_tests(ours, scaled)):
        lines += [*table_of_tests(ours, against), "", f"Below 0, {ours.name} is nearer; as above in all else.", ""]
    return lines


def _folders(system: System) -> frozenset[str]:
    return frozenset(str(run.folder.resolve()) for run in system.runs)


def _span(numbers: Sequence[float], form: str) -> str:
    """The least and the largest of some numbers, or one where they are alike.

    >>> _span([0.5, 0.714], ".2f"), _span([164, 164], ",d"), _span([], ",d")
    ('0.50 to 0.71', '164', '–')
    """
    shown = list(dict.fromkeys(f"{number:{form}}" for number in sorted(numbers)))
    return "–" if not shown else shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}"


def what_they_were(runs: Sequence[Run]) -> list[str]:
    """As lines of Markdown; none where no run has a record."""
    trained = [run for run in {run.folder: run for run in runs}.values() if run.training.get("command")]
    if not trained:
        return []
    lines = [
        "<details><summary>Every run: its cost and its command</summary>",
        "",
        "| run | seed | minutes | peak memory (MB) | precision | trained parameters | chosen on dev | split | manifest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in trained:
        found = run.training
        minutes = f"{found['seconds'] / 60:.1f}" + (" (since a resume)" if found.get("resumed") else "")
        minutes += f" (all of {found['folds']} folds)" if found.get("folds") else ""
        minutes += f" ({found['processes']} processes)" if found.get("processes", 1) > 1 else ""
        parameters = f"{found['trained_parameters']:,}" if found.get("trained_parameters") else "–"
        memory = f"{found['peak_mb']:,}"
        if found.get("peak_gpu_mb"):
            memory += f" ({found.get('gpu', 'GPU')}: {found['peak_gpu_mb']:,})"
        name, sha = run_name(found, run.folder), found["manifest_sha256"][:8]
        chosen = "yes" if found.get("tuned") or found.get("chosen") else "no" if parameters != "–" else "–"
        split = (found.get("data", {}).get("split_sha256") or "–")[:8]
        cells = [name, found["seed"], minutes, memory, found.get("precision", "–"), parameters, chosen, split, sha]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        "Chosen on dev: whether a run chose settings there; the others have those of their command and its file. Split and "
        "manifest: the first digits of their sha256.",
        "",
    ]
    lines += [*_choices(trained), "Commands:", ""]
    commands = [line for run in trained for line in (*run.training.get("before", []), run.training["command"])]
    lines += [f"    {command}" for command in dict.fromkeys(commands)]
    used = dict.fromkeys(
        ", ".join(f"{name} {number}" for name, number in run.training["versions"].items()) for run in trained
    )
    revisions = (run.training.get("revision") or "" for run in trained)  # of folds: several, with commas
    commits = dict.fromkeys(commit for joined in revisions for commit in joined.split(", ") if commit)
    code = f" Commit of the code: {', '.join(commits)}." if commits else ""
    lines += ["", f"{_base_models(trained)} Versions: {'; or '.join(used)}.{code}"]
    return [*lines, "", "</details>", ""]


def _base_models(trained: Sequence[Run]) -> str:
    """Language model and encoder, each with the hash of its weights."""
    sentences = []
    for what, key in (("Language model", "lm"), ("Encoder", "encoder")):
        found = {(run.training[key], run.training[f"{key}_sha256"][:16]) for run in trained if run.training.get(key)}
        if found:
            named = "; ".join(f"{name}, sha256 {sha or 'not known'}" for name, sha in sorted(found))
            sentences.append(f"{what} {named}.")
    return " ".join(sentences)


def _choices(trained: Sequence[Run]) -> list[str]:
    """What was tried on dev for the runs whose settings were chosen there; the one kept in bold."""
    lines = []
    for run in trained:
        if not (tuned := run.training.get("tuned")):
            continue
        name, seed = run_name(run.training, run.folder), run.training["seed"]
        if isinstance(tuned, list):  # of each fold of a cross-validation
            chosen = [(f"{seed}, fold {fold}", one) for fold, one in enumerate(tuned)]
        else:
            chosen = [(str(seed), tuned)]
        for which, found in chosen:
            best = min(found["tried"], key=lambda one: one["jsd"])
            cells = []
            for one in found["tried"]:
                text = f"{in_words(one['settings'])}: {one['jsd']:.3f}"
                cells.append(f"**{text}**" if one is best else text)
            lines.append(f"| {name} | {which} | {found['rows']} | {'; '.join(cells)} |")
    if not lines:
        return []
    heads = ["Settings chosen on dev, by jsd:", "", "| run | seed | dev rows | tried |", "|---|---|---|---|"]
    at_the_end = "Where the best is the smallest or the largest that was tried, one beyond it may be better still."
    return [*heads, *lines, "", at_the_end, ""]


PICTURES = ("jsd", "terciles", "reliability", "entropy", "confusion", "training")


def write_report(
    experiments: Sequence[Path],
    out: Path,
    data: Path | None = None,
    title: str = "Results",
    notes: Sequence[str] = (),
    reference: str | None = None,
) -> None:
    """Write one table of several systems as Markdown; CSV, LaTeX and pictures go beside it.

    Args:
        experiments: folders of systems with a score.json, or of experiments; or files of `score`.
        out: the Markdown file.
        data: folder of the manifest's summary.json: caveat and split.
        title, notes: heading, and paragraphs under it.
        reference: system to test against every other, and to draw; SHALA where None.

    Raises:
        UserError: there are no scores, or no such system.
    """
    runs = find_runs(experiments)
    systems, scaled = apart(gather(runs))
    rows = table_rows(systems)
    lines = [f"# {title}", ""]
    for paragraph in notes:
        lines += [paragraph, ""]
    if data is not None:
        summary = read_json(data / "summary.json")
        if "split_sha256" not in summary:
            raise UserError(
                f"--data {data}: its summary.json is of something else; `shala-audio data prepare` writes one"
            )
        lines += _about(summary)
    lines += [markdown(rows), _key(systems), ""]
    tested = find_reference(systems, reference)
    if tests := against_others(tested, systems) if tested else []:
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
            "Concordance (CCC) of the predicted attributes with the raters' means.",
            "",
        ]
    lines += calibrated_section(tested, systems, scaled)
    lines += what_they_were(runs)
    lines += _pictures(systems, tested or systems[-1], rows, out)
    every = [*rows, *((system.name, system.score) for system in scaled)]
    write_text(out.with_suffix(".csv"), as_csv(every))
    write_text(out.with_suffix(".tex"), latex(every))
    write_text(out, "\n".join(lines))
    _show(rows, title)


def _show(rows: Any, title: str) -> None:
    """The measures that matter most, on the terminal."""
    from rich.console import Console
    from rich.table import Table

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
    from shala_audio.evaluation.score import FRESH, ONE_LABEL_EACH

    counts = sorted({len(system.runs) for system in systems})
    groups = systems[0].score["jsd"].get("groups")
    over = (
        f"interval over {groups} groups of rows (speakers or premises)"
        if groups
        else "bootstrap interval over the rows"
    )
    spread = f"jsd with its 95 % {over}, other metrics have theirs in the CSV file"
    if counts[-1] > 1:
        seeds = f"{counts[0]} to {counts[-1]} seeds" if counts[0] < counts[-1] else f"{counts[0]} seeds"
        most = max(systems, key=lambda system: len(system.rows)).rows
        if len(most) > 1:
            same = all(rows.keys() == most[0].keys() for rows in most)
            seeds += ", on the same test rows" if same else ", each with test rows of its own"
        spread = f"mean ± standard deviation over {seeds}; jsd with its 95 % {over} too"
    ties = systems[0].score.get("ties", 0)
    shared = closeness([(system.name, system.score) for system in systems])[len(CLOSENESS) :]
    less = "".join(f", {column}" for column in shared if column != "micro_f1")
    lines = [
        f"Less is better for jsd, jsd_nats, kl{less}, more for the rest; {spread}. Accuracy, F1 and UAR are against the "
        f"raters' plurality label; {ties} rows that have none are left out of them. kl takes predictions below {FLOOR:g} as {FLOOR:g}."
    ]
    first = systems[0].score
    if (kind := first.get("agreement_bound", {}).get("kind")) in (FRESH, ONE_LABEL_EACH):
        fewer = first["agreement_bound"]["n"] < first["n"]
        raters = f", of the {first['agreement_bound']['n']} rows with several votes" if fewer else ""
        lines.append(f"The human agreement bound is as many votes, drawn anew from each row's own{raters}.")
        lines.append(
            "Other people would be somewhat further off. It has no kl."
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
            f"Without the rows' distances, and so not tested (`shala-audio evaluate score` writes them): {', '.join(untold)}."
        )
    return " ".join(lines)


def _thirds(system: System) -> str:
    terciles = system.score.get("terciles", {})
    counts = ", ".join(str(terciles.get(third, {}).get("n", 0)) for third in ("low", "middle", "high"))
    said = f"Thirds of the rows by the raters' entropy ({counts} rows); rows of equal entropy stay together."
    return said


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
    shown["reliability"] = f"predicted against human entropy, in bins{first}"
    plots.plot_entropy(drawn, place("entropy"))
    plots.plot_confusion(drawn, place("confusion"))
    shown |= {
        "entropy": f"human and predicted entropy, {drawn.name}{its}",
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
