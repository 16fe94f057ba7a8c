"""From a prepared corpus to files: manifest, split and summary; and whose corpora they are."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from shala_audio.corpora.splits import crossing_twins
from shala_audio.distribution import entropy
from shala_audio.errors import UserError
from shala_audio.io import read_json, write_json
from shala_audio.manifest import Row, row_from_json, write_manifest
from shala_audio.task import Task
from shala_audio.votes import human_distributions, mean_distribution


class Source(NamedTuple):
    """Licence of a corpus, and the address where its owners give it."""

    licence: str
    address: str


SOURCES = {
    "chaosnli": Source("CC BY-NC 4.0", "https://github.com/easonnie/ChaosNLI"),
    "goemotions": Source("Apache-2.0", "https://github.com/google-research/google-research/tree/master/goemotions"),
    "crema_d": Source("ODbL 1.0", "https://github.com/CheyneyComputerScience/CREMA-D"),
    "msp_podcast": Source(
        "MSP-Podcast academic licence: the corpus must not be passed on",
        "https://lab-msp.com/MSP/MSP-Podcast.html",
    ),
    "lewidi": Source(
        "of each corpus its own; the shared task states none", "https://github.com/Le-Wi-Di/le-wi-di.github.io"
    ),
    "mini": Source("made by this program; no restriction", ""),
}


@dataclass
class Prepared:
    """Rows of a corpus, the items left out by reason (how many, and their names), and a caveat to print beside every result."""

    rows: list[Row]
    left_out: Counter[str] = field(default_factory=Counter)
    caveat: str = ""
    licence: str = ""
    left_out_items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    found_otherwise: Mapping[str, str] = field(default_factory=dict)  # names of clips that were not those of files


def need_file(folder: Path, *names: str) -> Path:
    """The first of several possible files in a folder.

    Raises:
        UserError: none is there; the message names the folder and what was looked for.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder}: has no {' or '.join(names)}; give the corpus's own folder with --source")


def sound_duration(path: Path) -> float | None:
    """Seconds of a sound file from its header; None, which stands for all of it, of an MP3, whose length is an
    estimate, and where the file cannot be read (`validate` says why)."""
    try:
        about = soundfile.info(path)
        return None if about.format == "MP3" else round(about.duration, 4)
    except (soundfile.LibsndfileError, OSError):
        return None


def sound_durations(paths: Sequence[Path]) -> list[float | None]:
    """`sound_duration` of many files."""
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(sound_duration, paths), total=len(paths), unit="file", desc="sound", disable=None))


