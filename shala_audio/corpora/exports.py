"""Ratings out of what annotation tools export: Label Studio (JSON, JSON-MIN) and Potato (its output folder)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from shala_audio.audio.containers import SUFFIXES
from shala_audio.corpora.ratings import Columns, Rating, Region, choices_of
from shala_audio.corpora.sound_files import last_part, without_upload_mark
from shala_audio.corpora.tables import csv_records, plain_text
from shala_audio.errors import Note, UserError
from shala_audio.io import read_json

_NO_CHOICE = (None, False, "", "false")  # how Potato writes a box that was cleared
_KINDS = ("choices", "labels", "rating", "number", "textarea")  # of Label Studio's results that hold an answer


# Label Studio -----------------------------------------------------------------------------------------------------------


def label_studio_ratings(path: Path, columns: Columns, left_out: Counter[str], note: Note) -> Iterator[Rating]:
    """Ratings of Label Studio's export. A region of a clip that was judged by itself is an item of its own.

    Args:
        path: JSON, of today's (`annotations`) or earlier versions (`completions`), or JSON-MIN.
        columns: `label` is the control's name; `item`, `text` and `speaker` are keys of `data`; `rater` is a key of an
            annotation or of `data`. What can only be one thing may be empty.
        left_out: counts what is no rating, by reason.
        note: told what was recognised.

    Raises:
        UserError: not such an export, or a name must be given.
    """
    tasks = read_json(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise UserError(f"{path}: not an export of Label Studio: a list of tasks is needed (JSON or JSON-MIN)")
    if not tasks:
        raise UserError(f"{path}: holds no task")
    if any("completions" in task for task in tasks):  # before version 1.0
        tasks = [{**task, "annotations": task.get("annotations") or task.get("completions")} for task in tasks]
    for task in tasks:
        annotations = task.get("annotations")
        if annotations and not (isinstance(annotations, list) and all(isinstance(one, dict) for one in annotations)):
            raise UserError(
                f"{path}: task {task.get('id')}: its annotations are {str(annotations)[:40]}; export the project as JSON with "
                "annotations, or as JSON-MIN"
            )
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
    there = set().union(*tasks) if small else {name for names in _controls(path, tasks).values() for name in names}
    if control not in there:
        raise UserError(
            f"{path}: nothing was answered with {control!r} (--label), but with {', '.join(sorted(there)) or 'nothing'}"
        )
    alike = _channels(tasks, control, small) == {"0"}  # Label Studio writes it where nobody told channels apart
    if alike:
        note(
            "every part of a clip says channel 0, as where nobody told channels apart; --channel 0 takes that one alone"
        )
    addresses: dict[str, str] = {}
    regions, shared = 0, 0
    seen: Counter[tuple[str, str]] = Counter()
    for number, (task, fields) in enumerate(zip(tasks, data, strict=True), start=1):
        where = f"{path}: task {task.get('id', number)}"
        name = str(task.get("id", number))
        if item is not None:
            address = _value(fields, item, where)
            name = _own_name(addresses, _file_name(address), address, where)
        head = {kind: plain_text(_value(fields, key, where)) for kind, key in columns.more()}
        annotations = [task] if small else task.get("annotations") or []
        if not annotations:
            left_out["tasks without an annotation"] += 1
        for order, annotation in enumerate(annotations, start=1):
            if annotation.get("was_cancelled") or annotation.get("skipped"):
                left_out["annotations that were skipped"] += 1
                continue
            rater = _rater(annotation, fields, columns.rater, order, small, where)
            seen[name, rater] += 1
            if (times := seen[name, rater]) > 1:  # several people on one account, or one who judged twice
                shared += 1
                rater = f"{rater} #{times}"
            found = _small_answers(annotation.get(control), where) if small else _answers(annotation, control, where)
            if not found:
                left_out["annotations without a choice"] += 1
            for region, choices in found:
                if region is None:
                    yield Rating(where, name, choices, rater, fields=head)
                    continue
                if item is None:
                    raise UserError(f"{where}: a part of a text was judged; whole texts and parts of clips are read")
                regions += 1
                start, end, channel = (*region[:2], None) if alike else region
                side = "" if channel is None else f" channel {channel}"
                part = Region(name, start, round(end - start, 4), channel)
                yield Rating(where, f"{name} {start:g}-{end:g}{side}", choices, rater, region=part, fields=head)
    if regions:
        note(
            f"{path}: {regions} answers are on parts of clips; each part is an item of its own, with its offset and duration"
        )
    if shared:
        note(f"{path}: {shared} times one account judged a task again; each annotation counts as a rater's of its own")


def _sound_key(data: Sequence[Mapping[str, Any]]) -> str | None:
    """The first key whose values all are names of sound files."""
    for key in data[0]:
        addresses = [str(fields.get(key, "")).split("?d=")[-1].split("?")[0].lower() for fields in data]
        if all(address.endswith(SUFFIXES) for address in addresses):
            return key
    return None


def _results(annotation: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    results = annotation.get("result") or []
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise UserError(f"{where}: `result` must be a list of objects")
    return results


def _controls(path: Path, tasks: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Names of the controls that something was answered with, by type."""
    kinds: dict[str, set[str]] = {}
    for task in tasks:
        for annotation in task.get("annotations") or []:
            for result in _results(annotation, f"{path}: task {task.get('id')}"):
                kinds.setdefault(str(result.get("type")), set()).add(str(result.get("from_name")))
    return kinds


