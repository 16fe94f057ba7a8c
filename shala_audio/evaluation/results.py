"""Scored systems of experiments, for tables and pictures; runs that differ in nothing but the seed are one system."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shala_audio.errors import UserError
from shala_audio.evaluation.compare import mean_by_row, mean_interval
from shala_audio.evaluation.score import distances_beside
from shala_audio.evaluation.tuning import without_choice
from shala_audio.files import read_json

# Order of the table; systems that are not named here follow in the order they were given.
ORDER = (
    "constant", "zero_shot", "few_shot", "linear", "attentive", "sft_hard", "sft_soft", "warm_start", "grpo_majority",
    "grpo_jsd", "shala_unweighted", "shala_static", "shala_dynamic", "shala", "shala_exact",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One scored set of predictions.

    Attributes:
        system: method, readout and calibration, as the table names it.
        folder: where it lies; score: `score.json`, with `row_jsd` where the rows' distances lie beside it; training:
            `training.json`, empty where nothing was trained; calibration: what was applied to the predictions, if anything.
    """

    system: str
    folder: Path
    score: Mapping[str, Any]
    training: Mapping[str, Any]
    calibration: str = ""


@dataclass(frozen=True)
class System:
    """Runs that differ in the seed alone, and in what each chose on dev between the same settings."""

    name: str
    runs: Sequence[Run]

    @cached_property
    def score(self) -> Mapping[str, Any]:
        """Measures, as means over the runs; `sd` beside `value` and no interval where there are several."""
        return merge([run.score for run in self.runs])

    @property
    def rows(self) -> list[Mapping[str, float]]:
        """jsd by row of every run that has it."""
        return [run.score["row_jsd"] for run in self.runs if "row_jsd" in run.score]


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Runs in folders: a system's own (`score.json` in it) or an experiment's (systems in it; its `pack` is a copy of one).

    Raises:
        UserError: a folder has neither.
    """
    runs: list[Run] = []
    for folder in folders:
        own = (
            [folder] if (folder / "score.json").is_file() else sorted(p.parent for p in folder.glob("[!.]*/score.json"))
        )
        own = [place for place in own if place.name != "pack" or place == folder]
        if not own:
            raise UserError(
                f"{folder}: has no score.json, and neither has a folder in it; `shala-audio score` makes one"
            )
        for place in own:
            runs += _runs_of(place)
    return runs


def run_name(training: Mapping[str, Any], folder: Path) -> str:
    """Method and readout of a run; its folder's name where it has no record of them."""
    return str(training.get("method", folder.name)) + (f" ({training['readout']})" if training.get("readout") else "")


def _runs_of(folder: Path) -> Iterator[Run]:
    training = read_json(folder / "training.json") if (folder / "training.json").is_file() else {}
    name = run_name(training, folder)
    name = "constant prior" if name == "prior" else name
    for path in sorted(folder.glob("score*.json")):
        calibration = path.stem.removeprefix("score").removeprefix("_")
        score, distances = read_json(path), distances_beside(path)
        if distances.is_file():
            score["row_jsd"] = read_json(distances)
        yield Run(name + (f" + {calibration}" if calibration else ""), folder, score, training, calibration)


def gather(runs: Sequence[Run]) -> list[System]:
    """Systems in the order of the table: runs of one method and readout with the same settings, differing in the seed and in
    what they chose on dev between the same settings.

    Runs of other settings, starts, inputs or parts of a corpus are systems of their own, named by their folders as well. A
    run that is there twice (the constant prior of two experiments on one split) counts once.

    Raises:
        UserError: two runs of one system have the same seed and other results.
    """
    named: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        made = {key: run.training.get(key) for key in ("model", "task", "modality", "folds", "start")}
        made["settings"] = without_choice(run.training)
        made["data"] = {key: run.training.get("data", {}).get(key) for key in ("max_rows", "part")}
        settings = json.dumps(made, sort_keys=True)
        members = named.setdefault(run.system, {}).setdefault(settings, [])
        twins = [other for other in members if other.training.get("seed") == run.training.get("seed")]
        if any(other.score == run.score for other in twins):
            continue
        if run.training and twins:
            places = ", ".join(str(one.folder) for one in (*twins, run))
            raise UserError(f"{run.system}: two runs with the same seed and settings ({places})")
        members.append(run)
    systems: list[System] = []
    for name, variants in named.items():
        for members in variants.values():
            folder = members[0].folder
            place = f" [{folder.parent.name}/{folder.name}]" if len(variants) > 1 else ""
            systems.append(System(name + place, members))

    def rank(system: System) -> int:
        method = system.name.split(" ")[0]
        return ORDER.index(method) if method in ORDER else len(ORDER)

    return sorted(systems, key=rank)


def merge(scores: Sequence[Mapping[str, Any]], alike: bool | None = None) -> Mapping[str, Any]:
    """Mean measures of several runs; one run stays as it is.

    Where the scores hold the rows' own distances, `n` counts the rows that differ, and `jsd` has the interval over them too.
    Other counts are those of all runs together, or of one, where all were judged on the same rows (`alike`, found if None).
    """
    if len(scores) == 1:
        return scores[0]
    by_row = [score["row_jsd"] for score in scores if "row_jsd" in score]
    if alike is None:
        alike = len(by_row) == len(scores) and all(rows.keys() == by_row[0].keys() for rows in by_row)
    merged: dict[str, Any] = {"runs": len(scores)}
    for key, first in scores[0].items():
        values: list[Any] = [score.get(key) for score in scores]
        if key == "row_jsd":
            continue
        if isinstance(first, Mapping) and "value" in first:
            merged[key] = _mean(values)
        elif isinstance(first, Mapping):
            merged[key] = merge([value for value in values if isinstance(value, Mapping)], alike)
        elif key in ("n", "ties", "without_votes", "unpredicted"):
            merged[key] = first if alike else sum(value for value in values if value is not None)
        elif key == "confusion":
            merged[key] = np.sum(values, axis=0).tolist()
        else:
            merged[key] = first
    if len(by_row) == len(scores):
        rows = mean_by_row(by_row)
        low, high = mean_interval(np.array(list(rows.values())))
        merged["n"] = len(rows)
        merged["jsd"] = {**merged["jsd"], "low": low, "high": high}
    return merged


def _mean(values: Sequence[Mapping[str, Any]]) -> Mapping[str, float | None]:
    known = [value["value"] for value in values if value and value["value"] is not None]
    if not known:
        return {"value": None, "sd": None}
    return {"value": float(np.mean(known)), "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def table_rows(systems: Sequence[System]) -> list[tuple[str, Mapping[str, Any]]]:
    """Systems by name with their measures, between the constant prior and what the raters themselves reach."""
    first = systems[0].score
    rows: list[tuple[str, Mapping[str, Any]]] = []
    if "prior" in first and all(system.name != "constant prior" for system in systems):
        rows.append(("constant prior", first["prior"]))
    rows += [(system.name, system.score) for system in systems]
    if "ceiling" in first:
        rows.append((f"ceiling: {first['ceiling']['kind']}", first["ceiling"]))
    if "split_half" in first:
        rows.append(("ceiling: half of the raters against the other", first["split_half"]))
    return rows
