"""Ratings out of what annotation tools export: Label Studio (JSON, JSON-MIN) and Potato (its output folder).

A CSV with a header, line by line; a line that does not fit the header is refused, not shifted or cut.

A lab's own votes: ratings, one at a time, whose columns are named by whoever brings them.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from shala_audio.audio.io import SUFFIXES
from shala_audio.corpora.prepare import Prepared, sound_durations
from shala_audio.corpora.splits import SHARES, split_by_group
from shala_audio.errors import UserError, not_one_of
from shala_audio.io import read_json, readable, write_text
from shala_audio.manifest import Audio, Row
from shala_audio.task import Label, Task


def csv_records(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every line below the header as (`file:line`, its values by column), without spaces around names and before values.

    Raises:
        UserError: no such file, not CSV in UTF-8, two columns of one name, or a line with more or fewer values than columns;
            the message names the line.
    """
    with readable(path), open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True, strict=True)
        try:
            header = [(name or "").strip() for name in reader.fieldnames or []]
            if twice := [name for name, count in Counter(header).items() if count > 1]:
                raise UserError(f"{path}: has two columns named {twice[0]!r}")
            reader.fieldnames = header
            for record in reader:
                if None in record or None in record.values():
                    raise UserError(f"{path}:{reader.line_num}: not as many values as there are columns")
                yield f"{path}:{reader.line_num}", record
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}:{reader.line_num + 1}: cannot be read as CSV in UTF-8 ({error})") from None


SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "development": "dev", "test": "test"}


@dataclass(frozen=True)
class Columns:
    """Names of columns; None where the file has no such column.

    Attributes:
        item: what was judged: the clip's file name with or without its suffix, or any name of a text.
        label: the choice.
        rater: who chose. Several choices of one rater share that rater's one vote; without it, each line is a vote.
        speaker: who speaks or writes; the split then keeps each speaker on one side.
        text: the text that was judged, or the clip's transcript.
        split: train, dev (or validation) or test; without it, 70, 10 and 20 % by speaker, or else by item.
    """

    item: str
    label: str
    rater: str | None = None
    speaker: str | None = None
    text: str | None = None
    split: str | None = None


Rating = tuple[str, Mapping[str, str]]  # where it stands, and its values by column


@dataclass
class _Item:
    """What the lines of one item say."""

    choices: dict[str, set[str]]  # of each rater
    fields: dict[str, str]  # speaker, text, split


def gather(
    ratings: Iterable[Rating], columns: Columns, left_out: Counter[str], leave_out: Collection[str] = ()
) -> dict[str, _Item]:
    """Items in the order in which they first stand there.

    Args:
        ratings: of a file of votes.
        columns: by which their values are called.
        left_out: counts what is left out, by reason.
        leave_out: labels that are none.

    Raises:
        UserError: a rating has no item or no label, or contradicts an earlier one; the message says where it stands.
    """
    items: dict[str, _Item] = {}
    ignored = {label.lower() for label in leave_out}
    for where, record in ratings:
        name, label = record[columns.item].strip(), record[columns.label].strip()
        if not name or not label:
            raise UserError(f"{where}: {columns.label if name else columns.item} is empty")
        item = items.setdefault(name, _Item(defaultdict(set), {}))
        for kind in ("speaker", "text", "split"):
            column = getattr(columns, kind)
            if column and item.fields.setdefault(kind, record[column].strip()) != record[column].strip():
                raise UserError(f"{where}: {column} of {name} is {record[column]!r}, and {item.fields[kind]!r} before")
        rater = record[columns.rater].strip() if columns.rater else where
        if not rater:
            raise UserError(f"{where}: {columns.rater} is empty; ratings of nobody known would count as one person's")
        if label.lower() in ignored:
            left_out[f"ratings as {label}"] += 1
        elif label in item.choices[rater]:
            left_out["ratings that stand there twice"] += 1
        else:
            item.choices[rater].add(label)
    return items


def csv_ratings(path: Path, columns: Columns) -> Iterator[Rating]:
    """Ratings of a CSV file with a line for each.

    Raises:
        UserError: a column is missing, or a line cannot be read; the message names it.
    """
    wanted = [name for name in vars(columns).values() if name]
    for where, record in csv_records(path):
        for column in wanted:
            if column not in record:
                raise UserError(f"{path}: has no column {column!r}, but {', '.join(record)}")
        yield where, record


