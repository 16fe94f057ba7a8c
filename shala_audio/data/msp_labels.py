"""The label files of MSP-Podcast, in every form that releases 1.6 to 2.0 have, read into the same records.

Consensus: `labels_consensus.csv` or `.json` (before 1.10 spelt `concensus`), else the first lines of `labels.txt`, with
`Partition.txt` and `Speaker_ids.txt` beside them. Raters: `labels_detailed.csv` (one row a rater in 1.6 and 2.0, an
`EmoDetail` string from 1.7 to 1.12), else `labels_detailed.json`, else `labels.txt`.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shala_audio.errors import UserError

CONSENSUS = tuple(f"labels_con{letter}ensus.{end}" for end in ("csv", "json") for letter in "sc")
DETAILED = ("labels_detailed.csv", "labels_detailed.json")
BLOCKS = "labels.txt"
SPLITS = {
    "train": "train",
    "development": "dev",
    "validation": "dev",
    "test1": "test",
    "test2": "test2",
    "test3": "test3",
}

NUANCES = ("Amused", "Frustrated", "Depressed", "Concerned", "Disappointed", "Excited", "Confused", "Annoyed")
PRIMARY = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral", "Other")
SECONDARY = {*PRIMARY, *NUANCES}

# WORKER99999999; Happy; Happy,Excited; A:5.000000; V:6.000000; D:5.000000;
_RATING = re.compile(r"([^;]+);\s*(.*?);\s*(.*?);\s*A:([^;]*);\s*V:([^;]*);\s*D:([^;]*);?\s*")
# MSP-PODCAST_9999_0001.wav; H; A:5.200000; V:5.600000; D:4.800000;
_HEAD = re.compile(r"([^;]+\.wav);\s*(\w*);\s*A:([^;]*);\s*V:([^;]*);\s*D:([^;]*);?\s*")


@dataclass(frozen=True, slots=True)
class Turn:
    """What a release says of a turn as a whole; `code` is None where labels are hidden, attributes are 1 to 7."""

    split: str
    code: str | None = None
    arousal: float | None = None
    valence: float | None = None
    dominance: float | None = None
    speaker: str | None = None
    gender: str = "Unknown"


@dataclass(frozen=True, slots=True)
class Rating:
    """One rater's choices for one turn."""

    worker: str
    primary: str
    secondary: str
    arousal: float | None
    valence: float | None
    dominance: float | None

    @property
    def secondaries(self) -> list[str]:
        """The comma-separated secondary choices; what follows `Other-` up to the next known choice belongs to it."""
        choices: list[str] = []
        for part in (part.strip() for part in self.secondary.split(",")):
            if choices and choices[-1].startswith("Other") and part.split("-")[0] not in SECONDARY:
                choices[-1] += f", {part}"
            elif part:
                choices.append(part)
        return choices


