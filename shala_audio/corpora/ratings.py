"""Votes of a lab: ratings, one at a time, whose columns are named by whoever brings them; and rows of a corpus made of them.

Nothing is merged or left out in silence: what the ratings spell in several ways, what they name several labels in, and what
stands for a missing value is counted and told, or refused, before anything is written.
"""

from __future__ import annotations

import contextlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from shala_audio.audio.io import SAMPLE_RATE, SHORTEST
from shala_audio.corpora.prepare import Prepared, sound_durations
from shala_audio.corpora.sound_files import find_sound_files
from shala_audio.corpora.splits import SHARES, split_by_group, twin_groups
from shala_audio.corpora.tables import (
    Record,
    check_columns,
    csv_records,
    one_edit_apart,
    plain_label,
    plain_text,
)
from shala_audio.errors import Note, UserError, no_note, not_one_of
from shala_audio.io import write_text
from shala_audio.manifest import Audio, Row
from shala_audio.task import Label, Task
from shala_audio.votes import count_votes

SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "development": "dev", "test": "test"}
LAYOUTS = ("long", "wide", "counts")
SEVERAL = ("refuse", "split", "leave-out")
MISSING = {
    "nan",
    "na",
    "n/a",
    "#n/a",
    "none",
    "null",
    "nil",
    "missing",
    "(blank)",
    "n.a.",
    "-",
    "--",
    "?",
    ".",
    "undefined",
    "<na>",
}
NO_NAME = {"nan", "na", "n/a", "#n/a", "null", "<na>"}  # of a rater, a speaker or a text
SEPARATORS = (",", ";", "|", "\n")
JOINERS = ("/", "+", "&", " and ")  # of labels where both of their parts are labels too
MOST_LABELS = 300
_SUMS = {"total", "sum", "n", "count", "raters", "num_raters", "n_raters", "nraters"}
_COUNT = {"count", "counts", "n", "votes", "freq", "frequency"}  # how often a line of a long table was said
_TICKS = {"", "true", "false", "x", "yes", "no", "1", "0", "1.0", "0.0", "checked", "unchecked"}
_TICKED = {"true", "x", "yes", "1", "1.0", "checked"}
_LOOKS = str.maketrans("асеорхуіѕкмтнв", "aceopxyiskmthb")  # Cyrillic letters that look like Latin ones
_RATER = re.compile(
    r"(rater|annot|annotator|coder|judge|listener|worker|participant|subject|user|label|[arpuw])[ _-]?\d+", re.I
)


