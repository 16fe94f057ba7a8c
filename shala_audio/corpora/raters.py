"""Raters as people: a row for each rater of a row, with other answers of that rater before the question; and back to the rows.

A model that learns such rows says what one rater would answer; the mean over a row's raters is the row's distribution. This is how
systems of LeWiDi 2025 take the perspectivist task (arXiv 2510.08460).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.manifest import Row
from shala_audio.task import Task

FIELD = "rater"  # of the text: that rater's other answers


def with_rater(task: Task) -> Task:
    """The task with a rater's other answers before its prompt.

    Raises:
        UserError: it is not of text.
    """
    if task.modality != "text":
        raise UserError(f"task {task.name}: raters' other answers are put before texts, and it is of {task.modality}")
    return replace(task, prompt=f"{{{{ text.{FIELD} }}}}\n\n{task.prompt}")


def checked_raters(row: Row, task: Task) -> dict[str, list[str]]:
    """Who chose which labels of a row, by `extra.raters`; empty where it does not say. A rater may have chosen none.

    Raises:
        UserError: it says it in another form, or names a label that the task does not have.
    """
    raters = row.extra.get("raters", {})
    if not isinstance(raters, Mapping) or not all(isinstance(chosen, list) for chosen in raters.values()):
        raise UserError(f"row {row.id}: `raters` must be an object, of each rater's list of labels")
    named = {rater: [str(label) for label in chosen] for rater, chosen in raters.items()}
    if unknown := {label for chosen in named.values() for label in chosen} - set(task.label_names):
        raise UserError(f"row {row.id}: {min(unknown)!r} is no label of task {task.name}")
    return named


def by_rater(rows: Sequence[Row], task: Task, examples: int = 4, seed: int = 0) -> list[Row]:
    """A row for each rater of each row, whose one vote it has; without one where the row has no votes and names its `annotators`.

    Args:
        rows: with who chose which labels in `extra.raters`.
        task: of the rows, as it was.
        examples: of the rater's other answers, drawn from the training rows; fewer where there are fewer.
        seed: of the draw, which for a row and a rater depends on nothing else.

    Returns:
        Rows called "row|rater"; `extra` has `item` and `rater`.

    Raises:
        UserError: no row says who chose what, or one says it in another form or names a label that the task does not have; or
            has a text field of the name that the other answers need.
    """
    words = {label.name: label.word for label in task.labels}
    raters = {row.id: checked_raters(row, task) for row in rows}
    if taken := next((row.id for row in rows if FIELD in row.text), None):
        raise UserError(f"row {taken}: has a text field {FIELD}, where the rater's other answers stand; rename it")
    if silent := next(((one, who) for one, of in raters.items() for who, chosen in of.items() if not chosen), None):
        raise UserError(f"row {silent[0]}: rater {silent[1]} chose no label")
    judged: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for rater in raters[row.id]:
            if row.split == "train":
                judged[rater].append(row)
    found = []
    for row in rows:
        asked = raters[row.id] if row.votes else {who: [] for who in row.extra.get("annotators", ())}
        for rater, chosen in asked.items():
            others = [other for other in judged[rater] if other.id != row.id]
            drawn = random.Random(f"{seed} {row.id} {rater}").sample(others, min(examples, len(others)))
            lines = [f"{task.question(other.text)} {_said(raters[other.id][rater], words)}" for other in drawn]
            before = "\n\n".join(["One reader answered:", *lines, "The same reader answers:"])
            votes = {label: 1 / len(chosen) for label in chosen}
            extra = {"item": row.id, "rater": rater}
            found.append(
                replace(row, id=f"{row.id}|{rater}", text={**row.text, FIELD: before}, votes=votes, extra=extra)
            )
    if not found:
        raise UserError("no row says who chose what (`raters` in `extra`)")
    return found


def _said(labels: Sequence[str], words: Mapping[str, str]) -> str:
    return ", ".join(words[label] for label in labels)


class RaterScores(NamedTuple):
    """How well single raters were predicted.

    Attributes:
        accuracy: of each rater, the share of answers whose likeliest label was chosen; of several that were chosen, any one.
        error_rate: mean over items of the share of its raters for whom another label was predicted; where raters chose several
            labels, of the mean share of labels that were predicted and not chosen, or chosen and not predicted.
        distance: of ordered labels, mean over items of the mean distance between predicted and chosen place (of several, their
            mean), over the number of labels; else None.

    These are the error rate, the multi-label error rate and the normalised absolute distance of LeWiDi 2025, task B.
    """

    accuracy: dict[str, float]
    error_rate: float
    distance: float | None


def mean_over_raters(rows: Sequence[Row], probs: Floats, task: Task) -> tuple[list[str], Floats, RaterScores]:
    """Ids of items, (items, K) the mean of what was said of each one's raters, and scores of those with votes.

    Args:
        rows: N rows of `by_rater`.
        probs: (N, K) what was predicted of them.
        task: whose labels.

    Raises:
        UserError: a row is none of a rater.
    """
    if wrong := next((row.id for row in rows if not {"item", "rater"} <= set(row.extra)), None):
        raise UserError(f"row {wrong}: is of no single rater; `shala-audio data raters` makes such rows")
    labels = task.label_names
    several = any(len(row.votes) > 1 for row in rows)
    items: dict[str, list[int]] = defaultdict(list)
    right: dict[str, list[bool]] = defaultdict(list)
    errors: dict[str, list[float]] = defaultdict(list)
    places: dict[str, list[float]] = defaultdict(list)
    for number, row in enumerate(rows):
        items[row.extra["item"]].append(number)
        if row.votes:
            said, chosen = int(probs[number].argmax()), {labels.index(label) for label in row.votes}
            right[row.extra["rater"]].append(said in chosen)
            errors[row.extra["item"]].append(len(chosen ^ {said}) / len(labels) if several else said not in chosen)
            places[row.extra["item"]].append(abs(said - float(np.mean(list(chosen)))) / len(labels))
    scores = RaterScores(
        {rater: float(np.mean(hits)) for rater, hits in sorted(right.items())},
        float(np.mean([np.mean(one) for one in errors.values()])) if errors else float("nan"),
        float(np.mean([np.mean(one) for one in places.values()])) if task.ordered and places else None,
    )
    return list(items), np.stack([probs[numbers].mean(axis=0) for numbers in items.values()]), scores
