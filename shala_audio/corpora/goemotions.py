"""GoEmotions: Reddit comments, 27 emotions and neutral (arXiv 2005.00547).

Two forms are read. The rater-level files `goemotions_{1,2,3}.csv`, or one file of all, give real votes: each rater's mass is 1,
split evenly over the labels that the rater chose. The aggregated `train.tsv dev.tsv test.tsv` hold only the labels that two or
more raters chose; each counts as one equal share, which is less than what the raters said.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from shala_audio.corpora.prepare import SOURCES, Prepared, need_file
from shala_audio.corpora.tables import csv_records, plain_label, plain_text
from shala_audio.errors import UserError
from shala_audio.io import readable
from shala_audio.manifest import Row
from shala_audio.task import load_task
from shala_audio.votes import count_votes

TASK = "goemotions"
RATER_FILES = ("goemotions_1.csv", "goemotions_2.csv", "goemotions_3.csv")


def prepare(source: Path, seed: int) -> Prepared:
    """Rows in the corpus's own splits. `seed` is not used: the official split is kept."""
    # In the official repository the splits lie in data/ and the rater-level files in data/full_dataset/.
    splits = next((folder for folder in (source, source / "data") if (folder / "train.tsv").exists()), source)
    for folder in (source, splits, splits / "full_dataset"):
        if all((folder / name).exists() for name in RATER_FILES):
            return _from_raters([folder / name for name in RATER_FILES], splits)
    if not (splits / "train.tsv").exists():
        for path in sorted(source.glob("*.csv")):  # all in one file, as it is passed on elsewhere
            header = next((record for _, record in csv_records(path)), {})
            if {"id", "text", *load_task(TASK).label_names} <= set(header):
                return _from_raters([path], splits)
    return _from_aggregated(splits)


def _official_split(source: Path) -> list[tuple[str, str, list[int], str]]:
    """(split, comment, label indices, id) of every line of the three files."""
    items = []
    for split in ("train", "dev", "test"):
        path = need_file(source, f"{split}.tsv")
        with readable(path):
            text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.strip("\n").split("\n"), start=1):
            try:
                comment, indices, identity = line.rsplit("\t", 2)
                items.append((split, comment, [int(index) for index in indices.split(",")], identity))
            except ValueError:
                raise UserError(f"{path}:{number}: comment, label numbers and id are needed, with tabs") from None
    return items


def _from_aggregated(source: Path) -> Prepared:
    path = need_file(source, "labels.txt", "emotions.txt")
    with readable(path):
        labels = path.read_text(encoding="utf-8").split()
    rows = []
    for split, comment, indices, identity in _official_split(source):
        if not all(0 <= index < len(labels) for index in indices):
            raise UserError(f"{path}: names {len(labels)} labels, and comment {identity} has number {max(indices)}")
        votes = {labels[index]: 1 for index in indices}
        rows.append(Row(identity, TASK, split, None, None, {"comment": comment}, votes, {"aggregated": True}))
    return Prepared(
        rows,
        caveat="Aggregated labels, not votes: a label stands if two or more raters chose it. The raters' own agreement, and "
        "so the human agreement bound, cannot be told from them.",
        licence=SOURCES["goemotions"].licence,
    )


def _from_raters(files: Sequence[Path], splits: Path) -> Prepared:
    """Votes of every comment. The official split where its files are there, else train, dev, test by the id's hash."""
    names = load_task(TASK).label_names
    choices: dict[str, dict[str, list[str]]] = {}  # of each comment's raters
    comments: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    named = True
    for path in files:
        for where, record in csv_records(path):
            try:
                chosen = [label for label in names if _is_chosen(record[label])]
                identity, comment = record["id"], record["text"]
            except (KeyError, ValueError) as error:
                raise UserError(f"{where}: not a GoEmotions row ({error!r})") from None
            if not chosen:
                left_out["ratings without a label (very unclear)"] += 1
                continue
            rater = record.get("rater_id", "").strip()
            named = named and bool(rater)
            if rater in choices.get(identity, {}):
                left_out["ratings of a rater who stands there before"] += 1
                continue
            comments[identity] = plain_text(comment)
            choices.setdefault(identity, {})[rater or where] = chosen
    if (splits / "train.tsv").exists():
        split_of = {identity: split for split, _, _, identity in _official_split(splits)}
        left_out["comments outside the official split"] = sum(identity not in split_of for identity in choices)
    else:
        # Comment ids are unrelated to content, so a stable hash of them splits at random: 80, 10 and 10 per cent. Comments
        # of one text go with the first of them.
        plain = {identity: plain_label(comments[identity]).casefold() for identity in choices}
        first: dict[str, str] = {}
        for identity in sorted(choices):
            first.setdefault(plain[identity], identity)
        split_of = {}
        for identity in choices:
            bucket = zlib.crc32(first[plain[identity]].encode()) % 10
            split_of[identity] = ("train", "dev", "test")[max(0, bucket - 7)]
    rows = [
        Row(
            identity,
            TASK,
            split_of[identity],
            text={"comment": comments[identity]},
            votes=count_votes(raters.values()),
            extra={"raters": raters} if named else {},
        )
        for identity, raters in choices.items()
        if identity in split_of
    ]
    return Prepared(
        rows,
        left_out,
        caveat="Votes of single raters, who may choose several labels: each rater's vote of 1 is split evenly over them, so "
        "a share is not the share of raters who chose the label, and plurality-label measures are harsher than multi-label "
        "ones.",
        licence=SOURCES["goemotions"].licence,
    )


def _is_chosen(cell: str) -> bool:
    """Of 0 and 1, or as other programs save them: 0.0, False."""
    return cell.strip().lower() == "true" if cell.strip().lower() in ("true", "false") else bool(float(cell))
