"""Tables of measures in Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[tuple[str, Mapping[str, Any]]]

CLOSENESS = ("jsd", "jsd_nats", "kl", "bhattacharyya", "accuracy", "macro_f1", "weighted_f1", "uar")
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


def markdown(rows: Rows, columns: Sequence[str] = CLOSENESS) -> str:
    """One table; the first column of numbers has its interval, the others have it in the CSV."""
    heads = [HEADS.get(column, column) for column in columns]
    lines = ["| system | n | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(columns)]
    for name, measures in rows:
        cells = [cell(measure(measures, column), interval=column == columns[0]) for column in columns]
        lines.append(f"| {name} | {measures['n']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def as_csv(rows: Rows) -> str:
    """Every measure with its interval (or deviation over seeds), one line a system and measure. `groups`: how many speakers
    or premises the interval is over; where it is empty, the interval is over rows."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["system", "n", "measure", "value", "low", "high", "sd", "groups"])
    for name, measures in rows:
        attributes = sorted(key for key in measures if key.startswith("ccc_"))
        closeness = (*CLOSENESS, "total_variation")
        lines = {column: measures.get(column) or {} for column in closeness}
        for third in THIRDS:
            within = measures.get("terciles", {}).get(third, {})
            lines |= {f"{column}_{third}_tercile": within.get(column) or {} for column in closeness}
        lines |= {column: measures.get(column) or {} for column in (*AMBIGUITY, *attributes) if column not in THIRDS}
        for label, found in lines.items():
            if found.get("value") is not None:
                ends = [found.get(end) for end in ("value", "low", "high", "sd")]
                numbers = ["" if number is None else f"{number:.6f}" for number in ends]
                writer.writerow([name, measures["n"], label, *numbers, found.get("groups", "")])
    return out.getvalue()


def latex(rows: Rows, columns: Sequence[str] = CLOSENESS) -> str:
    """A tabular for `booktabs`."""
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