@dataclass(frozen=True)
class Columns:
    """Names of columns; None where the file has no such column.

    Attributes:
        item: what was judged: the clip's file name with or without its suffix, or any name of a text.
        label: the choice; of a table with a column for each rater or each label, those columns with commas between, or
            all that have no other part where empty.
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

    def more(self) -> list[tuple[str, str]]:
        """Kinds and names of what an item has besides its own."""
        return [(kind, name) for kind in ("speaker", "text", "split") if (name := getattr(self, kind))]


@dataclass(frozen=True)
class Region:
    """A part of a clip that was judged by itself: seconds, and the channel where it has one."""

    clip: str
    offset: float
    duration: float
    channel: int | None = None


@dataclass(frozen=True)
class Rating:
    """What one rater said of one item, and where it stands.

    Attributes:
        choices: labels; several where the rater chose several.
        rater: who; of nobody known, where it stands; empty in a table of counts.
        count: how many raters said so, there.
        region: of the clip, if not all of it was judged.
        fields: the item's speaker, text and split, as far as there are any.
    """

    where: str
    item: str
    choices: Sequence[str]
    rater: str
    count: float = 1.0
    region: Region | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Item:
    """What was said of one item."""

    choices: dict[str, set[str]]  # of each rater
    fields: Mapping[str, str]
    region: Region | None = None
    counts: dict[str, float] = field(default_factory=dict)  # of a table of counts

    def votes(self) -> dict[str, float]:
        votes: Counter[str] = Counter(count_votes(self.choices.values()))  # type: ignore[arg-type]
        votes.update(self.counts)
        return dict(votes)


# Reading a table --------------------------------------------------------------------------------------------------------


def table_ratings(
    path: Path,
    columns: Columns,
    left_out: Counter[str],
    layout: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    note: Note = no_note,
) -> Iterator[Rating]:
    """Ratings of a table.

    Args:
        path: CSV or Excel.
        columns: what they are called.
        left_out: counts what is no rating, by reason.
        layout: long, a line for each rating; wide, a column for each rater; counts, a column for each label, with how many
            chose it. Guessed, and told, where None.
        separator: of several choices in one cell.
        encoding: of a CSV file; recognised where None.
        note: told what was recognised.

    Raises:
        UserError: a column is missing, a line cannot be read, or the layout cannot be told; the message names it.
    """
    records = list(csv_records(path, note, encoding))
    if not records:
        raise UserError(f"{path}: has no line below the header")
    there = list(records[0][1])
    columns = Columns(**{kind: plain_label(name) if name else name for kind, name in vars(columns).items()})
    roles = [name for kind, name in vars(columns).items() if name and kind != "label"]
    check_columns(path, roles, there)
    others = columns.label.split(",") if columns.label and columns.label not in there else []
    others = [plain_label(name) for name in others] or [name for name in there if name and name not in roles]
    layout = layout or _guess_layout(path, columns, records, others, note)
    if layout not in LAYOUTS:
        raise not_one_of("--layout", layout, LAYOUTS)
    if layout == "long" and not columns.label:
        raise UserError(f"{path}: name the column of the choice with --label: {', '.join(others)}")
    chosen = [columns.label] if columns.label in there else others
    check_columns(path, chosen, there)
    reviewed = {re.sub(r"\W|_", "", name).lower(): name for name in there}
    kept = [record for record in records if not _is_rejected(record[1], reviewed)]
    if len(kept) < len(records):
        left_out["assignments that were rejected"] += len(records) - len(kept)
    if layout == "wide":
        _check_wide(path, kept, chosen)
    ticked = layout == "counts" and _is_ticked(kept, chosen, columns)
    if columns.rater and layout != "long" and not ticked:
        who = "the columns are the raters" if layout == "wide" else "nobody is named"
        raise UserError(f"--rater: of --layout long; with {layout}, {who}")
    if layout == "counts" and not ticked:
        _check_counts(path, kept, chosen, note)
    yield from _ratings(kept, columns, "ticks" if ticked else layout, chosen, separator, left_out, note)


def _is_rejected(record: Mapping[str, str], columns: Mapping[str, str]) -> bool:
    """Whether Mechanical Turk's line is of an assignment that was rejected; `columns` by their names in plain letters."""

    def value(name: str) -> str:
        return record[columns[name]].strip().lower() if name in columns else ""

    return value("assignmentstatus") == "rejected" or ("approve" in columns and bool(value("reject")))


def _is_ticked(records: Sequence[Record], chosen: Sequence[str], columns: Columns) -> bool:
    """Whether label columns hold ticks of single raters, and not how many chose a label."""
    values = {record[column].strip().lower() for _, record in records for column in chosen}
    names = [record[columns.item] for _, record in records]
    return values <= _TICKS and bool(columns.rater or not values <= {"", "0", "1"} or len(set(names)) < len(names))


def _ratings(
    records: Sequence[Record],
    columns: Columns,
    layout: str,
    chosen: Sequence[str],
    separator: str | None,
    left_out: Counter[str],
    note: Note,
) -> Iterator[Rating]:
    """Of records of a layout; `ticks` are counts of which each line is one rater's."""
    often = None
    if layout == "long" and not columns.rater and records:
        often = next((name for name in records[0][1] if name.lower() in _COUNT and name != columns.label), None)
        if often and not all(_is_count(record[often]) and record[often].strip() for _, record in records):
            often = None
        if often:
            note(f"column {often} is taken for how many chose the label of its line; --rater names raters instead")
    for where, record in records:
        name = plain_text(record[columns.item])
        if not name:
            raise UserError(f"{where}: {columns.item} is empty (of merged cells, only the first has a value)")
        fields = {kind: plain_text(record[key]) for kind, key in columns.more()}
        for kind in ("speaker", "text"):
            if fields.get(kind, "").lower() in NO_NAME:
                left_out[f"values of {kind} that say {fields[kind]}"] += 1
                fields[kind] = ""
        rater = where
        if columns.rater:
            rater = plain_label(record[columns.rater])
            if not rater or rater.lower() in NO_NAME:
                said = f"says {rater!r}" if rater else "is empty"
                raise UserError(f"{where}: {columns.rater} {said}; ratings of nobody known would count as one person's")
        if layout == "long":
            choices = choices_of(record[columns.label], separator)
            if not choices:
                raise UserError(f"{where}: {columns.label} is empty")
            if often and not float(record[often]):
                left_out["lines without a vote"] += 1
            elif often:
                yield Rating(where, name, choices, "", float(record[often]), fields=fields)
            else:
                yield Rating(where, name, choices, rater, fields=fields)
        elif layout == "ticks":
            choices = [column for column in chosen if record[column].strip().lower() in _TICKED]
            if choices:
                yield Rating(where, name, choices, rater, fields=fields)
            else:
                left_out["lines without a choice"] += 1
        elif layout == "wide":
            for column in chosen:
                if choices := choices_of(record[column], separator):
                    yield Rating(where, name, choices, column, fields=fields)
        else:
            counts = {column: float(record[column].strip() or 0) for column in chosen}
            if not any(counts.values()):
                left_out["lines without a vote"] += 1
            for column, count in counts.items():
                if count:
                    yield Rating(where, name, (column,), "", count, fields=fields)


