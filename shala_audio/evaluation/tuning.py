"""Of runs that differ in a setting, keep the one whose dev predictions are closest to the raters."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shala_audio.distribution import jsd
from shala_audio.errors import UserError
from shala_audio.evaluation.score import load_judged
from shala_audio.io import read_json, replace_folder, write_json
from shala_audio.task import task_from_dict

# Of `run.json`: what two runs have in common if only their settings differ.
NOT_COMPARABLE = ("method", "readout", "seed", "processes", "precision", "features", "manifest", "init", "model")


def choose_run(runs: Sequence[Path], manifest: Path, out: Path) -> list[tuple[dict[str, Any], float]]:
    """Copy the best run to `out`, whose `training.json` then says what was tried (`tuned`).

    Args:
        runs: folders of trained models with `predictions_dev.jsonl`, two or more, that differ in settings alone.
        manifest: rows with votes.
        out: folder; an earlier model there is replaced.

    Returns:
        For each run in turn the settings in which the runs differ, and its mean jsd on dev (0 to 1); the first of several
        equal ones is kept.

    Raises:
        UserError: a run is not finished, its predictions are not those of all dev rows with votes, the runs differ in more
            than settings or not at all, or `out` is no place for a copy.
    """
    if len(runs) < 2:
        raise UserError("name two runs or more to choose from")
    if out.exists() and not (out / "trained.safetensors").is_file():
        raise UserError(f"--out {out}: is there, and is no trained model that could be replaced")
    if any(out.resolve() == run.resolve() or out.resolve() in run.resolve().parents for run in runs):
        raise UserError(f"--out {out}: holds a run to choose from; name another folder")
    records = [read_json(run / "training.json") for run in runs]
    starts = [read_json(run / "run.json") for run in runs]
    differing = sorted(
        {name for start in starts for name in start if any(start.get(name) != other.get(name) for other in starts)}
    )
    if not differing:
        raise UserError(f"{runs[0]}: has the same settings as the other runs, so there is nothing to choose")
    if other := [name for name in differing if name in NOT_COMPARABLE]:
        raise UserError(f"{runs[0]}: has another {', '.join(other)} than another run; choose between settings alone")
    distances, rows = [], 0
    for run in runs:
        path = run / "predictions_dev.jsonl"
        task = task_from_dict(read_json(run / "shala.json")["task"], str(run / "shala.json"))
        judged = load_judged(path, manifest, task)
        if others := sorted({row.split for row in judged.rows} - {"dev"}):
            raise UserError(f"{path}: has rows of {', '.join(others)}; choose on dev alone")
        rows = sum(row.split == "dev" and bool(row.votes) for row in judged.manifest)
        if len(judged.rows) != rows:
            raise UserError(f"{path}: predicts {len(judged.rows)} of the {rows} dev rows with votes")
        distances.append(float(jsd(judged.human, judged.predicted).mean()))
    best = distances.index(min(distances))
    tried = [{name: start.get(name) for name in differing} for start in starts]
    tuned = {
        "split": "dev",
        "rows": rows,
        "tried": [{"settings": one, "jsd": value} for one, value in zip(tried, distances, strict=True)],
    }
    beside = out.with_name(f".{out.name}.chosen")
    shutil.rmtree(beside, ignore_errors=True)  # of a choice that was killed
    shutil.copytree(runs[best], beside)
    write_json(beside / "training.json", {**records[best], "tuned": tuned})
    replace_folder(beside, out)
    return list(zip(tried, distances, strict=True))


def in_words(settings: Mapping[str, Any]) -> str:
    """
    >>> in_words({"learning_rate": 0.001, "num_train_epochs": 3})
    'learning_rate 0.001, num_train_epochs 3'
    """
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def without_choice(training: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run as they were before one was chosen: what was chosen between, in place of what was chosen.

    >>> tried = [{"settings": {"learning_rate": rate}, "jsd": 0.3} for rate in (1e-4, 1e-3)]
    >>> without_choice({"settings": {"learning_rate": 1e-3, "num_train_epochs": 3}, "tuned": {"tried": tried}})
    {'learning_rate': [0.0001, 0.001], 'num_train_epochs': 3}
    """
    settings = dict(training.get("settings", {}))
    tuned = training.get("tuned", {})
    tried = (tuned[0] if isinstance(tuned, list) else tuned).get("tried", [])  # a list: of the folds, between the same
    for name in {name for one in tried for name in one["settings"]}:
        settings[name] = sorted((one["settings"][name] for one in tried), key=str)
    return settings
