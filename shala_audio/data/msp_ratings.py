"""What each rater of MSP-Podcast chose, in every form that releases 1.6 to 2.0 have, read into the same records.

`labels_detailed.csv` (one row a rater in 1.6 and 2.0, an `EmoDetail` string from 1.7 to 1.12), else
`labels_detailed.json`, else `labels.txt`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shala_audio.data.msp_files import BLOCKS, HEAD, csv_lines, first_file, json_records, lines, read_attributes
from shala_audio.errors import UserError

DETAILED = ("labels_detailed.csv", "labels_detailed.json")

NUANCES = ("Amused", "Frustrated", "Depressed", "Concerned", "Disappointed", "Excited", "Confused", "Annoyed")
PRIMARY = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral", "Other")
SECONDARY = {*PRIMARY, *NUANCES}

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
