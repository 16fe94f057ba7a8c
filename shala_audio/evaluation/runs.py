"""Scored systems of experiments, for tables and pictures; runs that differ in nothing but the seed are one system."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shala_audio.errors import UserError
from shala_audio.evaluation.calibration import KINDS, fitted_temperature, is_at_the_edge
from shala_audio.evaluation.score import ByRow, distances_beside, read_score, set_jsd_intervals
from shala_audio.evaluation.tuning import without_choice
from shala_audio.io import read_json

# Order of the table; systems that are not named here follow in the order they were given.
ORDER = (
    "constant", "zero_shot", "few_shot", "linear", "attentive", "sft_hard", "sft_soft", "warm_start", "grpo_majority",
    "grpo_jsd", "shala_unweighted", "shala_static", "shala_dynamic", "shala", "shala_exact",
)  # fmt: skip
COUNTS = ("n", "ties", "without_votes", "unpredicted")  # of rows


@dataclass(frozen=True)
class Run:
    """One scored set of predictions.

    Attributes:
        system: method, readout and calibration, as the table names it.
        folder: where it lies.
        score: its measures, as `score` wrote them.
        training: `training.json`; empty where there is none.
        calibration: what was applied to the predictions, if anything.
        rows: what is known of single rows; empty where that does not lie beside the score.
    """

    system: str
    folder: Path
    score: Mapping[str, Any]
    training: Mapping[str, Any]
    calibration: str = ""
    rows: ByRow = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """Runs that differ in the seed alone, and in what each chose on dev between the same settings."""

    name: str
    runs: Sequence[Run]

    @cached_property
    def score(self) -> Mapping[str, Any]:
        """Measures, as means over the runs; where there are several, `sd` beside `value`, and no interval but jsd's."""
        return merge([run.score for run in self.runs], [run.rows for run in self.runs])

    @cached_property
    def temperatures(self) -> list[tuple[float, int]]:
        """T of every run, or of every fold, and the dev rows that it was fitted on; none where no temperature was."""
        found: list[tuple[float, int]] = []
        for run in self.runs:
            if run.calibration == "temperature_jsd" and "temperatures" in run.training:
                found += [(float(t), int(rows)) for t, rows in run.training["temperatures"]]
            elif fitted := fitted_temperature(run.folder, run.calibration):
                found.append(fitted)
        return found

    @property
    def is_at_the_edge(self) -> bool:
        """Whether a temperature ended where its search does."""
        return any(is_at_the_edge(t) for t, _ in self.temperatures)

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """jsd by row of every run that has it."""
        return [run.rows["jsd"] for run in self.runs if run.rows]

    @property
    def groups(self) -> Mapping[str, Any]:
        """Groups of its rows, by row."""
        return {key: group for run in self.runs for key, group in run.rows.get("group", {}).items()}


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Runs in folders: a system's own (`score.json` in it) or an experiment's (systems in it; its `pack` is a copy of one).

    In place of a folder, a file that `score` wrote is a system, named as the file, or as its folder where it is `score.json`.

    Raises:
        UserError: a folder has neither, or there is no such file.
    """
    runs: list[Run] = []
    for folder in folders:
        if folder.suffix == ".json":
            runs.append(_of_file(folder))
            continue
        own = (
            [folder] if (folder / "score.json").is_file() else sorted(p.parent for p in folder.glob("[!.]*/score.json"))
        )
        own = [place for place in own if place.name != "pack" or place == folder]
        if not own:
            raise UserError(
                f"{folder}: has no score.json, and neither has a folder in it; `shala-audio evaluate score` makes one"
            )
        for place in own:
            runs += map(_of_file, sorted(place.glob("score*.json")))
    return runs


def run_name(training: Mapping[str, Any], folder: Path) -> str:
    """Method and readout of a run; its folder's name where it has no record of them."""
    return str(training.get("method", folder.name)) + (f" ({training['readout']})" if training.get("readout") else "")


def _of_file(path: Path) -> Run:
    """A run by its file of measures: named by the record of its training or its folder; `mine.json` by itself."""
    folder = path.parent.resolve()
    if path.stem != "score" and not path.stem.startswith("score_"):
        calibration = next((kind for kind in KINDS if path.stem.endswith(f"_{kind}")), "")
        name = path.stem.removesuffix(f"_{calibration}") + f" + {calibration}" if calibration else path.stem
        return _read(path, name, {}, calibration)
    training = read_json(folder / "training.json") if (folder / "training.json").is_file() else {}
    name = run_name(training, folder)
    name = "constant prior" if name == "prior" else name
    calibration = path.stem.removeprefix("score").removeprefix("_")
    if calibration:
        name += f" + {calibration}"
    return _read(path, name, training, calibration)


