"""Of runs that differ in a setting, keep the one whose dev predictions are closest to the raters."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shala_audio.distribution import jsd
from shala_audio.errors import UserError
from shala_audio.evaluation.score import load_judged
from shala_audio.files import read_json, remove_folder, sync_folder, write_json
from shala_audio.tasks import task_from_dict


def choose_run(runs: Sequence[Path], manifest: Path, out: Path) -> list[tuple[dict[str, Any], float]]:
    """Copy the best run to `out`, whose `training.json` then says what was tried (`tuned`).

    Args:
        runs: folders of trained models with `predictions_dev.jsonl`, two or more.
        manifest: rows with votes.
        out: folder, which is replaced.

    Returns:
        For each run in turn the settings in which the runs differ, and its mean jsd on dev (0 to 1); the first of several
        equal ones is kept.

    Raises:
        UserError: a run is not finished, its predictions are of other rows than dev or than another run's, or all runs have
            the same settings.
    """
    if len(runs) < 2:
        raise UserError("name two runs or more to choose from")
    records = [read_json(run / "training.json") for run in runs]
    varied = [
        name
        for name in sorted({name for record in records for name in record["settings"]})
        if any(record["settings"].get(name) != records[0]["settings"].get(name) for record in records)
    ]
    if not varied:
        raise UserError(f"{runs[0]}: has the same settings as the other runs, so there is nothing to choose")
    distances, rows = [], []
    for run in runs:
        labels = task_from_dict(read_json(run / "shala.json")["task"], str(run / "shala.json")).label_names
        judged = load_judged(run / "predictions_dev.jsonl", manifest, labels)
        if others := sorted({row.split for row in judged.rows} - {"dev"}):
            raise UserError(f"{run / 'predictions_dev.jsonl'}: has rows of {', '.join(others)}; choose on dev alone")
        distances.append(float(jsd(judged.human, judged.predicted).mean()))
        rows.append({row.id for row in judged.rows})
        if rows[-1] != rows[0]:
            raise UserError(f"{run / 'predictions_dev.jsonl'}: predicts other rows than {runs[0]}")
    best = distances.index(min(distances))
    tried = [{name: record["settings"].get(name) for name in varied} for record in records]
    tuned = {
        "split": "dev",
        "rows": len(rows[0]),
        "tried": [{"settings": one, "jsd": value} for one, value in zip(tried, distances, strict=True)],
    }
    beside = out.with_name(f".{out.name}.chosen")
    shutil.rmtree(beside, ignore_errors=True)  # of a choice that was killed
    shutil.copytree(runs[best], beside)
    write_json(beside / "training.json", {**records[best], "tuned": tuned})
    sync_folder(beside)
    remove_folder(out)
    beside.rename(out)
    return list(zip(tried, distances, strict=True))


def without_choice(training: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run as they were before one was chosen: what was chosen between, in place of what was chosen.

    >>> tried = [{"settings": {"learning_rate": rate}, "jsd": 0.3} for rate in (1e-4, 1e-3)]
    >>> without_choice({"settings": {"learning_rate": 1e-3, "num_train_epochs": 3}, "tuned": {"tried": tried}})
    {'learning_rate': [0.0001, 0.001], 'num_train_epochs': 3}
    """
    settings = dict(training.get("settings", {}))
    tried = training.get("tuned", {}).get("tried", [])
    for name in {name for one in tried for name in one["settings"]}:
        settings[name] = [one["settings"][name] for one in tried]
    return settings