def task_of(name: str, items: Mapping[str, _Item], modality: str) -> Task:
    """A task with the labels that were chosen, in order of the alphabet, and a plain question.

    Labels that differ in capital letters alone are one, as it is written most often.
    """
    chosen = Counter(label for item in items.values() for labels in item.choices.values() for label in labels)
    labels = sorted({label.lower(): label for label, _ in reversed(chosen.most_common())}.values())
    if len(labels) < 2:
        raise UserError(f"all ratings say {labels[0]!r}; two labels or more are needed" if labels else "no ratings")
    question = {
        "audio": "{{ audio }} How does this sound to a listener: {{ labels | join(', ') }}?",
        "text": "{{ text.text }}\nHow does this read: {{ labels | join(', ') }}?",
        "audio+text": "{{ audio }} The speaker says: \"{{ text.text }}\" How does this sound: {{ labels | join(', ') }}?",
    }[modality]
    answer = "It reads as" if modality == "text" else "It sounds"
    return Task(name, modality, tuple(Label(label, label) for label in labels), question, answer)


def write_task(path: Path, task: Task) -> None:
    """Write a task file to be edited."""
    write_text(
        path,
        "# Made from the votes: give each label the word that the model shall answer, and ask in your own words.\n"
        + yaml.safe_dump(task.to_dict(), sort_keys=False, allow_unicode=True),
    )


def prepare(
    items: Mapping[str, _Item], left_out: Counter[str], task: Task, clips: Path | None, seed: int, caveat: str
) -> Prepared:
    """Rows of a task from what was read.

    Args:
        items, left_out: of `gather`.
        task: whose labels, or label words, the choices are; capital letters do not matter.
        clips: folder of the sound, with or without folders in it.
        seed: of the split, where the file has none.
        caveat: to print beside every result.

    Raises:
        UserError: a choice is no label of the task, a split has an unknown name, or two clips have an item's name.
    """
    known = {label.word.lower(): label.name for label in task.labels}
    known |= {label.name.lower(): label.name for label in task.labels}  # which count for more than another label's word
    found = _clips(clips, items) if clips is not None else {}
    durations = dict(zip(found, sound_durations(list(found.values())), strict=True))
    field = (*task.text_fields(), "text")[0]
    rows: list[Row] = []
    left_out = Counter(left_out)
    for name, item in items.items():
        if clips is not None and name not in found:
            left_out["items without a sound file"] += 1
            continue
        votes: dict[str, float] = defaultdict(float)
        for rater, chosen in item.choices.items():
            for label in chosen:
                if label.lower() not in known:
                    raise UserError(
                        f"{name}: {rater} chose {label!r}, which is no label of task {task.name} "
                        f"({', '.join(task.label_names)}); --leave-out {label!r} leaves such ratings out"
                    )
                votes[known[label.lower()]] += 1 / len(chosen)
        if not votes:
            left_out["items without a rating"] += 1
            continue
        split = item.fields.get("split", "train")
        if split.lower() not in SPLITS:
            raise UserError(f"{name}: no split is called {split!r}; use train, dev or test")
        audio = None
        if clips is not None:
            audio = Audio(found[name].relative_to(clips).as_posix(), 0.0, durations[name])
        text = {field: item.fields["text"]} if item.fields.get("text") else {}
        if audio is None and not text and "text" in item.fields:
            left_out["items without a text"] += 1
            continue
        speaker = item.fields.get("speaker") or None
        rows.append(Row(name, task.name, SPLITS[split.lower()], speaker, audio, text, dict(votes)))
    if rows and not any("split" in item.fields for item in items.values()):
        split_of = split_by_group([row.speaker or row.id for row in rows], SHARES, seed)
        rows = [replace(row, split=split_of[row.speaker or row.id]) for row in rows]
    return Prepared(rows, left_out, caveat, "your own")


def _clips(folder: Path, names: Collection[str]) -> dict[str, Path]:
    """The sound file of each item that has one: by its path below `folder`, by its file's name, or by that without suffix."""
    by_name: dict[str, set[Path]] = defaultdict(set)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            for name in (path.relative_to(folder).as_posix(), path.name, path.stem):
                by_name[name].add(path)
    root = folder.resolve()
    for name in names:
        for path in by_name.get(name, ()):
            if not path.resolve().is_relative_to(root):
                raise UserError(f"{path}: leads out of {folder}; name a folder that holds what it links to")
    owner: dict[Path, str] = {}
    for name in names:
        if len(by_name.get(name, ())) > 1:
            one, two, *_ = sorted(path.relative_to(folder).as_posix() for path in by_name[name])
            raise UserError(f"{name}: both {one} and {two} have that name; write the path below {folder}")
        for path in by_name.get(name, ()):
            if owner.setdefault(path, name) != name:
                raise UserError(f"{owner[path]} and {name} are one clip, {path.name}; call it the same in every line")
    return {name: next(iter(by_name[name])) for name in names if name in by_name}


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