def _channels(tasks: Sequence[Mapping[str, Any]], control: str, small: bool) -> set[str]:
    """What the regions say of their channels."""
    every = [annotation for task in tasks for annotation in ([task] if small else task.get("annotations") or [])]
    values = []
    for annotation in every:
        listed = annotation.get(control) if small else annotation.get("result")
        listed = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        values += listed if small else [one.get("value") for one in listed]
    return {str(one.get("channel")) for one in values if isinstance(one, dict) and one.get("start") is not None}


def _only_control(path: Path, tasks: Sequence[Mapping[str, Any]]) -> str:
    kinds = _controls(path, tasks)
    for kind in _KINDS[:3]:  # a remark that somebody wrote beside a choice is no label
        if len(found := kinds.get(kind, set())) == 1:
            return next(iter(found))
        if found:
            raise UserError(f"{path}: name the control with --label: {', '.join(sorted(found))}")
    names = ", ".join(sorted({name for found in kinds.values() for name in found}))
    raise UserError(f"{path}: name the control with --label: {names or 'there is none of choices'}")


Span = tuple[float, float, int | None]  # seconds of a region, and its channel


def _answers(annotation: Mapping[str, Any], control: str, where: str) -> list[tuple[Span | None, list[str]]]:
    """What an annotation answers with a control: of the whole clip, or of each region."""
    found: list[tuple[Span | None, list[str]]] = []
    for result in _results(annotation, where):
        if result.get("from_name") != control:
            continue
        value, kind = result.get("value") or {}, str(result.get("type"))
        if not isinstance(value, dict):
            raise UserError(f"{where}: the answer of {control} is {str(value)[:40]!r}; an object is needed")
        if kind not in _KINDS:
            raise UserError(f"{where}: control {control} is of type {kind}; {', '.join(_KINDS)} are read")
        said = value.get("text" if kind == "textarea" else kind)
        if choices := choices_of(said):
            found.append((_span(value, where), choices))
    return found


