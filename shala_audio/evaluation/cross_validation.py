"""Pool the folds of a cross-validation: every row is predicted by the one model that did not learn from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shala_audio.errors import UserError
from shala_audio.evaluation.calibration import fitted_temperature
from shala_audio.io import atomic_write, read_json, write_json
from shala_audio.manifest import Row, read_manifest, write_manifest


@dataclass(frozen=True)
class Fold:
    """An experiment's folder with one folder a system, and the manifest of its rows."""

    experiment: Path
    manifest: Path


def pool_folds(folds: Sequence[Fold], out: Path) -> list[str]:
    """Write `manifest.jsonl` (the test rows of all folds) and `<system>/predictions*.jsonl` into `out`.

    A system must be in every fold, and so must its calibrated predictions. Its `training.json` is the first fold's with the
    seconds and commands of all, and the largest peak.

    Returns:
        The systems.

    Raises:
        UserError: a row is in test twice, or is predicted twice or not at all; or a system is not in every fold.
    """
    rows: dict[str, Row] = {}
    for fold in folds:
        for row in read_manifest(fold.manifest, "test"):
            if row.id in rows:
                raise UserError(f"{fold.manifest}: row {row.id} is in the test split of another fold too")
            rows[row.id] = row
    write_manifest(out / "manifest.jsonl", rows.values())
    names = [{path.parent.name for path in fold.experiment.glob("*/predictions.jsonl")} for fold in folds]
    systems = sorted(set.union(*names))
    if not systems:
        raise UserError(f"no system has predictions in {', '.join(str(fold.experiment) for fold in folds)}")
    for fold, there in zip(folds, names, strict=True):
        if missing := [name for name in systems if name not in there]:
            raise UserError(f"{fold.experiment}: has no predictions of {', '.join(missing)}, which another fold has")
    for system in systems:
        files = {path.name for fold in folds for path in (fold.experiment / system).glob("predictions*.jsonl")}
        for name in sorted(files - {"predictions_dev.jsonl"}):
            merge_predictions([fold.experiment / system / name for fold in folds], rows, out / system / name)
        records = [fold.experiment / system / "training.json" for fold in folds]
        if all(record.is_file() for record in records):
            found = [read_json(record) for record in records]
            cost: dict[str, Any] = {}
            if all("seconds" in one for one in found):  # the constant prior has none
                cost["seconds"] = sum(one["seconds"] for one in found)
                cost["peak_mb"] = max(one["peak_mb"] for one in found)
            if any(one.get("resumed") for one in found):
                cost["resumed"] = True
            if gpus := [one["peak_gpu_mb"] for one in found if "peak_gpu_mb" in one]:
                cost["peak_gpu_mb"] = max(gpus)
            if commits := dict.fromkeys(one["revision"] for one in found if one.get("revision")):
                cost["revision"] = ", ".join(commits)
            if any("tuned" in one for one in found):  # by each fold on its own dev rows
                if not all("tuned" in one for one in found):
                    raise UserError(f"{system}: its settings were chosen on dev in some folds and not in others")
                cost["tuned"] = [one["tuned"] for one in found]
            fitted = [fitted_temperature(fold.experiment / system) for fold in folds]
            if all(fitted):
                cost["temperatures"] = fitted
            if all("command" in one for one in found):
                commands = [line for one in found for line in (*one.get("before", []), one["command"])]
                *cost["before"], cost["command"] = dict.fromkeys(commands)
            if "data" in found[0]:  # each fold has a split of its own
                cost["data"] = {**found[0]["data"], "fold": None, "split_sha256": None}
            write_json(out / system / "training.json", {**found[0], **cost, "folds": len(folds)})
    return systems


def merge_predictions(paths: Sequence[Path], wanted: Iterable[str], out: Path) -> None:
    """Put files of predictions together into `out`.

    Args:
        paths: JSON Lines, each of some of the rows.
        wanted: ids of all rows.

    Raises:
        UserError: a file is missing or no predictions, or a row is predicted twice, not at all, or not wanted.
    """
    seen: set[str] = set()  # of the lines themselves, none is held
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        with open(path, encoding="utf-8") as part:
            for number, line in enumerate(part, start=1):
                try:
                    identity = json.loads(line)["id"]
                except (ValueError, KeyError, TypeError):
                    raise UserError(f"{path}:{number}: not a prediction as JSON with an `id`") from None
                if identity in seen:
                    raise UserError(f"{path}:{number}: row {identity} is predicted twice, here and before")
                seen.add(identity)
    if odd := sorted(set(wanted) ^ seen):
        raise UserError(f"{out.name}: {len(odd)} rows are not predicted, or not wanted, such as {odd[0]}")
    with atomic_write(out) as beside, open(beside, "w", encoding="utf-8") as whole:
        for path in paths:
            with open(path, encoding="utf-8") as part:
                whole.writelines(line.rstrip("\n") + "\n" for line in part)
