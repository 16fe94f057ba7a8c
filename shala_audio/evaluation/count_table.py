"""Votes as a CSV of counts, for scoring without a manifest: `id` and a column a label with how many raters chose it."""

from __future__ import annotations

import math
from pathlib import Path

from shala_audio.data.csv_records import csv_records
from shala_audio.data.rows import SPLITS, Row
from shala_audio.errors import UserError

NOT_LABELS = ("id", "split", "speaker")


def read_count_table(path: str | Path) -> tuple[list[Row], tuple[str, ...]]:
    """Rows of the table, and its labels in the order of their columns.

    Args:
        path: CSV in UTF-8. `id` and at least two labels; `split` (test where there is no such column; `train` rows give the
            constant prior) and `speaker` (rows of one are not independent) may stand beside them. An empty cell is 0 votes.

    Raises:
        UserError: a column is missing or twice, an id is empty or appears twice, a split is unknown, or a count is none.
    """
    rows: dict[str, Row] = {}
    labels: tuple[str, ...] = ()
    for where, record in csv_records(Path(path)):
        labels = labels or tuple(name for name in record if name not in NOT_LABELS)
        if "id" not in record or len(labels) < 2 or "" in labels:
            raise UserError(
                f"{path}: the header is {', '.join(record)}; id and a column a label, each named, are needed; "
                "`shala-audio votes` counts a table that has a line for every rating"
            )
        row = _row(record, labels, where)
        if row.id in rows:
            raise UserError(f"{where}: id {row.id!r} appears twice")
        rows[row.id] = row
    if not rows:
        raise UserError(f"{path}: has no rows")
    return list(rows.values()), labels


def _row(record: dict[str, str], labels: tuple[str, ...], where: str) -> Row:
    votes: dict[str, float] = {}
    for label in labels:
        try:
            count = float(record[label] or 0)
        except ValueError:
            count = math.nan
        if not 0 <= count < 1e12:
            raise UserError(f"{where}: votes for {label!r} are {record[label]!r}; a count of 0 or more is needed")
        if count:
            votes[label] = count
    identity, split = record["id"], record.get("split") or "test"
    if not identity:
        raise UserError(f"{where}: `id` is empty")
    if split not in SPLITS:
        raise UserError(f"{where}: split is {split!r}; use one of {', '.join(SPLITS)}")
    return Row(identity, "", split, record.get("speaker") or None, votes=votes)
