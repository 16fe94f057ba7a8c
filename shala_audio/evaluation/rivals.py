"""One system of a table against every other: paired tests on the rows that both were judged on."""

from __future__ import annotations

from collections.abc import Sequence

from shala_audio.errors import not_one_of
from shala_audio.evaluation.compare import FEWEST_GROUPS, Paired, holm, paired
from shala_audio.evaluation.results import System

# What SHALA is compared as, where a table has several forms of it: the first of these.
REFERENCES = ("shala_exact", "shala", "shala_static", "shala_dynamic", "shala_unweighted")


def reference(systems: Sequence[System], name: str | None = None) -> System | None:
    """The system to test against all others: the one of that name, or SHALA, not calibrated; None where there is no SHALA.

    Args:
        systems: of the table.
        name: a system's, or its first word.

    Raises:
        UserError: no system has that name.
    """
    named = {system.name.split(" ")[0]: system for system in reversed(systems) if not system.runs[0].calibration}
    if name is not None:
        named |= {system.name: system for system in systems}
        if name not in named:
            raise not_one_of("--reference", name, list(named))
        return named[name]
    return next((named[name] for name in REFERENCES if name in named), None)


def rivals(ours: System, systems: Sequence[System]) -> list[tuple[System, Paired, float]]:
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
    if not (against := rivals(ours, systems)):
        return []
    lines = [f"| {ours.name} against | rows | jsd, less the other's | p | p, corrected |", "|---|---|---|---|---|"]
    for other, one, corrected in against:
        gap = f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
        lines.append(f"| {other.name} | {one.rows} | {gap} | {one.p:.4f} | {corrected:.4f} |")
    groups = {one.groups for _, one, _ in against}
    number = f"{min(groups)}" if len(groups) == 1 else f"{min(groups)} to {max(groups)}"
    if all(one.by_group for _, one, _ in against):
        drawn = f"Rows of one speaker, or on one premise, are drawn and flipped together ({number} such groups)."
    elif max(groups) < FEWEST_GROUPS:
        drawn = (
            f"All rows are of {number} speakers, too few to draw and flip them: interval and p are about other clips of "
            "these speakers, and other speakers may say otherwise."
        )
    else:
        drawn = "Rows count as independent."
    return [
        *lines,
        "",
        f"Below 0, {ours.name} is nearer to the raters. Paired by row (of several seeds, its mean), with a bootstrap "
        "interval and 10,000 random signs, so 0.0001 is the least that p can be; corrected for the number of systems (Holm). "
        f"{drawn} Seeds count as given: another training may say otherwise.",
        "",
    ]
