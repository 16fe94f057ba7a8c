"""Score any system's predictions against a manifest: measures, beside them the constant prior and the human agreement
bound."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shala_audio.distribution import NATS_PER_BIT_ROOT, Floats, jsd
from shala_audio.errors import UserError
from shala_audio.evaluation.bounds import agreement_bound, split_half_distance
from shala_audio.evaluation.metrics import all_measures, attribute_measures
from shala_audio.evaluation.predictions import by_id, read_attributes, read_count_table, read_predictions
from shala_audio.evaluation.stats import DRAWS, are_clustered, mean_interval
from shala_audio.io import read_json
from shala_audio.manifest import Row, row_attributes, rows_and_task
from shala_audio.task import Task
from shala_audio.votes import mean_distribution, vote_counts

log = logging.getLogger(__name__)

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
    def ordered(self) -> bool:
        """Whether the labels stand in an order."""
        return self.task is not None and self.task.ordered

    @property
    def splits(self) -> dict[str, int]:
        """How many of the rows are of each split."""
        return dict(Counter(row.split for row in self.rows))


def load_judged(
    predictions: str | Path, votes: str | Path, task: Task | None = None, split: str | None = None
) -> Judged:
    """Read predictions and the votes on the same rows.

    Args:
        predictions: in a form that `evaluation.predictions` reads.
        votes: a manifest, or a table of counts as `.csv` (`evaluation.predictions`).
        task: its labels in their order; where None, of the manifest's rows (`task.task_of_rows`), or the columns of the table.
        split: rows of other splits are left out; None keeps all.

    Raises:
        UserError: an id has no row in `votes`, no row has votes, or a file is not what it should be.
    """
    if Path(votes).suffix.lower() == ".csv":
        rows, names = read_count_table(votes)
        names = task.label_names if task else names
    else:
        rows, task = rows_and_task(votes, task)
        names = task.label_names
    identities, probs = read_predictions(predictions, names)
    known = {row.id: row for row in rows}
    several_corpora = by_id(predictions) is not None
    judged, kept, wanted, unknown = [], [], 0, 0
    for index, identity in enumerate(identities):
        if identity not in known and several_corpora:
            unknown += 1
            continue
        if identity not in known:
            raise UserError(f"{predictions}: id {identity!r} is not in {votes}")
        if split is None or known[identity].split == split:
            wanted += 1
            if known[identity].votes:
                judged.append(known[identity])
                kept.append(index)
    if not judged:
        of = f" of split {split}" if split else ""
        raise UserError(f"{predictions}: no predicted row{of} of {votes} has votes to score against")
    if unknown:
        log.warning("%s: %d predictions are of rows that %s does not have", predictions, unknown, votes)
    return Judged(judged, vote_counts(judged, names), probs[kept], names, task, rows, wanted - len(judged), kept)


def score(
    predictions: str | Path,
    votes: str | Path,
    task: Task | None = None,
    draws: int = DRAWS,
    split: str | None = None,
) -> dict[str, Any]:
    """Measures of a predictions file.

    Args:
        predictions: every id must be a row of `votes`, but in ChaosNLI's format. Rows without votes are counted, not scored.
        votes: manifest, or CSV of votes. Its `train` rows, where there are any, give the constant prior.
        task: labels and attributes; where not given, as in `load_judged`.
        draws: bootstrap draws for the intervals; 0 for none. They are over speakers (or premises) where rows share
            them (`evaluation.stats`).
        split: score its rows alone.

    Returns:
        The measures (`evaluation.metrics.all_measures`); `ccc_<name>` of predicted attributes; `labels`;
        `splits`, how many rows are of which; `raters_named`, where all rows say who chose what; `rows`, what is known of every
        single one (`evaluation.score`); `prior`, the same measures of the constant prior; `agreement_bound`, the same of a
        fresh sample of the raters (or of the true distribution, where a simulation knows it: `agreement_bound["kind"]` says
        which); `split_half`, the distance between halves of the raters. Rows whose votes were aggregated before they reached
        us (`extra["aggregated"]`) have no bound.

    Raises:
        UserError: as `load_judged`.
    """
    judged = load_judged(predictions, votes, task, split)
    human, groups = judged.human, groups_of(judged.rows)
    result = all_measures(human, judged.predicted, draws, groups=groups, ordered=judged.ordered)
    result |= _official(judged, judged.predicted, groups, draws)
    if all(_names_raters(row, judged.labels) for row in judged.rows):
        result["raters_named"] = True
    result["splits"] = judged.splits
    result["labels"] = list(judged.labels)
    result["without_votes"] = judged.without_votes
    if judged.task and judged.task.attributes:
        names = [attribute.name for attribute in judged.task.attributes]
        stated = read_attributes(predictions, names)[judged.kept]
        result |= attribute_measures(stated, row_attributes(judged.rows, judged.task), names, draws, groups=groups)
    result["unpredicted"] = _left_over(judged)
    train = [row for row in judged.manifest if row.split == "train" and row.votes]
    if train:
        prior = np.tile(mean_distribution(train, judged.labels), (len(human), 1))
        result["prior"] = all_measures(human, prior, draws, name="prior", groups=groups, ordered=judged.ordered)
        result["prior"] |= _official(judged, prior, groups, draws)
    keys = list(map(row_key, judged.rows))
    found, by_row = bounds(judged, keys, draws)
    by_row["jsd"] = _by_key(keys, jsd(human, judged.predicted))
    if train:
        by_row["prior"] = _by_key(keys, jsd(human, prior))
    by_row["group"] = dict(zip(keys, groups, strict=True))
    result |= found
    if draws:
        set_jsd_intervals(result, [by_row])
    return {**result, "rows": by_row}


def _names_raters(row: Row, labels: Sequence[str]) -> bool:
    raters = row.extra.get("raters")
    return (
        bool(raters)
        and isinstance(raters, Mapping)
        and all(set(map(str, one)) <= set(labels) for one in raters.values())
    )


def _official(judged: Judged, predicted: Floats, groups: Sequence[str], draws: int) -> dict[str, Any]:
    """`micro_f1` against the labels that a shared task calls right, in `extra["hard_label"]`, where every row has one: of single
    labels it is their accuracy. A prediction of two labels that are equally likely is the first of them."""
    right = [row.extra.get("hard_label") for row in judged.rows]
    if not set(right) <= set(judged.labels):
        return {}
    hits = np.array([judged.labels[first] for first in predicted.argmax(axis=1)]) == np.array(right)
    ends = mean_interval(hits.astype(np.float64), groups, draws) if draws else {"low": None, "high": None}
    return {"micro_f1": {"value": float(hits.mean()), **ends}}


def _by_key(keys: Sequence[str], distances: Floats) -> dict[str, Any]:
    return dict(zip(keys, np.round(distances, 5).tolist(), strict=True))


def bounds(judged: Judged, keys: Sequence[str], draws: int = DRAWS) -> tuple[dict[str, Any], dict[str, Any]]:
    """`agreement_bound` and `split_half` of the rows with two votes or more, where their votes can tell; and both by row.

    Args:
        judged: the rows.
        keys: of the rows.
        draws: of the bootstrap.
    """
    if any(row.extra.get("aggregated") for row in judged.rows):
        return {}, {}
    found: dict[str, Any] = {}
    by_row: dict[str, Any] = {}
    groups = groups_of(judged.rows)
    several = np.rint(judged.counts.sum(axis=1)) >= 2  # one rater alone would seem to agree with everybody
    counts, kept = judged.counts[several], [key for key, enough in zip(keys, several, strict=True) if enough]
    if all("true" in row.extra for row in judged.rows):
        truth = np.array([[row.extra["true"][label] for label in judged.labels] for row in judged.rows])
        metrics = all_measures(judged.human, truth, draws, name="bound", groups=groups, ordered=judged.ordered)
        found["agreement_bound"] = {"kind": "true distribution", **metrics}
        by_row["agreement_bound"] = _by_key(keys, jsd(judged.human, truth))
    elif len(counts):
        split = not np.isclose(counts, np.rint(counts)).all()  # raters who named several labels
        kept_groups = [group for group, enough in zip(groups, several, strict=True) if enough]
        metrics, distances = agreement_bound(counts, draws, groups=kept_groups, ordered=judged.ordered)
        found["agreement_bound"] = {"kind": ONE_LABEL_EACH if split else FRESH, **metrics}
        by_row["agreement_bound"] = _by_key(kept, distances)
    if len(counts) and (halves := split_half_distance(counts, draws)) is not None:
        found["split_half"], distances = halves
        by_row["split_half"] = _by_key(kept, distances)
    return found, by_row


def _left_over(judged: Judged) -> int:
    """Rows with votes, of the splits that were predicted, that have no prediction."""
    splits = {row.split for row in judged.rows}
    return sum(row.split in splits and bool(row.votes) for row in judged.manifest) - len(judged.rows)


# Single rows --------------------------------------------------------------------------------------------------------

# By column ("jsd", "prior", "agreement_bound" and "split_half": distances; "group": the key of its group), by key of the row.
ByRow = Mapping[str, Mapping[str, Any]]


def distances_beside(score: Path) -> Path:
    """The file of the rows' distances that belongs to a file of measures.

    >>> distances_beside(Path("exp/score_temperature.json")).name, distances_beside(Path("mine.json")).name
    ('distances_temperature.json', 'mine_distances.json')
    """
    if score.stem == "score" or score.stem.startswith("score_"):
        return score.with_name("distances" + score.name.removeprefix("score"))
    return score.with_name(f"{score.stem}_distances{score.suffix}")


def row_key(row: Row) -> str:
    """12 hexadecimal digits that tell a row from others; an id alone may mean another one in another corpus of its name.

    They follow from the votes too, which could be guessed from them, so they are not for strangers.

    >>> row_key(Row("a", "mini", "test", votes={"anger": 1})) == row_key(Row("a", "mini", "test", votes={"anger": 2}))
    False
    """
    return _short_hash([row.id, row.text, row.votes, row.extra])


def groups_of(rows: Sequence[Row]) -> list[str]:
    """The group of every row, by a key: rows of one speaker, or on one premise, are not independent of each other.

    >>> rows = [Row("a", "t", "test", "Ann"), Row("b", "t", "test", "Ben"), Row("c", "t", "test", "Ann")]
    >>> groups = groups_of(rows)
    >>> groups[0] == groups[2], len(set(groups))
    (True, 2)
    """
    return [_short_hash([row.task, *_shared(row)]) for row in rows]


def mean_by_row(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """jsd of every row, averaged over the runs that have it."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for key, value in run.items():
            found.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def set_jsd_intervals(measures: dict[str, Any], runs: Sequence[ByRow]) -> None:
    """Give jsd and jsd_nats, also of the prior and the bounds, their intervals over speakers (or premises), where rows
    share them; of several runs, over the rows' means in any case, and `n` counts the rows that differ.

    Args:
        measures: of `score`, or means of several; changed in place.
        runs: what each of one or more runs knows of single rows.
    """
    groups = {key: group for run in runs for key, group in run["group"].items()}
    for column, found in (
        ("jsd", measures),
        *((name, measures.get(name)) for name in ("prior", "agreement_bound", "split_half")),
    ):
        if found is None or not all(column in run for run in runs):
            continue
        means = runs[0][column] if len(runs) == 1 else mean_by_row([run[column] for run in runs])
        shared = [groups[key] for key in means]
        several = found["jsd"].get("sd") is not None
        if several:
            found["n"] = len(means)
        elif not are_clustered(shared):
            continue  # it has its interval over rows already
        ends = mean_interval(np.array(list(means.values())), shared)
        found["jsd"] |= ends
        if "jsd_nats" in found:
            in_nats = {
                end: None if at is None else at * NATS_PER_BIT_ROOT for end, at in ends.items() if end != "groups"
            }
            found["jsd_nats"] |= {**ends, **in_nats}


def _shared(row: Row) -> tuple[str, str]:
    if row.speaker is not None:
        return "speaker", row.speaker
    return ("premise", row.text["premise"]) if "premise" in row.text else ("id", row.id)


def _short_hash(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def read_score(path: Path) -> dict[str, Any]:
    """Metrics, or distances by row, that `score` wrote; what earlier versions called a ceiling is the human agreement bound."""
    found: dict[str, Any] = read_json(path)
    if isinstance(found, dict) and "ceiling" in found:
        found["agreement_bound"] = found.pop("ceiling")
    return found