def _check_wide(path: Path, records: Sequence[Record], chosen: Sequence[str]) -> None:
    """Raise where a column shares no value with the others, as one of speakers or dates does not."""
    if len(chosen) < 2 or len(records) < 3:
        return
    values = {column: {plain_label(record[column]).casefold() for _, record in records} - {""} for column in chosen}
    for column, own in values.items():
        others: set[str] = set().union(*(found for name, found in values.items() if name != column))
        if own and not own & others:
            left = ",".join(name for name in chosen if name != column)
            raise UserError(
                f"{path}: column {column} has no value in common with the others, such as {min(own)!r}; if it is no rater, name "
                f"the raters' columns: --layout wide --label {left[:200]}"
            )


def choices_of(cell: Any, separator: str | None = None) -> list[str]:
    """Labels that a cell names: one; several where a separator is given, or where it is JSON, as tools write it.

    >>> choices_of(" sad "), choices_of("sad, calm", ","), choices_of('{"choices": ["sad", "calm"]}')
    (['sad'], ['sad', 'calm'], ['sad', 'calm'])
    """
    if isinstance(cell, str) and cell.strip()[:1] in ("[", "{"):
        with contextlib.suppress(ValueError, RecursionError):  # a label may begin so, too
            cell = json.loads(cell)
    if isinstance(cell, str) and re.fullmatch(
        r"\[\s*'[^']*'(\s*,\s*'[^']*')*\s*\]", cell.strip()
    ):  # as Python writes a list
        cell = re.findall(r"'([^']*)'", cell)
    if isinstance(cell, Mapping):
        if "choices" in cell:
            return choices_of(cell["choices"], separator)
        if cell and all(isinstance(value, bool) for value in cell.values()):  # Mechanical Turk's boxes
            return [plain_label(name) for name, ticked in cell.items() if ticked]
        if len(cell) == 1:
            return choices_of(next(iter(cell.values())), separator)
        raise UserError(
            f"a choice as {json.dumps(cell, ensure_ascii=False)[:80]}; a label, or a list of them, is needed"
        )
    if isinstance(cell, (list, tuple)):
        return [label for one in cell for label in choices_of(one, separator)]
    if cell is None or isinstance(cell, bool):
        return []
    parts = str(cell).split(separator) if separator else [str(cell)]
    return [label for part in parts if (label := plain_label(part))]


def _guess_layout(path: Path, columns: Columns, records: Sequence[Record], others: Sequence[str], note: Note) -> str:
    """The layout, by which columns hold numbers."""
    numeric = [name for name in others if all(_is_count(record.get(name, "")) for _, record in records)]
    numeric = [name for name in numeric if any(record.get(name, "").strip() for _, record in records)]
    raters = [name for name in others if _RATER.fullmatch(name)]
    if columns.label and columns.label in records[0][1]:
        beside = [name for name in numeric if name not in (columns.label, columns.rater)]
        label_names = [name for name in beside if not _RATER.fullmatch(name)]
        if columns.label in numeric and label_names and not columns.rater and not columns.label.isdigit():
            shown = ", ".join([columns.label, *label_names][:6])
            raise UserError(
                f"{path}: {shown} all hold numbers, as a table of counts does: say --layout counts, or --layout long if "
                f"{columns.label} holds labels that are numbers"
            )
        return "long"
    if not columns.label and len(others) < 2:
        return "long"
    if numeric and len(numeric) == len(others) and len(raters) < len(others):
        found = "counts"
    elif not numeric or len(raters) == len(others):
        found = "wide"
    else:
        raise UserError(
            f"{path}: name the column of the choice with --label, or say --layout wide (a column for each rater) or counts "
            f"(for each label), with the columns: --label {','.join(others[:3])}"
        )
    what = "each rater" if found == "wide" else "each label, with how many chose it"
    note(f"{path}: read as --layout {found}, a column for {what}: {', '.join(others)}")
    return found