def find(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of several possible files that is there."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_turns(source: Path, folder: Path) -> tuple[dict[str, Turn], int]:
    """Turns by file name, in the order of the files, and how many stand in another split of the partition file.

    Turns that only the partition lists (Test3, whose labels are hidden) come last.

    Args:
        source: the corpus.
        folder: its label folder.

    Raises:
        UserError: no label file, or a line of one is not understood.
    """
    partition = _partition(source)
    speakers, genders = _speakers(source)
    path = find(folder, CONSENSUS)
    if path is None:
        blocks = find(folder, [BLOCKS])
        if blocks is None:
            raise UserError(f"{folder}: has no labels_consensus.csv, labels_consensus.json or labels.txt")
        if not partition:
            raise UserError(f"{source}: labels.txt tells no splits, and there is no Partition.txt")
        path, turns = blocks, _once(_block_turns(blocks, partition, speakers, genders), blocks)
    elif path.suffix == ".csv":
        turns = _once((_turn(record["FileName"], record, where) for where, record in _csv(path, "FileName")), path)
    else:
        turns = dict(_turn(name, record, f"{path}: {name}") for name, record in _json(path).items())
    moved = sum(partition.get(name, turn.split) != turn.split for name, turn in turns.items())
    for name, split in partition.items():
        if name not in turns:
            speaker = speakers.get(name)
            turns[name] = Turn(split, speaker=speaker, gender=genders.get(str(speaker), "Unknown"))
    return turns, moved


def read_ratings(folder: Path) -> tuple[dict[str, list[Rating]], int]:
    """Ratings by file name, each turn's in the order of its raters' ids, and how many a later one of the same rater replaced.

    Raises:
        UserError: no file with ratings, or a line of one is not understood.
    """
    path = find(folder, (*DETAILED, BLOCKS))
    if path is None:
        raise UserError(f"{folder}: has no labels_detailed.csv, labels_detailed.json or labels.txt")
    if path.name == BLOCKS:
        found = _block_ratings(path)
    elif path.suffix == ".csv":
        found = _csv_ratings(path)
    else:
        found = _json_ratings(path)
    ratings: dict[str, dict[str, Rating]] = {}
    repeated = 0
    for name, rating in found:
        mine = ratings.setdefault(name, {})
        repeated += rating.worker in mine
        mine[rating.worker] = rating
    return {name: [mine[worker] for worker in sorted(mine)] for name, mine in ratings.items()}, repeated


def _once(found: Iterable[tuple[str, Turn]], path: Path) -> dict[str, Turn]:
    """Turns by name.

    Raises:
        UserError: one is listed twice, and differently.
    """
    turns: dict[str, Turn] = {}
    for name, turn in found:
        if turns.setdefault(name, turn) != turn:
            raise UserError(f"{path}: {name} is listed twice, and not alike")
    return turns


def _turn(name: str, record: Mapping[str, Any], where: str) -> tuple[str, Turn]:
    try:
        split = _split(record["Split_Set"])
        speaker = str(record["SpkrID"]).strip()
        attributes = _attributes((record[column] for column in ("EmoAct", "EmoVal", "EmoDom")), where)
        code = str(record["EmoClass"] or "").strip() or None
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{where}: not an entry of the consensus labels ({error!r})") from None
    known = None if speaker in ("", "Unknown", "None") else speaker
    return name.strip(), Turn(split, code, *attributes, known, str(record.get("Gender") or "Unknown").strip())


def _block_turns(
    path: Path, partition: Mapping[str, str], speakers: Mapping[str, str], genders: Mapping[str, str]
) -> Iterator[tuple[str, Turn]]:
    for number, line in _lines(path):
        if match := _HEAD.fullmatch(line):
            name, code = match[1].strip(), match[2] or None
            if name not in partition:
                raise UserError(f"{path}:{number}: {name} is in no split of the partition file")
            attributes = _attributes(match.groups()[2:], f"{path}:{number}")
            speaker = speakers.get(name)
            yield name, Turn(partition[name], code, *attributes, speaker, genders.get(str(speaker), "Unknown"))


def _block_ratings(path: Path) -> Iterator[tuple[str, Rating]]:
    name = ""
    for number, line in _lines(path):
        if match := _HEAD.fullmatch(line):
            name = match[1].strip()
        elif name and (match := _RATING.fullmatch(line)):
            yield name, _rating(match.groups(), f"{path}:{number}")
        elif line.strip():
            raise UserError(
                f"{path}:{number}: neither `file; code; A: V: D:` nor `worker; primary; secondary; A: V: D:`"
            )


def _csv_ratings(path: Path) -> Iterator[tuple[str, Rating]]:
    for where, record in _csv(path, "FileName"):
        name = record["FileName"].strip()
        if "EmoDetail" in record:
            match = _RATING.fullmatch((record["EmoDetail"] or "").strip())
            if match is None:
                raise UserError(f"{where}: EmoDetail is not `worker; primary; secondary; A:x; V:x; D:x;`")
            yield name, _rating(match.groups(), where)
        else:
            yield name, _rating_of(record.get("WorkerID") or record.get("Workers") or "", record, where)


def _json_ratings(path: Path) -> Iterator[tuple[str, Rating]]:
    for name, workers in _json(path).items():
        if not isinstance(workers, dict):
            raise UserError(f"{path}: {name}: an object with an entry for each worker is needed")
        for worker, record in workers.items():
            yield name.strip(), _rating_of(worker, record, f"{path}: {name}, {worker}")


def _rating_of(worker: str, record: Any, where: str) -> Rating:
    try:
        columns = ("EmoClass_Major", "EmoClass_Second", "EmoAct", "EmoVal", "EmoDom")
        return _rating((worker, *(record[column] for column in columns)), where)
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: not a rating ({error!r})") from None


def _rating(fields: Iterable[Any], where: str) -> Rating:
    worker, primary, secondary, *attributes = fields
    if not str(primary or "").strip():
        raise UserError(f"{where}: the rating has no primary emotion")
    # The same few strings come a million times; keep each once.
    primary, secondary = sys.intern(str(primary).strip()), sys.intern(_listed(secondary))
    return Rating(str(worker).strip(), primary, secondary, *_attributes(attributes, where))


def _listed(secondary: Any) -> str:
    """Secondary choices, which JSON may also hold as a list, as one comma-separated string."""
    choices = secondary if isinstance(secondary, list) else str(secondary or "").split(",")
    return ",".join(choice.strip() for choice in choices if choice.strip())


def _attributes(values: Iterable[Any], where: str) -> tuple[float | None, float | None, float | None]:
    try:
        arousal, valence, dominance = (_number(value) for value in values)
        return arousal, valence, dominance
    except (ValueError, TypeError):
        raise UserError(f"{where}: arousal, valence and dominance must be numbers") from None


def _number(value: Any) -> float | None:
    """A number, or None where the field is empty or NaN."""
    text = str(value).strip() if value is not None else ""
    number = float(text) if text else None
    return None if number is None or number != number else number


def _split(name: Any) -> str:
    return SPLITS[str(name).strip().lower().replace(" ", "")]


def _partition(source: Path) -> dict[str, str]:
    """Split of every file, from lines `<Split>; <file>`; empty where the release has no such file."""
    path = find(source, ("Partition.txt", "Partitions.txt"))
    found: dict[str, str] = {}
    for number, line in _lines(path) if path else ():
        if line.strip():
            split, _, name = line.partition(";")
            try:
                if found.setdefault(name.strip(), _split(split)) != _split(split):
                    raise UserError(f"{path}:{number}: {name.strip()} is in two splits")
            except KeyError:
                raise UserError(f"{path}:{number}: no split is called {split.strip()!r}") from None
    return found


def _speakers(source: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Speaker of every file, and gender of every speaker, from lines `<file>; <id>` and `Speaker_<id>; <gender>`."""
    speakers: dict[str, str] = {}
    genders: dict[str, str] = {}
    path = find(source, ("Speaker_ids.txt",))
    for _, line in _lines(path) if path else ():
        name, _, value = (part.strip() for part in line.partition(";"))
        if name.startswith("Speaker_"):
            genders[name.removeprefix("Speaker_")] = value
        elif name and value not in ("", "Unknown"):
            speakers[name] = value
    return speakers, genders


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            yield number, line.rstrip("\n")


def _csv(path: Path, needed: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Records with their place; blanks around names of columns, and before values, do not matter.

    Raises:
        UserError: no such column, or a record is cut short.
    """
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file, skipinitialspace=True)
        header = [name.strip() for name in next(reader, [])]
        if needed not in header:
            raise UserError(f"{path}:1: has no column {needed}")
        try:
            for values in reader:
                if (len(values) < len(header) and any(values)) or any(values[len(header) :]):
                    raise UserError(f"{path}:{reader.line_num}: {len(values)} columns, {len(header)} are needed")
                if any(values):
                    yield f"{path}:{reader.line_num}", dict(zip(header, values, strict=False))
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not CSV ({error})") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict) or not all(isinstance(record, dict) for record in found.values()):
        raise UserError(f"{path}: an object with an object for each file is needed")
    return found
