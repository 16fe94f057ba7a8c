"""Ratings out of what annotation tools export: Label Studio (JSON, JSON-MIN) and Potato (its output folder)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from shala_audio.audio.sound import SUFFIXES
from shala_audio.data.csv_records import csv_records
from shala_audio.data.vote_table import Columns, Rating, csv_ratings
from shala_audio.errors import UserError, not_one_of
from shala_audio.files import read_json

FORMATS = ("csv", "label-studio", "potato")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of a file that was uploaded
_NO_CHOICE = (None, False, "", "false")  # how Potato writes a box that was cleared


def ratings(path: Path, format: str, columns: Columns, items: Path | None, left_out: Counter[str]) -> Iterator[Rating]:
    """Ratings out of a file or folder, in the order in which they stand there.

    Args:
        path: a CSV file; Label Studio's export; Potato's `annotation_output`.
        format: csv, label-studio or potato.
        columns: names in it. Of Label Studio, `label` is the control's name and `item`, `text`, `speaker` are keys of
            `data`; of Potato, `label` is the scheme's name and the others are keys of `items`. What can only be one thing may
            be empty.
        items: of Potato, the data file with the texts or clips.
        left_out: counts what is no rating, by reason.

    Raises:
        UserError: the file is not what `format` says, or a name must be given.
    """
    if format not in FORMATS:
        raise not_one_of("--from", format, FORMATS)
    if items is not None and format != "potato":
        raise UserError("--items: of potato alone")
    if format == "csv":
        if not columns.item or not columns.label:
            raise UserError(f"{path}: name the columns with --item and --label")
        return csv_ratings(path, columns)
    if format == "label-studio":
        return _label_studio(path, columns, left_out)
    return _potato(path, columns, items, left_out)


def _label_studio(path: Path, columns: Columns, left_out: Counter[str]) -> Iterator[Rating]:
    tasks = read_json(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise UserError(f"{path}: not an export of Label Studio: a list of tasks is needed (JSON or JSON-MIN)")
    if not tasks:
        raise UserError(f"{path}: holds no task")
    small = not any("annotations" in task for task in tasks)
    if small and not columns.label:
        raise UserError(f"{path}: JSON-MIN: name the key of the choice with --label; there are {', '.join(tasks[0])}")
    data = [task if small else task.get("data") or {} for task in tasks]
    if not all(isinstance(fields, dict) for fields in data):
        raise UserError(f"{path}: not an export of Label Studio: the `data` of each task must be an object")
    item = columns.item or _sound_key(data)
    if item is None and not columns.text:
        raise UserError(
            f"{path}: name the key of the clip with --item, or of the text with --text: {', '.join(data[0])}"
        )
    control = columns.label if small else columns.label or _only_control(path, tasks)
    addresses: dict[str, str] = {}
    for number, (task, fields) in enumerate(zip(tasks, data, strict=True), start=1):
        where = f"{path}: task {task.get('id', number)}"
        name = str(task.get("id", number))
        if item is not None:
            address = _value(fields, item, where)
            name = _own_name(addresses, _file_name(address), address, where)
        head = {kind: _value(fields, key, where) for kind, key in _more(columns)}
        annotations = [task] if small else task.get("annotations") or []
        if not annotations:
            left_out["tasks without an annotation"] += 1
        for order, annotation in enumerate(annotations, start=1):
            known = annotation.get("annotator") if small else _rater(annotation.get("completed_by"))
            rater = str(order if known is None else known)
            if annotation.get("was_cancelled"):
                left_out["annotations that were skipped"] += 1
                continue
            chosen = _choices(annotation.get(control)) if small else _results(annotation, control)
            if not chosen:
                left_out["annotations without a choice"] += 1
            for label in chosen:
                yield where, {"item": name, "label": label, "rater": rater, **head}


def _sound_key(data: list[Mapping[str, Any]]) -> str | None:
    """The first key whose values all are names of sound files."""
    for key in data[0]:
        if all(str(fields.get(key, "")).split("?d=")[-1].lower().endswith(SUFFIXES) for fields in data):
            return key
    return None


def _only_control(path: Path, tasks: list[dict[str, Any]]) -> str:
    found = {
        result["from_name"]
        for task in tasks
        for annotation in task.get("annotations") or []
        for result in annotation.get("result") or []
        if result.get("type") == "choices"
    }
    if len(found) != 1:
        raise UserError(
            f"{path}: name the control with --label: {', '.join(sorted(found)) or 'there is none of choices'}"
        )
    return str(found.pop())


def _results(annotation: Mapping[str, Any], control: str) -> list[str]:
    return [
        str(choice)
        for result in annotation.get("result") or []
        if result.get("from_name") == control and result.get("type") == "choices"
        for choice in result.get("value", {}).get("choices", [])
    ]


def _choices(value: Any) -> list[str]:
    """Of JSON-MIN: one choice as it is, several under `choices`."""
    chosen = value.get("choices", []) if isinstance(value, dict) else [value]
    return [str(choice) for choice in chosen if choice not in (None, "")]


def _rater(value: Any) -> Any:
    return value.get("email") or value.get("id") if isinstance(value, dict) else value


def _file_name(address: str) -> str:
    """A clip's path below its folder, or its name, from the address by which Label Studio serves it.

    >>> _file_name("/data/upload/3/0a1b2c3d-clip%2001.wav"), _file_name("/data/local-files/?d=speech/clip.wav")
    ('clip 01.wav', 'speech/clip.wav')
    """
    parts = urlsplit(address)
    if local := parse_qs(parts.query).get("d"):
        return local[0].lstrip("/")
    name = PurePosixPath(unquote(parts.path)).name
    return _UPLOADED.sub("", name) if "/data/upload/" in address else name


def _own_name(names: dict[str, str], name: str, address: str, where: str) -> str:
    """The name, which is that of the clip at an address alone; `names` remembers whose each is.

    Raises:
        UserError: a clip at another address has the same name, so that their votes would be taken together.
    """
    if names.setdefault(name, address) != address:
        raise UserError(f"{where}: {address} and {names[name]} would both be {name}; give the files names of their own")
    return name


def _potato(path: Path, columns: Columns, items: Path | None, left_out: Counter[str]) -> Iterator[Rating]:
    states = sorted(path.glob("*/user_state.json"))
    if not states:
        raise UserError(f"{path}: holds no */user_state.json; name Potato's annotation_output")
    answers = [(read_json(state), state) for state in states]
    found = {
        schema
        for state, _ in answers
        for pairs in state.get("instance_id_to_label_to_value", {}).values()
        for schema, _, _ in _pairs(pairs)
    }
    if not columns.label and len(found) != 1:
        raise UserError(f"{path}: name the scheme with --label: {', '.join(sorted(found)) or 'nothing was answered'}")
    if columns.label and columns.label not in found:
        raise UserError(f"{path}: no scheme {columns.label!r} was answered, but {', '.join(sorted(found))}")
    scheme = columns.label or found.pop()
    data = _potato_items(items) if items is not None else {}
    if not items and (columns.item or columns.text or columns.speaker or columns.split):
        raise UserError("--items: name the data file that was annotated, whose keys --item, --text and --speaker are")
    addresses: dict[str, str] = {}
    for state, source in answers:
        for name, pairs in state.get("instance_id_to_label_to_value", {}).items():
            where = f"{source}: {name}"
            if items is not None and name not in data:
                raise UserError(f"{where}: not in {items}")
            fields = data.get(name, {})
            item = name
            if columns.item:
                address = _value(fields, columns.item, where)
                item = _own_name(addresses, PurePosixPath(address).name, address, where)
            head = {kind: _value(fields, key, where) for kind, key in _more(columns)}
            chosen = [label for schema, label, value in _pairs(pairs) if schema == scheme and value not in _NO_CHOICE]
            if not chosen:
                left_out["annotations without a choice"] += 1
            for label in chosen:
                yield (
                    where,
                    {"item": item, "label": label, "rater": str(state.get("user_id", source.parent.name)), **head},
                )


def _pairs(answers: Any) -> Iterator[tuple[str, str, Any]]:
    """(scheme, label, value) of an item's answers: pairs, or mappings as earlier versions wrote them."""
    if isinstance(answers, dict):
        for schema, values in answers.items():
            for name, value in values.get("labels", values).items():
                yield schema, str(name), value
    else:
        for label, value in answers:
            yield label["schema"], str(label["name"]), value