def _is_count(value: str) -> bool:
    try:
        return not value.strip() or 0 <= float(value) < 1e9
    except ValueError:
        return False


def _check_counts(path: Path, records: Sequence[Record], chosen: Sequence[str], note: Note) -> None:
    numbers = np.empty((len(records), len(chosen)))
    for line, (where, record) in enumerate(records):
        for place, column in enumerate(chosen):
            if not _is_count(record[column]):
                raise UserError(f"{where}: {column} is {record[column]!r}; how many chose it is needed")
            numbers[line, place] = float(record[column].strip() or 0)
    totals = numbers.sum(axis=1)
    for place, column in enumerate(chosen):
        sums = len(chosen) > 2 and np.allclose(numbers[:, place], totals - numbers[:, place])
        if sums or column.lower() in _SUMS:
            labels = ",".join(name for name in chosen if name != column)
            what = "is the sum of the others" if sums else "reads like a sum"
            raise UserError(
                f"{path}: column {column} {what}; name the labels' columns: --layout counts --label {labels[:200]}"
            )
    whole = bool((numbers == np.floor(numbers)).all())
    if not whole and (totals <= 1.02).all():
        raise UserError(
            f"{path}: every line sums to 1 or less: shares, and not counts; how many raters there were is needed too"
        )
    if (abs(totals - 100) < 1.5).all():
        note(f"{path}: every line sums to 100, and is taken for the counts of 100 raters")


# What was said of each item -----------------------------------------------------------------------------------------------


def gather(
    ratings: Iterable[Rating],
    left_out: Counter[str],
    leave_out: Collection[str] = (),
    several: str = "refuse",
    known: Collection[str] = (),
    table: bool = True,
    joined: bool = False,
    note: Note = no_note,
) -> dict[str, _Item]:
    """Items in the order in which they first stand there.

    Args:
        ratings: of a table or an export.
        left_out: counts what is left out, by reason.
        leave_out: labels that are none.
        several: what becomes of a rater who names several labels for one item: refuse; split, one vote shared evenly; or
            leave-out.
        known: labels of the task, where there is one: whatever they look like, they are meant.
        table: whether labels were cells, which may be missing or hold several, and not the choices of a tool.
        joined: whether a label may hold a comma and the like.
        note: told what is spelt in several ways, and what looks like it.

    Raises:
        UserError: ratings contradict each other, name several labels, or have missing values; the message says where.
    """
    if several not in SEVERAL:
        raise not_one_of("--several", several, SEVERAL)
    items: dict[str, _Item] = {}
    ignored = {plain_label(label).casefold() for label in leave_out}
    meant = {plain_label(label).casefold() for label in known}
    said: Counter[str] = Counter()
    first: dict[tuple[str, str], str] = {}
    for rating in ratings:
        item = items.setdefault(rating.item, _Item(defaultdict(set), rating.fields, rating.region))
        for kind, value in rating.fields.items():
            before = item.fields.get(kind, value)
            if plain_label(before) != plain_label(value):
                raise UserError(f"{rating.where}: {kind} of {rating.item} is {value!r}, and {before!r} before")
        for label in rating.choices:
            if label.casefold() in ignored:
                left_out[f"ratings as {label}"] += round(rating.count)
                continue
            said[label] += round(rating.count) or 1
            first.setdefault((rating.item, rating.rater), rating.where)
            if not rating.rater:
                if label in item.counts:
                    raise UserError(f"{rating.where}: {rating.item} stands there twice; one line of counts is needed")
                item.counts[label] = rating.count
            elif label in item.choices[rating.rater]:
                left_out["ratings that stand there twice"] += 1
            else:
                item.choices[rating.rater].add(label)
    if table:
        _check_missing(said, meant)
    if table and not joined:
        _check_separators(said, meant)
    if len(said) > MOST_LABELS:
        example = next(iter(said))[:40]
        raise UserError(f"{len(said):,} different labels, such as {example!r}: is --label the column of the choice?")
    _check_several(items, several, first, left_out, note)
    _tell_look_alikes(said, meant, note)
    return items


