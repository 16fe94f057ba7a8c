"""MSP-Podcast: turns of podcasts, each judged by five raters or more (DOI 10.1109/TAFFC.2017.2736999).

Releases 1.6 to 2.0, in every form that their files have. Votes are the raters' primary choices; with `secondary` a share of each
rater's one vote goes to the secondary choices. Turns without a plurality ("X") are kept: they are the ambiguous ones.

Raters: `labels_detailed.csv` (a row for each rater in 1.6 and 2.0, an `EmoDetail` string from 1.7 to 1.12), else
`labels_detailed.json`, else `labels.txt`. Turns: `labels_consensus.csv` or `.json` (before 1.10 spelt `concensus`), else the first
lines of `labels.txt`, with `Partition.txt` and `Speaker_ids.txt` beside them.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shala_audio.corpora.prepare import SOURCES, Prepared, need_file, sound_durations
from shala_audio.corpora.splits import shared_speakers
from shala_audio.errors import UserError
from shala_audio.io import readable
from shala_audio.manifest import Audio, Row

BLOCKS = "labels.txt"

# MSP-PODCAST_9999_0001.wav; H; A:5.200000; V:5.600000; D:4.800000;
HEAD = re.compile(r"([^;]+\.wav);\s*(\w*);\s*A:([^;]*);\s*V:([^;]*);\s*D:([^;]*);?\s*")


def first_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of several possible files that is there."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    with readable(path), open(path, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            yield number, line.rstrip("\n")


def csv_lines(path: Path, needed: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Records with their place; blanks around names of columns, and before values, do not matter.

    Raises:
        UserError: no such column, or a record is cut short.
    """
    with readable(path), open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
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


def json_records(path: Path) -> dict[str, Any]:
    try:
        with readable(path):
            found = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict) or not all(isinstance(record, dict) for record in found.values()):
        raise UserError(f"{path}: an object with an object for each file is needed")
    return found


def read_attributes(values: Iterable[Any], where: str) -> tuple[float | None, float | None, float | None]:
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


DETAILED = ("labels_detailed.csv", "labels_detailed.json")

# WORKER99999999; Happy; Happy,Excited; A:5.000000; V:6.000000; D:5.000000;
_RATING = re.compile(r"([^;]+);\s*(.*?);\s*(.*?);\s*A:([^;]*);\s*V:([^;]*);\s*D:([^;]*);?\s*")


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


def read_ratings(folder: Path) -> tuple[dict[str, list[Rating]], int]:
    """Ratings by file name, each turn's in the order of its raters' ids, and how many a later one of the same rater replaced.

    Raises:
        UserError: no file with ratings, or a line of one is not understood.
    """
    path = first_file(folder, (*DETAILED, BLOCKS))
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


def _block_ratings(path: Path) -> Iterator[tuple[str, Rating]]:
    name = ""
    for number, line in lines(path):
        if match := HEAD.fullmatch(line):
            name = match[1].strip()
        elif name and (match := _RATING.fullmatch(line)):
            yield name, _rating(match.groups(), f"{path}:{number}")
        elif line.strip():
            raise UserError(
                f"{path}:{number}: neither `file; code; A: V: D:` nor `worker; primary; secondary; A: V: D:`"
            )


def _csv_ratings(path: Path) -> Iterator[tuple[str, Rating]]:
    for where, record in csv_lines(path, "FileName"):
        name = record["FileName"].strip()
        if "EmoDetail" in record:
            match = _RATING.fullmatch((record["EmoDetail"] or "").strip())
            if match is None:
                raise UserError(f"{where}: EmoDetail is not `worker; primary; secondary; A:x; V:x; D:x;`")
            yield name, _rating(match.groups(), where)
        else:
            yield name, _rating_of(record.get("WorkerID") or record.get("Workers") or "", record, where)


def _json_ratings(path: Path) -> Iterator[tuple[str, Rating]]:
    for name, workers in json_records(path).items():
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
    # The same strings come a million times; keep each once.
    primary, secondary = sys.intern(str(primary).strip()), sys.intern(_listed(secondary))
    return Rating(sys.intern(str(worker).strip()), primary, secondary, *read_attributes(attributes, where))


def _listed(secondary: Any) -> str:
    """Secondary choices, which JSON may also hold as a list, as one comma-separated string."""
    choices = secondary if isinstance(secondary, list) else str(secondary or "").split(",")
    return ",".join(choice.strip() for choice in choices if choice.strip())


