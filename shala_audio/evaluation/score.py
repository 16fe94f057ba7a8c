"""Score any system's predictions against a manifest: measures, beside them the constant prior and the ceiling."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shala_audio.data.rows import Row, read_manifest, row_attributes
from shala_audio.data.votes import mean_distribution, vote_counts
from shala_audio.distribution import Floats, jsd
from shala_audio.errors import UserError
from shala_audio.evaluation.ceiling import human_ceiling, split_half_distance
from shala_audio.evaluation.measures import DRAWS, all_measures, attribute_measures
from shala_audio.evaluation.predictions import read_attributes, read_predictions
from shala_audio.tasks import load_task

FRESH = "fresh sample of the raters"
ONE_LABEL_EACH = f"{FRESH}, each of one label"  # where raters could name several: further off than they would be


@dataclass(frozen=True)
class Judged:
    """Predicted rows that have votes.

    Attributes:
        rows: in the order of the predictions; counts, predicted: (rows, K).
        labels: the K labels in order.
        manifest: all rows of the manifest.
        without_votes: predicted rows that have none.
        kept: places of the rows in the file of predictions.
    """

    rows: list[Row]
    counts: Floats
    predicted: Floats
    labels: tuple[str, ...]
    manifest: list[Row]
    without_votes: int
    kept: list[int]

    @property
    def human(self) -> Floats:
        """(rows, K) distributions."""
        return self.counts / self.counts.sum(axis=1, keepdims=True)

    @property
    def splits(self) -> dict[str, int]:
        """How many of the rows are of each split."""
        return dict(Counter(row.split for row in self.rows))


def load_judged(
    predictions: str | Path, manifest: str | Path, labels: Sequence[str] | None = None, split: str | None = None
) -> Judged:
    """Read predictions and the votes on the same rows.

    Args:
        predictions, manifest: the files.
        labels: in order; those of the rows' task where not given.
        split: rows of other splits are left out; None keeps all.

    Raises:
        UserError: an id is not in the manifest, no row has votes, or a file is not what it should be.
    """
    rows = read_manifest(manifest)
    if not rows:
        raise UserError(f"{manifest}: has no rows")
    names = tuple(labels) if labels else load_task(rows[0].task).label_names
    identities, probs = read_predictions(predictions, names)
    by_id = {row.id: row for row in rows}
    judged, kept, wanted = [], [], 0
    for index, identity in enumerate(identities):
        if identity not in by_id:
            raise UserError(f"{predictions}: id {identity!r} is not in {manifest}")
        if split is None or by_id[identity].split == split:
            wanted += 1
            if by_id[identity].votes:
                judged.append(by_id[identity])
                kept.append(index)
    if not judged:
        of = f" of split {split}" if split else ""
        raise UserError(f"{predictions}: no predicted row{of} of {manifest} has votes to score against")
    return Judged(judged, vote_counts(judged, names), probs[kept], names, rows, wanted - len(judged), kept)


def score(
    predictions: str | Path,
    manifest: str | Path,
    labels: Sequence[str] | None = None,
    draws: int = DRAWS,
    split: str | None = None,
) -> dict[str, Any]:
    """Measures of a predictions file.

    Args:
        predictions: JSON Lines or CSV; every id must be a row of the manifest. Rows without votes are counted, not scored.
        manifest: rows with votes. Its `train` rows, where there are any, give the constant prior.
        labels: the labels in order; those of the rows' task where not given.
        draws: bootstrap draws for the intervals; 0 for none.
        split: score its rows alone.

    Returns:
        The measures (`evaluation.measures.all_measures`); `ccc_<name>` of attributes that the predictions state; `labels`;
        `splits`, how many rows are of which; `row_jsd`, the distance of every row, by a key (`row_key`);
        `prior`, the same measures of the constant prior; `ceiling`, the same of a fresh sample of the raters (or of the true
        distribution, where a simulation knows it: `ceiling["kind"]` says which); `split_half`, the distance between halves
        of the raters. Rows whose votes were aggregated before they reached us (`extra["aggregated"]`) have no ceiling.

    Raises:
        UserError: as `load_judged`.
    """
    judged = load_judged(predictions, manifest, labels, split)
    human = judged.human
    result = all_measures(human, judged.predicted, draws)
    result["splits"] = judged.splits
    result["labels"] = list(judged.labels)
    result["without_votes"] = judged.without_votes
    if labels is None and (task := load_task(judged.rows[0].task)).attributes:
        names = [attribute.name for attribute in task.attributes]
        stated, true = read_attributes(predictions, names), row_attributes(judged.rows, task)
        if len(stated):
            result |= attribute_measures(stated[judged.kept], true, names, draws)
    result["unpredicted"] = _left_over(judged)
    train = [row for row in judged.manifest if row.split == "train" and row.votes]
    if train:
        prior = np.tile(mean_distribution(train, judged.labels), (len(human), 1))
        result["prior"] = all_measures(human, prior, draws, name="prior")
    distances = np.round(jsd(human, judged.predicted), 5).tolist()
    return {
        **result,
        **ceilings(judged, draws),
        "row_jsd": dict(zip(map(row_key, judged.rows), distances, strict=True)),
    }


def distances_beside(score: Path) -> Path:
    """The file of the rows' distances that belongs to a file of measures.

    >>> distances_beside(Path("exp/score_temperature.json")).name
    'distances_temperature.json'
    """
    return score.with_name("distances" + score.name.removeprefix("score"))


def row_key(row: Row) -> str:
    """12 hexadecimal digits that tell a row from others; an id alone may mean another one in another corpus of its name.

    They follow from the votes too, which could be guessed from them, so they are not for strangers.

    >>> from shala_audio.data.rows import Row
    >>> row_key(Row("a", "mini", "test", votes={"anger": 1})) == row_key(Row("a", "mini", "test", votes={"anger": 2}))
    False
    """
    told = [row.id, row.text, row.votes, row.extra]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def ceilings(judged: Judged, draws: int = DRAWS) -> dict[str, Any]:
    """`ceiling` and `split_half` of the rows with two votes or more, where their votes can tell."""
    if any(row.extra.get("aggregated") for row in judged.rows):
        return {}
    found: dict[str, Any] = {}
    # One rater alone would seem to agree with everybody.
    counts = judged.counts[np.rint(judged.counts.sum(axis=1)) >= 2]
    if all("true" in row.extra for row in judged.rows):
        truth = np.array([[row.extra["true"][label] for label in judged.labels] for row in judged.rows])
        found["ceiling"] = {"kind": "true distribution", **all_measures(judged.human, truth, draws, name="ceiling")}
    elif len(counts):
        split = not np.isclose(counts, np.rint(counts)).all()  # raters who named several labels
        found["ceiling"] = {"kind": ONE_LABEL_EACH if split else FRESH, **human_ceiling(counts, draws)}
    if len(counts) and (halves := split_half_distance(counts, draws)) is not None:
        found["split_half"] = halves
    return found


def _left_over(judged: Judged) -> int:
    """Rows with votes, of the splits that were predicted, that have no prediction."""
    splits = {row.split for row in judged.rows}
    return sum(row.split in splits and bool(row.votes) for row in judged.manifest) - len(judged.rows)