def _potato_items(path: Path) -> dict[str, Mapping[str, Any]]:
    """Items by id, of JSON, JSON Lines or CSV."""
    rows: list[Any]
    if path.suffix == ".csv":
        rows = [record for _, record in csv_records(path)]
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
            lines = [text] if text.lstrip().startswith("[") else [line for line in text.split("\n") if line.strip()]
            rows = [json.loads(line) for line in lines]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: not JSON ({error})") from None
        rows = rows[0] if rows and isinstance(rows[0], list) else rows
    if not all(isinstance(row, dict) and "id" in row for row in rows):
        raise UserError(f"{path}: every item needs an `id`")
    if twice := [name for name, count in Counter(str(row["id"]) for row in rows).items() if count > 1]:
        raise UserError(f"{path}: id {twice[0]!r} stands there twice")
    return {str(row["id"]): row for row in rows}


def _more(columns: Columns) -> list[tuple[str, str]]:
    """Kinds and keys of what an item has besides its name."""
    return [(kind, key) for kind in ("speaker", "text", "split") if (key := getattr(columns, kind))]


def _value(fields: Mapping[str, Any], key: str, where: str) -> str:
    if fields.get(key) is None:
        raise UserError(f"{where}: has no {key!r}, but {', '.join(fields) or 'nothing'}")
    return str(fields[key])


def export_columns(columns: Columns) -> Columns:
    """Columns of the records that Label Studio's and Potato's ratings come as."""
    named = {kind: kind for kind, _ in _more(columns)}
    return replace(Columns("item", "label", "rater"), **named)
