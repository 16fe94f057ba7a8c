"""A lab's own votes: ratings, one at a time, whose columns are named by whoever brings them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from shala_audio.audio.sound import SUFFIXES
from shala_audio.data.csv_records import csv_records
from shala_audio.data.prepare import Prepared, sound_durations
from shala_audio.data.rows import Audio, Row
from shala_audio.data.splits import SHARES, split_by_group
from shala_audio.errors import UserError
from shala_audio.files import write_text
from shala_audio.tasks import Label, Task

SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "development": "dev", "test": "test"}


@dataclass(frozen=True)
class Columns:
    """Names of columns; None where the file has no such column.

    Attributes:
        item: what was judged: the clip's file name with or without its suffix, or any name of a text.
        label: the choice.
        rater: who chose. Several choices of one rater share that rater's one vote; without it, each line is a vote.
        speaker: who is heard or writes; the split then keeps each speaker on one side.
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
