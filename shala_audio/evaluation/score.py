"""Score any system's predictions against a manifest: measures, beside them the constant prior and the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shala_audio.data.rows import Row, read_manifest
from shala_audio.data.votes import human_distributions, mean_distribution
from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.evaluation.measures import all_measures
from shala_audio.evaluation.predictions import read_predictions
from shala_audio.tasks import load_task

CEILING_SEED = 0


def score(predictions: str | Path, manifest: str | Path, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures of a predictions file.

    Args:
        predictions: JSON Lines; every id must be a row of the manifest. Rows without votes are counted, not scored.
        manifest: rows with votes. Its `train` rows, where there are any, give the constant prior.
        labels: the labels in order; those of the rows' task where not given.

    Returns:
        The measures (`evaluation.measures.all_measures`), `prior` with the same of the constant prior, and `ceiling` where
        the true distribution of every row is known from a simulation.

    Raises:
        UserError: an id is not in the manifest, no row has votes, or a file is not what it should be.
    """
    rows = read_manifest(manifest)
    if not rows:
        raise UserError(f"{manifest}: has no rows")
    labels = tuple(labels) if labels else load_task(rows[0].task).label_names
    found = read_predictions(predictions, labels)
    by_id = {row.id: row for row in rows}
    judged: list[Row] = []
    for identity in found:
        if identity not in by_id:
            raise UserError(f"{predictions}: id {identity!r} is not in {manifest}")
        if by_id[identity].votes:
            judged.append(by_id[identity])
    if not judged:
        raise UserError(f"{predictions}: no predicted row of {manifest} has votes to score against")
    human = human_distributions(judged, labels)
    predicted = np.stack([found[row.id] for row in judged])
    result = all_measures(human, predicted)
    result["without_votes"] = len(found) - len(judged)
    result["unpredicted"] = _left_over(rows, judged)
    train = [row for row in rows if row.split == "train" and row.votes]
    if train:
        result["prior"] = all_measures(human, np.tile(mean_distribution(train, labels), (len(judged), 1)))
    if all("true" in row.extra for row in judged):
        result["ceiling"] = simulated_ceiling(judged, human, labels)
    return result


def _left_over(rows: Sequence[Row], judged: Sequence[Row]) -> int:
    """Rows with votes, of the splits that were predicted, that have no prediction."""
    splits = {row.split for row in judged}
    return sum(row.split in splits and bool(row.votes) for row in rows) - len(judged)


def simulated_ceiling(rows: Sequence[Row], human: Floats, labels: Sequence[str]) -> dict[str, Any]:
    """Measures of the simulated listeners' true distributions against the votes: as good as any model can get."""
    truth = np.array([[_true(row)[label] for label in labels] for row in rows])
    return all_measures(human, truth)


def _true(row: Row) -> Mapping[str, float]:
    return row.extra["true"]
