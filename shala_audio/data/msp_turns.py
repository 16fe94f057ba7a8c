"""What a release of MSP-Podcast says of each turn as a whole, in every form that releases 1.6 to 2.0 have.

`labels_consensus.csv` or `.json` (before 1.10 spelt `concensus`), else the first lines of `labels.txt`, with
`Partition.txt` and `Speaker_ids.txt` beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shala_audio.data.msp_files import BLOCKS, HEAD, csv_lines, first_file, json_records, lines, read_attributes
from shala_audio.errors import UserError

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
