"""Score any system's predictions against a manifest: measures, beside them the constant prior and the ceiling."""

from __future__ import annotations

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
from shala_audio.evaluation.attributes import attribute_measures
from shala_audio.evaluation.by_row import groups_of, row_key, set_jsd_intervals
from shala_audio.evaluation.ceiling import human_ceiling, split_half_distance
from shala_audio.evaluation.count_table import read_count_table
from shala_audio.evaluation.intervals import DRAWS
from shala_audio.evaluation.measures import all_measures
from shala_audio.evaluation.predictions import read_attributes, read_predictions
from shala_audio.tasks import Task, load_task

FRESH = "fresh sample of the raters"
ONE_LABEL_EACH = f"{FRESH}, each of one label"  # where raters could name several: further off than they would be


@dataclass(frozen=True)
class Judged:
    """Predicted rows that have votes.

    Attributes:
        rows: in the order of the predictions; counts, predicted: (rows, K).
        labels: the K labels in order.
        task: where one is known.
        manifest: all rows of the manifest.
        without_votes: predicted rows that have none.
        kept: places of the rows in the file of predictions.
    """

    rows: list[Row]
    counts: Floats
    predicted: Floats
    labels: tuple[str, ...]
    task: Task | None
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
    predictions: str | Path, votes: str | Path, task: Task | None = None, split: str | None = None
) -> Judged:
    """Read predictions and the votes on the same rows.

    Args:
        predictions: JSON Lines or CSV (`evaluation.predictions`).
        votes: a manifest, or a table of counts as `.csv` (`evaluation.count_table`).
        task: its labels in their order; where not given, the task that the manifest names, or the columns of the table.
        split: rows of other splits are left out; None keeps all.

    Raises:
        UserError: an id has no row in `votes`, no row has votes, or a file is not what it should be.
    """
    if Path(votes).suffix.lower() == ".csv":
        rows, names = read_count_table(votes)
        names = task.label_names if task else names
    else:
        rows = read_manifest(votes)
        if not rows:
            raise UserError(f"{votes}: has no rows")
        task = task or _task_of(rows[0], votes)
        names = task.label_names
    identities, probs = read_predictions(predictions, names)
    by_id = {row.id: row for row in rows}
    judged, kept, wanted = [], [], 0
    for index, identity in enumerate(identities):
        if identity not in by_id:
            raise UserError(f"{predictions}: id {identity!r} is not in {votes}")
        if split is None or by_id[identity].split == split:
            wanted += 1
            if by_id[identity].votes:
                judged.append(by_id[identity])
                kept.append(index)
    if not judged:
        of = f" of split {split}" if split else ""
        raise UserError(f"{predictions}: no predicted row{of} of {votes} has votes to score against")
    return Judged(judged, vote_counts(judged, names), probs[kept], names, task, rows, wanted - len(judged), kept)


def _task_of(row: Row, manifest: str | Path) -> Task:
    try:
        return load_task(row.task)
    except UserError as error:
        raise UserError(
            f"{manifest}: its rows' task is {row.task}: {error}; --task names a file that describes it"
        ) from None


def score(
    predictions: str | Path,
    votes: str | Path,
    task: Task | None = None,
    draws: int = DRAWS,
    split: str | None = None,
) -> dict[str, Any]:
    """Measures of a predictions file.

    Args:
        predictions: JSON Lines or CSV; every id must be a row of `votes`. Rows without votes are counted, not scored.
        votes: manifest, or CSV of votes. Its `train` rows, where there are any, give the constant prior.
        task: labels and attributes; where not given, as in `load_judged`.
        draws: bootstrap draws for the intervals; 0 for none. Those of jsd are over speakers (or premises) where rows share
            them (`evaluation.intervals`).
        split: score its rows alone.

    Returns:
        The measures (`evaluation.measures.all_measures`); `ccc_<name>` of attributes that the predictions state; `labels`;
        `splits`, how many rows are of which; `rows`, what is known of every single one (`evaluation.by_row`); `prior`, the
        same measures of the constant prior; `ceiling`, the same of a fresh sample of the raters (or of the true distribution,
        where a simulation knows it: `ceiling["kind"]` says which); `split_half`, the distance between halves of the raters.
        Rows whose votes were aggregated before they reached us (`extra["aggregated"]`) have no ceiling.

    Raises:
        UserError: as `load_judged`.
    """
    judged = load_judged(predictions, votes, task, split)
    human = judged.human
    result = all_measures(human, judged.predicted, draws)
    result["splits"] = judged.splits
    result["labels"] = list(judged.labels)
    result["without_votes"] = judged.without_votes
    if judged.task and judged.task.attributes:
        names = [attribute.name for attribute in judged.task.attributes]
        stated = read_attributes(predictions, names)[judged.kept]
        result |= attribute_measures(stated, row_attributes(judged.rows, judged.task), names, draws)
    result["unpredicted"] = _left_over(judged)
    train = [row for row in judged.manifest if row.split == "train" and row.votes]
    if train:
        prior = np.tile(mean_distribution(train, judged.labels), (len(human), 1))
        result["prior"] = all_measures(human, prior, draws, name="prior")
    keys = list(map(row_key, judged.rows))
    found, by_row = ceilings(judged, keys, draws)
    by_row["jsd"] = _by_key(keys, jsd(human, judged.predicted))
    if train:
        by_row["prior"] = _by_key(keys, jsd(human, prior))
    by_row["group"] = dict(zip(keys, groups_of(judged.rows), strict=True))
    result |= found
    if draws:
        set_jsd_intervals(result, [by_row])
    return {**result, "rows": by_row}


def _by_key(keys: Sequence[str], distances: Floats) -> dict[str, Any]:
    return dict(zip(keys, np.round(distances, 5).tolist(), strict=True))


def ceilings(judged: Judged, keys: Sequence[str], draws: int = DRAWS) -> tuple[dict[str, Any], dict[str, Any]]:
    """`ceiling` and `split_half` of the rows with two votes or more, where their votes can tell; and both by row.

    Args:
        judged: the rows.
        keys: of the rows.
        draws: of the bootstrap.
    """
    if any(row.extra.get("aggregated") for row in judged.rows):
        return {}, {}
    found: dict[str, Any] = {}
    by_row: dict[str, Any] = {}
    several = np.rint(judged.counts.sum(axis=1)) >= 2  # one rater alone would seem to agree with everybody
    counts, kept = judged.counts[several], [key for key, enough in zip(keys, several, strict=True) if enough]
    if all("true" in row.extra for row in judged.rows):
        truth = np.array([[row.extra["true"][label] for label in judged.labels] for row in judged.rows])
        found["ceiling"] = {"kind": "true distribution", **all_measures(judged.human, truth, draws, name="ceiling")}
        by_row["ceiling"] = _by_key(keys, jsd(judged.human, truth))
    elif len(counts):
        split = not np.isclose(counts, np.rint(counts)).all()  # raters who named several labels
        measures, distances = human_ceiling(counts, draws)
        found["ceiling"] = {"kind": ONE_LABEL_EACH if split else FRESH, **measures}
        by_row["ceiling"] = _by_key(kept, distances)
    if len(counts) and (halves := split_half_distance(counts, draws)) is not None:
        found["split_half"], distances = halves
        by_row["split_half"] = _by_key(kept, distances)
    return found, by_row


def _left_over(judged: Judged) -> int:
    """Rows with votes, of the splits that were predicted, that have no prediction."""
    splits = {row.split for row in judged.rows}
    return sum(row.split in splits and bool(row.votes) for row in judged.manifest) - len(judged.rows)