def _check_missing(said: Mapping[str, int], meant: Collection[str]) -> None:
    missing = [label for label in said if label.lower() in MISSING and label.casefold() not in meant]
    if missing:
        shown = ", ".join(f"{said[label]} ratings say {label!r}" for label in missing)
        raise UserError(
            f"{shown}, which reads like a missing value: --leave-out {missing[0]!r} leaves them out; if it is a label, name a "
            "task that has it with --task"
        )


def _check_separators(said: Mapping[str, int], meant: Collection[str]) -> None:
    known = {label.casefold() for label in said}
    for separator in (*SEPARATORS, *JOINERS):
        joined = [label for label in said if separator in label and label.casefold() not in meant]
        if separator in JOINERS:  # as in "anger/frustration", which may be one label
            joined = [
                label for label in joined if {part.strip() for part in label.casefold().split(separator)} <= known
            ]
        if joined:
            count = sum(said[label] for label in joined)
            raise UserError(
                f"{count} ratings hold {separator!r}, such as {joined[0]!r}: --choices-separator {separator!r} reads them as "
                "several labels, --choices-separator '' as one"
            )


def _check_several(
    items: Mapping[str, _Item], several: str, first: Mapping[tuple[str, str], str], left_out: Counter[str], note: Note
) -> None:
    found = [
        (name, rater, chosen)
        for name, item in items.items()
        for rater, chosen in item.choices.items()
        if len(chosen) > 1
    ]
    if not found:
        return
    name, rater, chosen = found[0]
    shown = f"{first[name, rater]} ({', '.join(sorted(chosen))})"
    if several == "refuse":
        raise UserError(
            f"{len(found)} times a rater names several labels for one item, first at {shown}: --several split shares the vote "
            "among them, --several leave-out leaves it out"
        )
    if several == "leave-out":
        left_out["votes for several labels at once"] += len(found)
        for name, rater, _ in found:
            del items[name].choices[rater]
    else:
        note(f"{len(found)} votes are shared among several labels, first at {shown}")


def _tell_look_alikes(said: Mapping[str, int], meant: Collection[str], note: Note) -> None:
    """Labels that differ in capitals, and are one; and those that look alike, which are two."""
    spelt: dict[str, list[str]] = defaultdict(list)
    for label in said:
        spelt[label.casefold()].append(label)
    for forms in spelt.values():
        if len(forms) > 1:
            forms = sorted(forms, key=lambda form: -said[form])
            shown = ", ".join(f"{form!r} ({said[form]})" for form in forms)
            note(f"labels that differ in capitals alone are one: {shown}")
    totals = {form: sum(said[label] for label in forms) for form, forms in spelt.items()}
    words = sorted(totals)
    for at, one in enumerate(words):
        for two in words[at + 1 :]:
            if not {one, two} <= set(meant) and _look_alike(one, two):
                note(f"labels {one!r} ({totals[one]}) and {two!r} ({totals[two]}) look alike, and count as two")


def _look_alike(one: str, two: str) -> bool:
    if _bare(one) == _bare(two) != "" or (_is_count(one) and _is_count(two) and float(one) == float(two)):
        return True
    return max(len(one), len(two)) >= 4 and not (one.isdigit() or two.isdigit()) and one_edit_apart(one, two)


def _bare(label: str) -> str:
    """A label without what looks alike in it: signs between words, wide letters, letters of another alphabet."""
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", label).casefold().translate(_LOOKS))


# Rows of a corpus ----------------------------------------------------------------------------------------------------------


