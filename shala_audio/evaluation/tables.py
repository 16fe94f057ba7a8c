"""One table of several systems' scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("jsd", "jsd_nats", "kl", "bhattacharyya", "accuracy", "macro_f1", "uar")


def table_rows(scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Systems in order, between the constant prior and the ceiling, which stand in any of their scores."""
    first = next(iter(scores.values()))
    rows: list[tuple[str, Mapping[str, Any]]] = []
    if "prior" in first:
        rows.append(("constant prior", first["prior"]))
    rows += list(scores.items())
    if "ceiling" in first:
        rows.append(("ceiling (true distribution)", first["ceiling"]))
    return rows


def cell(measures: Mapping[str, Any], column: str) -> str:
    """A number with three decimals; jsd with its interval; a dash where there is none."""
    value = measures.get(column)
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value:.3f}"


def markdown(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    lines = ["| system | n | " + " | ".join(COLUMNS) + " |", "|---|---|" + "---|" * len(COLUMNS)]
    for name, measures in table_rows(scores):
        cells = " | ".join(cell(measures, column) for column in COLUMNS)
        lines.append(f"| {name} | {measures['n']} | {cells} |")
    return "\n".join(lines) + "\n"
