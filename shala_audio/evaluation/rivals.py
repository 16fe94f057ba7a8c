"""SHALA against every other system of a table: paired tests on the rows that both were judged on."""

from __future__ import annotations

from collections.abc import Sequence

from shala_audio.evaluation.compare import Paired, holm, paired
from shala_audio.evaluation.results import System

# What SHALA is compared as, where a table has several forms of it: as the recipe says, else the first of these.
REFERENCES = ("shala_exact", "shala", "shala_static", "shala_dynamic", "shala_unweighted")


def rivals(systems: Sequence[System]) -> tuple[System, list[tuple[System, Paired, float]]] | None:
    """SHALA against every other system, on the rows that both were judged on.

    Returns:
        SHALA, and for each other system the difference in jsd with its p-value, and that corrected for their number (Holm);
        None where there is no SHALA, or no score holds the distances of single rows.
    """
    named = {system.name.split(" ")[0]: system for system in reversed(systems) if not system.runs[0].calibration}
    ours = next((named[name] for name in REFERENCES if name in named), None)
    if ours is None:
        return None
    found = [(other, paired(ours.rows, other.rows)) for other in systems if other is not ours]
    known = [(other, one) for other, one in found if one is not None]
    if not known:
        return None
    corrected = holm([one.p for _, one in known])
    return ours, [(other, one, p) for (other, one), p in zip(known, corrected, strict=True)]


def against_others(systems: Sequence[System]) -> list[str]:
    """The tests as a Markdown table; nothing where there are none."""
    if (found := rivals(systems)) is None:
        return []
    ours, against = found
    lines = [f"| {ours.name} against | rows | jsd, less the other's | p | p, corrected |", "|---|---|---|---|---|"]
    for other, one, corrected in against:
        gap = f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
        lines.append(f"| {other.name} | {one.rows} | {gap} | {one.p:.4f} | {corrected:.4f} |")
    return [
        *lines,
        "",
        "Below 0, SHALA is nearer to the raters. Paired by row (of several seeds, its mean), with a bootstrap interval and "
        "10,000 random signs, so 0.0001 is the least that p can be; corrected for the number of systems (Holm). Rows count "
        "as independent, and seeds as given: other speakers or another training may say otherwise.",
        "",
    ]