CONSENSUS = tuple(f"labels_con{letter}ensus.{end}" for end in ("csv", "json") for letter in "sc")
SPLITS = {
    "train": "train",
    "development": "dev",
    "validation": "dev",
    "test1": "test",
    "test2": "test2",
    "test3": "test3",
}


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
    path = first_file(folder, CONSENSUS)
    if path is None:
        blocks = first_file(folder, [BLOCKS])
        if blocks is None:
            raise UserError(f"{folder}: has no labels_consensus.csv, labels_consensus.json or labels.txt")
        if not partition:
            raise UserError(f"{source}: labels.txt tells no splits, and there is no Partition.txt")
        path, turns = blocks, _once(_block_turns(blocks, partition, speakers, genders), blocks)
    elif path.suffix == ".csv":
        turns = _once((_turn(record["FileName"], record, where) for where, record in csv_lines(path, "FileName")), path)
    else:
        turns = dict(_turn(name, record, f"{path}: {name}") for name, record in json_records(path).items())
    moved = sum(partition.get(name, turn.split) != turn.split for name, turn in turns.items())
    for name, split in partition.items():
        if name not in turns:
            speaker = speakers.get(name)
            turns[name] = Turn(split, speaker=speaker, gender=genders.get(str(speaker), "Unknown"))
    return turns, moved


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
        attributes = read_attributes((record[column] for column in ("EmoAct", "EmoVal", "EmoDom")), where)
        code = str(record["EmoClass"] or "").strip() or None
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{where}: not an entry of the consensus labels ({error!r})") from None
    known = None if speaker in ("", "Unknown", "None") else speaker
    return name.strip(), Turn(split, code, *attributes, known, str(record.get("Gender") or "Unknown").strip())


def _block_turns(
    path: Path, partition: Mapping[str, str], speakers: Mapping[str, str], genders: Mapping[str, str]
) -> Iterator[tuple[str, Turn]]:
    for number, line in lines(path):
        if match := HEAD.fullmatch(line):
            name, code = match[1].strip(), match[2] or None
            if name not in partition:
                raise UserError(f"{path}:{number}: {name} is in no split of the partition file")
            attributes = read_attributes(match.groups()[2:], f"{path}:{number}")
            speaker = speakers.get(name)
            yield name, Turn(partition[name], code, *attributes, speaker, genders.get(str(speaker), "Unknown"))


def _split(name: Any) -> str:
    return SPLITS[str(name).strip().lower().replace(" ", "")]


def _partition(source: Path) -> dict[str, str]:
    """Split of every file, from lines `<Split>; <file>`; empty where the release has no such file."""
    path = first_file(source, ("Partition.txt", "Partitions.txt"))
    found: dict[str, str] = {}
    for number, line in lines(path) if path else ():
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
    path = first_file(source, ("Speaker_ids.txt",))
    for _, line in lines(path) if path else ():
        name, _, value = (part.strip() for part in line.partition(";"))
        if name.startswith("Speaker_"):
            genders[name.removeprefix("Speaker_")] = value
        elif name and value not in ("", "Unknown"):
            speakers[name] = value
    return speakers, genders


LABEL_FOLDERS = ("Labels", "labels", "label")
ATTRIBUTES = ("arousal", "valence", "dominance")
CLASSES = {
    "Angry": "anger",
    "Sad": "sadness",
    "Happy": "happiness",
    "Surprise": "surprise",
    "Fear": "fear",
    "Disgust": "disgust",
    "Contempt": "contempt",
    "Neutral": "neutral",
    "Other": "other",
}
# Secondary choices that no primary one is called; what is not here either (Concerned, Confused) counts as Other.
NUANCES = {
    "Amused": "Happy",
    "Excited": "Happy",
    "Frustrated": "Angry",
    "Annoyed": "Angry",
    "Depressed": "Sad",
    "Disappointed": "Sad",
}
SECONDARY = {*CLASSES, *NUANCES, "Concerned", "Confused"}
LABELS = {
    "msp_podcast": tuple(label for label in CLASSES.values() if label != "other"),
    "msp_podcast_9": tuple(CLASSES.values()),
    "msp_podcast_4": ("anger", "sadness", "happiness", "neutral"),
}
NAMED = 10  # speakers that a caveat names
FOUR = {"A", "S", "H", "N"}  # consensus codes of the four


