"""Several labels at once: a yes-or-no row for each label of a row, and back to the rate at which people choose each label.

Where a rater may choose several labels, a distribution over labels shares that rater's vote, and cannot say that all chose two.
A model of yes and no for each label (a Bernoulli distribution) can. LeWiDi 2025 scores VariErrNLI so (arXiv 2510.08460).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from shala_audio.corpora.raters import checked_raters
from shala_audio.errors import UserError
from shala_audio.manifest import Row
from shala_audio.task import ASKED, NO, YES, Label, Task


def yes_or_no(task: Task) -> Task:
    """The task that asks of one label whether it fits.

    Raises:
        UserError: it is not of text.
    """
    if task.modality != "text":
        raise UserError(f"task {task.name}: labels are asked about one by one in texts, and it is of {task.modality}")
    prompt = f"{task.prompt.rstrip()}\nIs {{{{ text.{ASKED} }}}} a right answer?"
    return Task(_name(task), task.modality, (Label(YES, YES), Label(NO, NO)), prompt, task.answer, asked=task.labels)


def _name(task: Task) -> str:
    return f"{task.name}_labels"


def by_label(rows: Sequence[Row], task: Task) -> list[Row]:
    """A row for each label of each row, with how many raters chose it and how many did not.

    Args:
        rows: with who chose which labels in `extra.raters`; rows without votes are questions alone.
        task: of the rows, as it was.

    Returns:
        Rows called "row|label"; `extra` has `item` and `label`.

    Raises:
        UserError: no row says who chose what, or one says it in another form or names a label that the task does not have; or
            has a text field of the name that the label needs.
    """
    found = []
    for row in rows:
        if ASKED in row.text:
            raise UserError(
                f"row {row.id}: has a text field {ASKED}, where the label that is asked about stands; rename it"
            )
        raters = checked_raters(row, task)
        if not raters and row.votes:
            continue  # of shared votes nobody knows who chose what
        for label in task.labels:
            chosen = sum(label.name in labels for labels in raters.values())
            votes = {name: count for name, count in ((YES, chosen), (NO, len(raters) - chosen)) if count}
            text, extra = {**row.text, ASKED: label.word}, {"item": row.id, "label": label.name}
            found.append(
                replace(row, id=f"{row.id}|{label.name}", task=_name(task), text=text, votes=votes, extra=extra)
            )
    if not any(row.votes for row in found):
        raise UserError("no row says who chose what (`raters` in `extra`)")
    return found


def rates(rows: Sequence[Row], yes: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What share of people would choose each label of each item.

    Args:
        rows: of `by_label`, all labels of each item.
        yes: probability of yes, by row.

    Raises:
        UserError: a row is none of a label, or an item has not all of them.

    >>> one = Row("a|joy", "t", "test", extra={"item": "a", "label": "joy"})
    >>> two = Row("a|love", "t", "test", extra={"item": "a", "label": "love"})
    >>> rates([one, two], {"a|joy": 0.5, "a|love": 1.0})
    {'a': {'joy': 0.5, 'love': 1.0}}
    """
    items: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if not {"item", "label"} <= set(row.extra):
            raise UserError(f"row {row.id}: is of no single label; `shala-audio data labels` makes such rows")
        items[row.extra["item"]][row.extra["label"]] = yes[row.id]
    labels = dict.fromkeys(label for of_labels in items.values() for label in of_labels)
    for item, of_labels in items.items():
        if missing := [label for label in labels if label not in of_labels]:
            raise UserError(f"row {item}: has no prediction for {', '.join(missing)}")
    return dict(items)


def mean_rates(rows: Sequence[Row]) -> dict[str, float]:
    """The constant prior: the mean over items of the share of raters who chose each label.

    Args:
        rows: of `by_label`; those without votes do not count.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.votes:
            found[row.extra["label"]].append(_share(row))
    return {label: fmean(shares) for label, shares in found.items()}


def label_distances(rows: Sequence[Row], yes: Mapping[str, float]) -> dict[str, float]:
    """Manhattan distance to the raters of each label, from 0 to 2: |p - t| of yes and of no. Its mean over labels is the soft
    measure of LeWiDi 2025 for VariErrNLI.

    Args:
        rows: of `by_label`, with votes.
        yes: probability of yes, by row.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        found[row.extra["label"]].append(2 * abs(yes[row.id] - _share(row)))
    return {label: fmean(distances) for label, distances in found.items()}


def _share(row: Row) -> float:
    return row.votes.get(YES, 0) / sum(row.votes.values())
