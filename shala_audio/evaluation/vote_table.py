"""Votes as a CSV, for scoring without a manifest: `id` and a column a label with how many raters chose it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from shala_audio.data.rows import SPLITS, Row
from shala_audio.errors import UserError

NOT_LABELS = ("id", "split", "speaker")


def read_vote_table(path: str | Path) -> tuple[list[Row], tuple[str, ...]]:
    """Rows of the table, and its labels in the order of their columns.

    Args:
        path: CSV in UTF-8. `id` and at least two labels; `split` (test where there is no such column; `train` rows give the
            constant prior) and `speaker` (rows of one are not independent) may stand beside them. An empty cell is 0 votes.

    Raises:
        UserError: a column is missing, an id is empty or appears twice, a split is unknown, or a count is none.
    """
    rows: dict[str, Row] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            heads = reader.fieldnames or []
            labels = tuple(name for name in heads if name not in NOT_LABELS)
            if "id" not in heads or len(labels) < 2:
                raise UserError(f"{path}: the header is {', '.join(heads)}; id and a column a label are needed")
            for record in reader:
                row = _row(record, labels, f"{path}:{reader.line_num}")
                if row.id in rows:
                    raise UserError(f"{path}:{reader.line_num}: id {row.id!r} appears twice")
                rows[row.id] = row
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error})") from None
    if not rows:
        raise UserError(f"{path}: has no rows")
    return list(rows.values()), labels


def _row(record: dict[str, str | None], labels: tuple[str, ...], where: str) -> Row:
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