def prepare(source: Path, seed: int, task: str = "msp_podcast", secondary: float = 0.0) -> Prepared:
    """Rows in the corpus's own splits (Test1 is `test`). `seed` is not used.

    A speaker that the release lists in two splits is reported by name, and its rows are kept: the corpus's partition is
    a contract with its other users.

    Args:
        source: the corpus.
        task: `msp_podcast` (eight classes), `msp_podcast_9` (with `other`) or `msp_podcast_4` (anger, sadness, happiness,
            neutral: turns with one of these as their plurality, as the literature compares them).
        secondary: share of a rater's vote that the secondary choices get, 0 to below 1.

    Raises:
        UserError: a file is missing or not understood, or an option is wrong; the message names it.
    """
    if task not in LABELS:
        raise UserError(f"--task {task}: use one of {', '.join(LABELS)}")
    if not 0 <= secondary < 1:
        raise UserError(f"--secondary is {secondary}; use 0 to below 1")
    folder = need_file(source, *LABEL_FOLDERS)
    turns, moved = read_turns(source, folder)
    ratings, repeated = read_ratings(folder)
    if not turns.keys() & ratings.keys():
        raise UserError(f"{folder}: no turn of the consensus labels has a rating in the detailed labels")
    audio_folder = need_file(source, "Audios", "Audio", "audios")
    present = {entry.name for entry in os.scandir(audio_folder)}
    transcripts = source / "Transcripts"
    written = {entry.name for entry in os.scandir(transcripts)} if transcripts.is_dir() else set()

    left_out: Counter[str] = Counter(
        {
            "turns without a sound file": len(turns.keys() - present),
            "turns with ratings that no consensus label lists": len(ratings.keys() - turns.keys()),
            "sound files that no label file lists": len(
                {name for name in present if name.endswith(".wav")} - turns.keys()
            ),
            "ratings that a later one of the same rater and turn replaced": repeated,
        }
    )
    names = [name for name in turns if name in present]
    if task == "msp_podcast_4":
        kept = [name for name in names if turns[name].code in FOUR or name not in ratings]
        left_out["turns whose plurality is not one of the four classes"] = len(names) - len(kept)
        names = kept
    durations = sound_durations([audio_folder / name for name in names])
    rows: list[Row] = []
    for name, duration in zip(names, durations, strict=True):
        stem, turn, mine = Path(name).stem, turns[name], ratings.get(name, [])
        votes = to_votes(mine, LABELS[task], secondary, left_out, name)
        split = turn.split
        if not votes and split != "test3":
            left_out["turns without a vote for a label (kept for prediction only)"] += 1
            split = "predict"
        text = {}
        if f"{stem}.txt" in written:
            text = {
                "transcript": (transcripts / f"{stem}.txt").read_text(encoding="utf-8-sig", errors="replace").strip()
            }
        audio = Audio(f"{audio_folder.name}/{name}", 0.0, duration)
        rows.append(Row(stem, task, split, turn.speaker, audio, text, votes, _extra(turn, mine)))
    caveat = _speaker_caveat([row for row in rows if row.votes])
    if moved:
        caveat += (
            f" Turns that the partition file puts into another split than the labels, whose split is used: {moved}."
        )
    return Prepared(rows, left_out, caveat, SOURCES["msp_podcast"].licence)


def to_votes(
    ratings: Sequence[Rating], labels: Sequence[str], secondary: float, left_out: Counter[str], name: str
) -> dict[str, float]:
    """Votes of a turn in the order of `labels`; what goes to no label is counted in `left_out`, under its name.

    >>> rated = [Rating("a", "Happy", "Happy,Annoyed", None, None, None), Rating("b", "Other-shy", "", None, None, None)]
    >>> counted = Counter()
    >>> to_votes(rated, LABELS["msp_podcast"], 0.5, counted, "turn"), dict(counted)
    ({'anger': 0.25, 'happiness': 0.75}, {'votes for other': 1})

    Raises:
        UserError: a primary choice that MSP-Podcast does not have.
    """
    mass: Counter[str] = Counter()
    for rating in ratings:
        primary = rating.primary.split("-")[0].strip().capitalize()
        if primary not in CLASSES:
            raise UserError(
                f"{name}: {rating.worker}'s primary emotion {rating.primary!r} is none of {', '.join(CLASSES)}"
            )
        others = rating.secondaries if secondary else []
        mass[CLASSES[primary]] += 1 - secondary if others else 1  # type: ignore[assignment]
        for choice in others:
            choice = choice.split("-")[0].strip().capitalize()
            if choice not in SECONDARY:
                left_out[f"secondary choices {choice!r}, which are not MSP-Podcast's (counted as other)"] += 1
            mass[CLASSES.get(NUANCES.get(choice, choice), "other")] += secondary / len(others)  # type: ignore[assignment]
    for label in mass.keys() - set(labels):
        left_out[f"votes for {label}"] += mass[label]
    return {label: mass[label] for label in labels if mass[label]}


def _extra(turn: Turn, ratings: Sequence[Rating]) -> dict[str, Any]:
    """Consensus code, gender, and each attribute's mean as the release states it and every rater's own value."""
    means = {name: getattr(turn, name) for name in ATTRIBUTES}
    ratings_of = {name: [getattr(rating, name) for rating in ratings] for name in ATTRIBUTES}
    return {"consensus": turn.code, "gender": turn.gender, **means, "ratings": ratings_of}


def _speaker_caveat(rows: Sequence[Row]) -> str:
    unknown = sum(row.speaker is None for row in rows)
    names = shared_speakers(rows)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    shared = ", ".join(names[:NAMED]) + more if names else "none"
    return f"Speakers in train and in another split: {shared}; turns of unknown speakers: {unknown}."