def task_of(name: str, items: Mapping[str, _Item], modality: str) -> Task:
    """A task with the labels that were chosen, in order of the alphabet, and a plain question.

    Labels that differ in capital letters alone are one, as it is written most often.
    """
    chosen: Counter[str] = Counter()
    for item in items.values():
        for label, mass in item.votes().items():
            chosen[label] += 1 if mass < 1 else round(mass)
    labels = sorted({label.casefold(): label for label, _ in reversed(chosen.most_common())}.values())
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
    items: Mapping[str, _Item],
    left_out: Counter[str],
    task: Task,
    clips: Path | None,
    seed: int,
    caveat: str,
    channel: int | None = None,
    note: Note = no_note,
    raters: bool = False,
) -> Prepared:
    """Rows of a task from what was read.

    Args:
        items, left_out: of `gather`.
        task: whose labels, or label words, the choices are; capital letters do not matter.
        clips: folder of the sound, with or without folders in it.
        seed: of the split, where the file has none. Items with equal sound or equal text stay on one side.
        caveat: to print beside every result.
        channel: of the sound, for all items that name none.
        note: told how clips were found, and which items are the same.
        raters: whether the raters have names, which are kept with their choices.

    Raises:
        UserError: a choice is no label of the task, a split has an unknown name, or two clips have an item's name.
    """
    known = {plain_label(label.word).casefold(): label.name for label in task.labels}
    known |= {plain_label(label.name).casefold(): label.name for label in task.labels}  # more than another label's word
    found: dict[str, Path] = {}
    missing: dict[str, str] = {}  # reasons
    otherwise: dict[str, str] = {}
    if clips is not None:
        wanted = dict.fromkeys(_clip_name(name, item) for name, item in items.items())
        found, missing, otherwise = find_sound_files(clips, list(wanted), note)
    durations = dict(zip(found, sound_durations(list(found.values())), strict=True))
    field_name = (*task.text_fields(), "text")[0]
    rows: list[Row] = []
    left_out = Counter(left_out)
    examples: dict[str, list[str]] = defaultdict(list)

    def leave(name: str, reason: str) -> None:
        left_out[reason] += 1
        examples[reason].append(name)

    for name, item in items.items():
        clip = _clip_name(name, item)
        if clips is not None and clip not in found:
            leave(name, missing[clip])
            continue
        votes: dict[str, float] = defaultdict(float)
        for label, mass in item.votes().items():
            if label.casefold() not in known:
                rater = next((who for who, chosen in item.choices.items() if label in chosen), "somebody")
                raise UserError(
                    f"{name}: {rater} chose {label!r}, which is no label of task {task.name} "
                    f"({', '.join(task.label_names)}); --leave-out {label!r} leaves such ratings out"
                )
            votes[known[label.casefold()]] += mass
        if not votes:
            leave(name, "items without a rating")
            continue
        split = item.fields.get("split", "train")
        if split.lower() not in SPLITS:
            raise UserError(f"{name}: no split is called {split!r}; use train, dev or test")
        audio = None
        if clips is not None:
            path = found[clip].relative_to(clips).as_posix()
            audio = Audio(path, 0.0, durations[clip], channel)
            if channel is not None:
                _check_channel(found[clip], channel)
            if item.region is not None:
                lasts = durations[clip]
                if lasts is not None and item.region.offset + item.region.duration > lasts + 0.05:
                    leave(name, "parts that end after their clip")
                    continue
                if item.region.duration * SAMPLE_RATE < SHORTEST:
                    leave(name, "parts of less than 25 ms")
                    continue
                own = channel if item.region.channel is None else item.region.channel
                audio = Audio(path, item.region.offset, item.region.duration, own)
        text = {field_name: item.fields["text"]} if item.fields.get("text") else {}
        if audio is None and not text and "text" in item.fields:
            leave(name, "items without a text")
            continue
        speaker = item.fields.get("speaker") or None
        chosen = {who: sorted(known[one.casefold()] for one in said) for who, said in item.choices.items() if said}
        extra = {"raters": chosen} if raters else {}
        rows.append(Row(name, task.name, SPLITS[split.lower()], speaker, audio, text, dict(votes), extra))
    if rows and not any("split" in item.fields for item in items.values()):
        groups = twin_groups(rows, clips, note)
        split_of = split_by_group(groups, SHARES, seed)
        rows = [replace(row, split=split_of[group]) for row, group in zip(rows, groups, strict=True)]
    return Prepared(rows, left_out, caveat, "your own", dict(examples), otherwise)


def _check_channel(path: Path, channel: int) -> None:
    with contextlib.suppress(soundfile.LibsndfileError, OSError):  # reading it says what is wrong
        if (count := soundfile.info(path).channels) <= channel:
            raise UserError(
                f"--channel {channel}: {path} has {count} channel{'s' if count > 1 else ''}, counted from 0"
            )


def _clip_name(name: str, item: _Item) -> str:
    return name if item.region is None else item.region.clip
