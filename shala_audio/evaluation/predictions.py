"""Predictions and votes in files, ours or any system's: JSON Lines of `{"id", "probs": {label: p}, "entropy"}`, CSV, or JSON
as ChaosNLI's own files have it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from shala_audio.corpora.tables import csv_records
from shala_audio.distribution import Floats, LabelDistribution
from shala_audio.errors import UserError
from shala_audio.io import atomic_write, read_json, readable
from shala_audio.manifest import SPLITS, Row


def write_predictions(path: str | Path, predictions: Iterable[tuple[str, LabelDistribution]]) -> None:
    """Write beside and rename: a CSV where the name ends in .csv, JSON Lines otherwise, as `read_predictions` reads them."""
    with atomic_write(path) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
        if Path(path).suffix.lower() == ".csv":
            writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # ids may begin with a space
            rows = list(predictions)
            names = list(dict.fromkeys(name for _, distribution in rows for name in distribution.attributes))
            if rows:
                writer.writerow(["id", *rows[0][1].labels, *names])
            for identity, distribution in rows:
                stated = (distribution.attributes.get(name) for name in names)  # nothing where it is not stated
                writer.writerow([identity, *map(float, distribution.probs), *stated])
        else:
            for identity, distribution in predictions:
                file.write(json.dumps({"id": identity, **distribution.to_record()}, ensure_ascii=False) + "\n")


def read_attributes(path: str | Path, names: Sequence[str]) -> Floats:
    """Attributes that predictions state, (rows, A) in the order of the rows; NaN where one is not stated.

    Args:
        path: JSON Lines with an object `attributes`, or a CSV with columns of these names; ChaosNLI's format has none.
        names: of the A attributes.

    Raises:
        UserError: one that is not a number; the message names the line.
    """
    rows: list[list[float]] = []
    if by_id(path):
        raise UserError(f"{path}: ChaosNLI's format has no {', '.join(names)}; use JSON Lines")
    if Path(path).suffix.lower() == ".csv":
        for where, record in csv_records(Path(path)):
            try:
                rows.append([float(record.get(name) or np.nan) for name in names])
            except ValueError as error:
                raise UserError(f"{where}: not numbers ({error})") from None
    else:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    stated = json.loads(line).get("attributes") or {}
                    try:
                        rows.append([float(stated.get(name, np.nan)) for name in names])
                    except (TypeError, ValueError, AttributeError):
                        raise UserError(
                            f"{path}:{number}: attributes must be an object of numbers; found {stated!r}"
                        ) from None
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(names))


def read_predictions(path: str | Path, labels: Sequence[str]) -> tuple[list[str], Floats]:
    """Ids of the predicted rows, and their probabilities (rows, K) in the order of `labels`.

    Args:
        path: JSON Lines; a `.csv` whose header has `id` and the labels, of which other columns are not looked at; or a `.json` in
            ChaosNLI's format, an object of items by id with `predicted_probabilities` or `logits` in the order of the labels,
            or of several systems by name, of which `FILE.json:NAME` is one.
        labels: the task's.

    Raises:
        UserError: a line is not a prediction, has other labels, does not sum to 1 (within 0.01), or repeats an id.
    """
    read = _read_csv if Path(path).suffix.lower() == ".csv" else _read_jsonl
    named = by_id(path)
    found = _read_by_id(*named, labels) if named else read(Path(path), labels)
    by_identity: dict[str, tuple[str, list[float]]] = {}
    for where, identity, probs in found:
        if identity in by_identity:
            raise UserError(f"{where}: id {identity!r} appears twice")
        by_identity[identity] = where, probs
    if not by_identity:
        raise UserError(f"{path}: holds no prediction")
    identities = list(by_identity)
    places, values = zip(*by_identity.values(), strict=True)
    table = np.array(values, dtype=np.float64)
    total = table.sum(axis=1)
    wrong = ~np.isfinite(table).all(axis=1) | (table < 0).any(axis=1) | ~(np.abs(total - 1) <= 0.01)
    if wrong.any():
        first = int(wrong.argmax())
        raise UserError(
            f"{places[first]}: probabilities must be 0 or more and sum to 1; they sum to {total[first]:.4f}"
        )
    return identities, table / total[:, None]


def _read_jsonl(path: Path, labels: Sequence[str]) -> Iterator[tuple[str, str, list[float]]]:
    known = set(labels)
    with readable(path), open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
                identity, probs = record["id"], record["probs"]
                values = [float(probs[label]) for label in labels]
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                hint = "" if line.lstrip().startswith("{") else "; or is it CSV? then its name must end in .csv"
                raise UserError(
                    f"{where}: `id` and `probs` with {', '.join(labels)} are needed ({error!r}){hint}"
                ) from None
            if not probs.keys() <= known:
                raise UserError(f"{where}: labels {', '.join(sorted(set(probs) - known))} are not the task's")
            yield where, str(identity), values


def by_id(path: str | Path) -> tuple[Path, str] | None:
    """The file of predictions in ChaosNLI's format, and the system's name behind it, "" where there is none; None where the
    path is of another format.

    >>> by_id("predictions.json:FacebookAI/roberta-base")
    (PosixPath('predictions.json'), 'FacebookAI/roberta-base')
    >>> by_id("predictions.jsonl") is None
    True
    """
    text = str(path)
    file, ending, system = text.rpartition(".json:")
    if ending and not Path(text).is_file():
        return Path(f"{file}.json"), system
    if not text.lower().endswith(".json") or _begins_with_a_prediction(Path(text)):
        return None
    return Path(text), ""


def _begins_with_a_prediction(path: Path) -> bool:
    """Whether it is JSON Lines after all."""
    with readable(path), open(path, encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
    try:
        return "probs" in json.loads(first)
    except (ValueError, TypeError, RecursionError):
        return False


def _read_by_id(file: Path, system: str, labels: Sequence[str]) -> Iterator[tuple[str, str, list[float]]]:
    found = read_json(file)
    if not isinstance(found, dict) or not all(isinstance(item, dict) for item in found.values()):
        raise UserError(f"{file}: not an object of items by their id, as ChaosNLI's predictions are")
    if system or not all({"logits", "predicted_probabilities"} & set(item) for item in found.values()):
        if system not in found:
            raise UserError(f"{file}: holds systems {', '.join(found)}; name one as {file}:{next(iter(found), 'NAME')}")
        found = found[system]
    for identity, item in found.items():
        where = f"{file}: item {identity!r}"
        try:
            stated = item.get("predicted_probabilities")
            if stated is None:
                odds = np.exp(np.array(item["logits"], dtype=np.float64) - max(item["logits"]))
                stated = odds / odds.sum()
            values = [float(p) for p in stated]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: `predicted_probabilities` or `logits` are needed ({error!r})") from None
        if len(values) != len(labels):
            raise UserError(f"{where}: {len(values)} numbers for {len(labels)} labels ({', '.join(labels)})")
        # The format has no names. What it says of the first label tells whether its order is that of the labels.
        said, first = str(item.get("predicted_label", "")), labels[int(np.argmax(values))]
        if said in (*labels, *(label[0] for label in labels)) and said not in (first, first[0]):
            raise UserError(
                f"{where}: says {said}, but the largest number is that of {first}; its labels stand in another order"
            )
        yield where, identity, values


def _read_csv(path: Path, labels: Sequence[str]) -> Iterator[tuple[str, str, list[float]]]:
    for where, record in csv_records(path):
        if missing := [name for name in ("id", *labels) if name not in record]:
            raise UserError(
                f"{path}: the header has no column {', '.join(missing)}; id and a column a label are needed"
            )
        try:
            yield where, record["id"], [float(record[label]) for label in labels]
        except (ValueError, TypeError) as error:
            raise UserError(f"{where}: not numbers ({error})") from None


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
                "`shala-audio data votes` counts a table that has a line for every rating"
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