def _small_answers(value: Any, where: str) -> list[tuple[Span | None, list[str]]]:
    """Of JSON-MIN: one choice as it is, several under `choices`, regions as a list of objects with `start` and `end`."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        found = []
        for one in value:
            said = next((one[kind] for kind in (*_KINDS, "text") if kind in one), None)
            if choices := choices_of(said):
                found.append((_span(one, where), choices))
        return found
    choices = choices_of(value)
    return [(None, choices)] if choices else []


def _span(value: Mapping[str, Any], where: str) -> Span | None:
    start, end = value.get("start"), value.get("end")
    if start is None and end is None:
        return None
    if isinstance(start, str) or isinstance(end, str):  # as parts of texts are told
        raise UserError(f"{where}: a part of a text was judged; whole texts and parts of clips are read")
    try:
        first, last = round(float(start), 4), round(float(end), 4)  # type: ignore[arg-type]
        channel = None if value.get("channel") is None else int(value["channel"])
    except (TypeError, ValueError):
        raise UserError(f"{where}: a part from {start!r} to {end!r}; seconds are needed") from None
    if not 0 <= first < last:
        raise UserError(f"{where}: a part from {first:g} to {last:g} s; it must end after it begins")
    return first, last, channel


def _rater(
    annotation: Mapping[str, Any], data: Mapping[str, Any], key: str | None, order: int, small: bool, where: str
) -> str:
    """Who made an annotation; by its number in the task where nobody is named."""
    if key is not None:
        known = annotation.get(key, data.get(key))
        if known is None:
            raise UserError(f"{where}: has no {key!r} (--rater), but {', '.join(annotation)}")
    else:
        known = annotation.get("annotator" if small else "completed_by")
    if isinstance(known, dict):
        known = known.get("email") or known.get("id")
    return str(order if known is None else known)


def _file_name(address: str) -> str:
    """A clip's path below its folder, or its name, from the address by which Label Studio serves it.

    >>> _file_name("/data/upload/3/0a1b2c3d-clip%2001.wav"), _file_name("/data/local-files/?d=speech/clip.wav")
    ('clip 01.wav', 'speech/clip.wav')
    """
    if local := parse_qs(address.partition("?")[2]).get("d"):
        return plain_text(local[0].lstrip("/"))
    name = plain_text(last_part(address))
    return without_upload_mark(name) if "/data/upload/" in address else name


def _own_name(names: dict[str, str], name: str, address: str, where: str) -> str:
    """The name, which is that of the clip at an address alone; `names` remembers whose each is.

    Raises:
        UserError: a clip at another address has the same name, so that their votes would be taken together.
    """
    if names.setdefault(name, address) != address:
        raise UserError(f"{where}: {address} and {names[name]} would both be {name}; give the files names of their own")
    return name


# Potato -----------------------------------------------------------------------------------------------------------------


def potato_ratings(
    path: Path, columns: Columns, items: Path | None, left_out: Counter[str], note: Note
) -> Iterator[Rating]:
    """Ratings of Potato's `annotation_output`.

    Args:
        path: the folder.
        columns: `label` is the scheme's name, and the others are keys of `items`. What can only be one thing may be empty.
        items: the data file with the texts or clips.
        left_out: counts what is no rating, by reason.
        note: told what was recognised.

    Raises:
        UserError: not such a folder, or a name must be given.
    """
    if columns.rater:
        raise UserError("--rater: Potato's answers say whose they are; leave it out")
    states = sorted(path.glob("*/user_state.json"))
    if not states:
        raise UserError(f"{path}: holds no */user_state.json; name Potato's annotation_output")
    answers = [(_state(state), state) for state in states]
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
    data = _potato_items(items, note) if items is not None else {}
    if not items and (columns.item or columns.text or columns.speaker or columns.split):
        raise UserError("--items: name the data file that was annotated, whose keys --item, --text and --speaker are")
    addresses: dict[str, str] = {}
    for state, source in answers:
        for name, pairs in state.get("instance_id_to_label_to_value", {}).items():
            where = f"{source}: {name}"
            if items is not None and name not in data:
                raise UserError(f"{where}: not in {items}")
            fields = data.get(name, {})
            item = plain_text(name)
            if columns.item:
                address = _value(fields, columns.item, where)
                item = _own_name(addresses, plain_text(last_part(address)), address, where)
            head = {kind: plain_text(_value(fields, key, where)) for kind, key in columns.more()}
            said = [_said(label, value) for schema, label, value in _pairs(pairs) if schema == scheme]
            choices = [label for one in said for label in choices_of(one)]
            if not choices:
                left_out["annotations without a choice"] += 1
                continue
            yield Rating(where, item, choices, str(state.get("user_id", source.parent.name)), fields=head)


def _state(path: Path) -> dict[str, Any]:
    """A person's answers, checked."""
    state = read_json(path)
    answers = state.get("instance_id_to_label_to_value", {}) if isinstance(state, dict) else None
    if not isinstance(answers, dict):
        raise UserError(f"{path}: not a state of Potato's: `instance_id_to_label_to_value` must be an object")
    try:
        for pairs in answers.values():
            list(_pairs(pairs))
    except (TypeError, ValueError, KeyError, AttributeError):
        raise UserError(
            f"{path}: holds answers that are no pairs of a label and a value, as Potato writes them"
        ) from None
    return state


def _said(label: str, value: Any) -> str:
    """What was chosen: the label of a box that is ticked; of sliders, lists and fields, the value."""
    if value in _NO_CHOICE or (str(value) == "0" and label != "0"):
        return ""
    return label if str(value).lower() in ("true", "on", "1", label.lower()) else str(value)


def _pairs(answers: Any) -> Iterator[tuple[str, str, Any]]:
    """(scheme, label, value) of an item's answers: pairs, or mappings as earlier versions wrote them."""
    if isinstance(answers, dict):
        for schema, values in answers.items():
            for name, value in values.get("labels", values).items():
                yield schema, str(name), value
    else:
        for label, value in answers:
            yield label["schema"], str(label["name"]), value


def _potato_items(path: Path, note: Note) -> dict[str, Mapping[str, Any]]:
    """Items by id, of JSON, JSON Lines, CSV or TSV."""
    rows: list[Any]
    if path.suffix.lower() in (".csv", ".tsv", ".xlsx"):
        rows = [record for _, record in csv_records(path, note)]
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


def _value(fields: Mapping[str, Any], key: str, where: str) -> str:
    if fields.get(key) is None:
        raise UserError(f"{where}: has no {key!r}, but {', '.join(fields) or 'nothing'}")
    return str(fields[key])