def _read(path: Path, name: str, training: Mapping[str, Any], calibration: str) -> Run:
    score, distances = read_score(path), distances_beside(path)
    if not isinstance(score, dict) or "value" not in score.get("jsd", {}):
        raise UserError(f"{path}: holds no measures; `shala-audio evaluate score` makes such a file")
    rows = read_score(distances) if distances.is_file() else {}
    if rows and not {"jsd", "group"} <= rows.keys():
        raise UserError(f"{distances}: is of another version; run `shala-audio evaluate score` again")
    return Run(name, path.parent, score, training, calibration, rows)


def gather(runs: Sequence[Run]) -> list[System]:
    """Systems in the order of the table: runs of one method and readout with the same settings, differing in the seed and in
    what they chose on dev between the same settings.

    Runs of other settings, starts, inputs or parts of a corpus are systems of their own, named by their folders as well,
    and so are runs without a record of their training. A run that is there twice (the constant prior of two experiments on
    one split) counts once.

    Raises:
        UserError: two runs of one system have the same seed and other results.
    """
    named: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        made = {key: run.training.get(key) for key in ("model", "task", "modality", "folds", "start")}
        made["settings"] = without_choice(run.training)
        of_data = ("max_rows", "part", "fold", "secondary", "caveat")
        made["data"] = {key: run.training.get("data", {}).get(key) for key in of_data}
        settings = json.dumps(made, sort_keys=True)
        variants = named.setdefault(run.system, {})
        alike = [other for members in variants.values() for other in members if other.score == run.score]
        if any(other.training.get("seed") == run.training.get("seed") for other in alike):
            continue
        if not run.training:
            settings = str(run.folder)  # nothing says that another run of that name is the same system
        members = variants.setdefault(settings, [])
        if twins := [other for other in members if other.training.get("seed") == run.training.get("seed")]:
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


def merge(scores: Sequence[Mapping[str, Any]], rows: Sequence[ByRow] = ()) -> Mapping[str, Any]:
    """Mean measures of several runs, with their deviation; of one run, and where all have the same, those.

    Args:
        scores: one or more.
        rows: what each knows of single rows. Where all do, `n` counts the rows that differ, and jsd (the bound's too) has
            its interval over them, or over the speakers or premises that they share. Other counts are those of all runs
            together, or of one, where all were judged on the same rows.
    """
    known = [one for one in rows if one]
    complete = len(known) == len(scores)
    if len(scores) == 1:
        merged = deepcopy(dict(scores[0]))
    else:
        alike = complete and all(one["jsd"].keys() == known[0]["jsd"].keys() for one in known)
        merged = {"runs": len(scores), **_merge(scores, alike)}
    if complete:
        set_jsd_intervals(merged, known)
    return merged


def _merge(scores: Sequence[Mapping[str, Any]], alike: bool) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for key, first in scores[0].items():
        values: list[Any] = [score.get(key) for score in scores]
        if alike and all(value == first for value in values):
            merged[key] = deepcopy(first)
        elif isinstance(first, Mapping) and "value" in first:
            merged[key] = _mean(values)
        elif isinstance(first, Mapping):
            merged[key] = _merge([value for value in values if isinstance(value, Mapping)], alike)
        elif key in COUNTS:
            merged[key] = first if alike else sum(value for value in values if value is not None)
        elif key == "confusion":
            merged[key] = np.sum([value for value in values if value is not None], axis=0).tolist()
        else:
            merged[key] = first
    return merged


def _mean(values: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    known = [value["value"] for value in values if value and value["value"] is not None]
    if not known:
        return {"value": None, "sd": None}
    return {"value": float(np.mean(known)), "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def table_rows(systems: Sequence[System]) -> list[tuple[str, Mapping[str, Any]]]:
    """Systems by name with their measures, between the constant prior and what the raters themselves reach."""
    first = systems[0].score
    rows: list[tuple[str, Mapping[str, Any]]] = []
    if "prior" in first and all(system.runs[0].system != "constant prior" for system in systems):
        rows.append(("constant prior", first["prior"]))
    rows += [(system.name + " (edge)" * system.is_at_the_edge, system.score) for system in systems]
    if "agreement_bound" in first:
        rows.append((f"human agreement bound: {first['agreement_bound']['kind']}", first["agreement_bound"]))
    if "split_half" in first:
        rows.append(("raters: one half against the other", first["split_half"]))
    return rows