def keep_some(rows: Sequence[Row], max_rows: int | None) -> list[Row]:
    """A sample of the rows, by the sha256 of their ids, in the same proportion of every split that has one row or more; all
    where `max_rows` is None."""
    if max_rows is None or max_rows >= len(rows):
        return list(rows)
    by_split: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: hashlib.sha256(row.id.encode()).digest()):
        by_split[row.split].append(row)
    kept = {row.id for members in by_split.values() for row in members[: max(1, max_rows * len(members) // len(rows))]}
    return [row for row in rows if row.id in kept]


def summarize(prepared: Prepared, task: Task, seed: int) -> dict[str, Any]:
    """Rows, speakers, raters, label mass and entropy of every split, the split's hash, and what was left out."""
    splits: dict[str, Any] = {}
    by_split: dict[str, list[Row]] = defaultdict(list)
    for row in prepared.rows:
        by_split[row.split].append(row)
    in_train = {row.speaker for row in by_split.get("train", [])}
    for split, rows in by_split.items():
        judged = [row for row in rows if row.votes]
        summary: dict[str, Any] = {
            "rows": len(rows),
            "without_votes": len(rows) - len(judged),
            "speakers": len(speakers := {row.speaker for row in rows if row.speaker is not None}),
        }
        if split != "train":
            summary["speakers_also_in_train"] = len(speakers & in_train)
        if judged:
            raters = [sum(row.votes.values()) for row in judged]
            human = human_distributions(judged, task.label_names)
            counts, edges = np.histogram(entropy(human), bins=8, range=(0, float(np.log2(len(task.labels)))))
            summary["raters_per_row"] = {"min": min(raters), "mean": float(np.mean(raters)), "max": max(raters)}
            summary["label_mass"] = dict(
                zip(task.label_names, map(float, mean_distribution(judged, task.label_names)), strict=True)
            )
            summary["entropy_bits"] = {"counts": counts.tolist(), "edges": edges.tolist()}
        splits[split] = summary
    membership = "\n".join(sorted(f"{row.id}\t{row.split}" for row in prepared.rows))
    return {
        "task": task.name,
        "seed": seed,
        "split_sha256": hashlib.sha256(membership.encode()).hexdigest(),
        "splits": splits,
        "left_out": dict(prepared.left_out),
        "found_otherwise": dict(prepared.found_otherwise),
        "left_out_items": {reason: list(names) for reason, names in prepared.left_out_items.items()},
        "caveat": prepared.caveat,
        "licence": prepared.licence,
    }


def write_prepared(
    prepared: Prepared,
    task: Task,
    out: Path,
    seed: int,
    max_rows: int | None = None,
    root: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write `manifest.jsonl`, `splits.json` and `summary.json` into `out`; return the summary.

    Items of one file, or of one text, that stand in several splits, as in a corpus with a split of its own, are listed there.

    Args:
        prepared, task, seed: the rows, their task, and the seed of their split.
        out: the folder.
        max_rows: how many rows to keep, of every split its share; all where None.
        root: of the sound, where it is to be compared.
        options: what else decides the rows (`part` of the corpus, `fold`, `secondary`), for the summary.

    Raises:
        UserError: there are no rows, or one that a manifest cannot hold.
    """
    kept = keep_some(prepared.rows, max_rows)
    if not kept:
        reasons = [
            f"{count:g} {reason}"
            + (f", such as {names[0]!r}" if (names := prepared.left_out_items.get(reason)) else "")
            for reason, count in prepared.left_out.items()
            if count
        ]
        raise UserError(f"the corpus has no rows{': ' if reasons else ''}{'; '.join(reasons)}")
    for row in kept:  # what is written can be read
        row_from_json(row.to_json(), f"row {row.id!r}")
    left_out = prepared.left_out + Counter({"over --max-rows": len(prepared.rows) - len(kept)})
    prepared = replace(prepared, rows=kept, left_out=left_out)
    summary = {**summarize(prepared, task, seed), "max_rows": max_rows, **options}
    summary["twins_across_splits"] = [[one.id, other.id] for one, other in crossing_twins(kept, root)]
    groups: dict[str, set[str]] = defaultdict(set)
    for row in kept:
        groups[row.split].add(row.speaker if row.speaker is not None else row.id)
    write_json(out / "splits.json", {split: sorted(members) for split, members in groups.items()})
    write_json(out / "summary.json", summary)
    write_manifest(out / "manifest.jsonl", kept)
    return summary


def as_mapping(labels: Sequence[str], counts: Sequence[float]) -> Mapping[str, float]:
    """Votes of the labels that have any."""
    return {label: count for label, count in zip(labels, counts, strict=True) if count}


def corpus_record(summary: Path) -> dict[str, Any]:
    """Licence, caveat, rows and split of the corpus, if `prepare` left its summary beside the manifest."""
    if not summary.is_file():
        return {}
    found = read_json(summary)
    if "split_sha256" not in found:  # somebody else's file of that name
        return {}
    splits = {name: split["rows"] for name, split in found["splits"].items()}
    kept = ("licence", "caveat", "max_rows", "part", "fold", "split", "secondary", "split_sha256")
    return {**{key: found.get(key) for key in kept}, "splits": splits}
