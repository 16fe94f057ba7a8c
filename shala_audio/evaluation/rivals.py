"""One system of a table against every other: paired tests on the rows that both were judged on."""

from __future__ import annotations

from collections.abc import Sequence

from shala_audio.errors import not_one_of
from shala_audio.evaluation.compare import Paired, holm, paired
from shala_audio.evaluation.intervals import FEWEST_GROUPS
from shala_audio.evaluation.results import System

# What SHALA is compared as, where a table has several forms of it: the first of these.
REFERENCES = ("shala_exact", "shala", "shala_static", "shala_dynamic", "shala_unweighted")


def reference(systems: Sequence[System], name: str | None = None) -> System | None:
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
    return [*table_of_tests(ours, against), "", _in_words(ours, against), ""]


def table_of_tests(ours: System, against: Sequence[tuple[System, Paired, float]]) -> list[str]:
    """What `rivals` found, as the lines of a Markdown table."""
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
    if any(one.groups < FEWEST_GROUPS for _, one, _ in against):
        said.append(
            "Where none are named there are too few to flip: p and interval are about other rows of the same speakers (or "
            "premises), and others may say otherwise."
        )
    elif not all(one.by_group for _, one, _ in against):
        said.append("Where none are named, rows count as independent.")
    said.append("Seeds count as given: another training may say otherwise.")
    return " ".join(said)
