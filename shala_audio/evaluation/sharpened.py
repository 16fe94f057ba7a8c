"""Systems after a temperature of their own that brings jsd down on dev: a table, and the tests among them.

The expected divergence, and often the distance, is least for an answer sharper than the mean of what may be. A loss of that
kind teaches sharpness, cross-entropy does not, and one number fitted on dev gives it to either: so systems are compared after
that, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from shala_audio.evaluation.calibration import sharpening
from shala_audio.evaluation.results import Run, System
from shala_audio.evaluation.rivals import rivals, table_of_tests
from shala_audio.evaluation.tables import cell, measure

KIND = "temperature_jsd"
COLUMNS = {
    "jsd": "jsd",
    "jsd_nats": "jsd_nats",
    "kl": "kl",
    "low": "least contested third",
    "middle": "middle third",
    "high": "most contested third",
}


def apart(systems: Sequence[System]) -> tuple[list[System], list[System]]:
    """Systems, and apart from them those that were sharpened. Where nothing else is there, these are the systems."""
    sharpened = [system for system in systems if system.runs[0].calibration == KIND]
    rest = [system for system in systems if system not in sharpened]
    return (rest, sharpened) if rest else (sharpened, [])


def section(tested: System | None, systems: Sequence[System], sharpened: Sequence[System]) -> list[str]:
    """The table of the sharpened systems and the tests of one against the others, as lines of Markdown; none where none is.

    Args:
        tested: the system that is tested, before it was sharpened.
        systems: those of the main table.
        sharpened: those of this one.
    """
    if not sharpened:
        return []
    heads = ["system", "n", "T", "dev rows", *COLUMNS.values()]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for system in sharpened:
        numbers = [cell(measure(system.score, column), column == "jsd") for column in COLUMNS]
        fitted = [one for run in system.runs for one in _fitted(run)]
        cells = [_span([t for t, _ in fitted], ".2f"), _span([rows for _, rows in fitted], ",d"), *numbers]
        lines.append(f"| {system.name} | {system.score['n']} | " + " | ".join(cells) + " |")
    said = [
        "Each with a temperature T of its own (of every run or fold) that brings jsd down on dev: below 1 it sharpens, "
        "above it flattens; 0.02 and 50 are the ends of the search. Nobody knows exactly how a few people will vote, and "
        "the answer that then has the least expected jsd is often surer than an honest guess at their shares. SHALA's "
        "loss teaches some of that sureness and cross-entropy none, so the first table compares sureness, too. Here the "
        "sureness of all is fitted alike, and what is left are differences from row to row. These answers are nearer to "
        "the votes, not to what people would say; kl says more of that. T counts as known in intervals and p."
    ]
    places = {_folders(one) for one in sharpened}
    if missing := [
        system.name for system in systems if not system.runs[0].calibration and _folders(system) not in places
    ]:
        said.append(f"Without such a temperature, or not in all runs: {', '.join(missing)}.")
    lines += ["", " ".join(said), ""]
    ours = next((one for one in sharpened if tested and _folders(one) & _folders(tested)), None)
    if ours and (against := rivals(ours, sharpened)):
        lines += [*table_of_tests(ours, against), "", f"Below 0, {ours.name} is nearer; as above in all else.", ""]
    return lines


def _folders(system: System) -> frozenset[str]:
    return frozenset(str(run.folder.resolve()) for run in system.runs)


def _fitted(run: Run) -> list[tuple[float, int]]:
    """T and the dev rows that it was fitted on: of a cross-validation, of every fold."""
    if "temperatures" in run.training:
        return [(float(t), int(rows)) for t, rows in run.training["temperatures"]]
    found = sharpening(run.folder)
    return [found] if found else []


def _span(numbers: Sequence[float], form: str) -> str:
    """The least and the largest of some numbers, or one where they are alike.

    >>> _span([0.5, 0.714], ".2f"), _span([164, 164], ",d"), _span([], ",d")
    ('0.50 to 0.71', '164', '–')
    """
    shown = list(dict.fromkeys(f"{number:{form}}" for number in sorted(numbers)))
    return "–" if not shown else shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}"
