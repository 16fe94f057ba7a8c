"""LeWiDi: corpora of the shared tasks on learning with disagreements, in their official splits, with who chose what.

Both editions are read, 2023 (arXiv 2304.14803) and 2025 (arXiv 2510.08460), and any other corpus in the same form: files
`<name>_train.json`, `<name>_dev.json` and `<name>_test.json` of items with `text`, `annotations` and `annotators`. The labels are
those of the task; where a corpus of 2023 writes numbers for them, their names stand below.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shala_audio.corpora.prepare import SOURCES, Prepared
from shala_audio.errors import UserError, nearest
from shala_audio.io import has_half_characters, readable
from shala_audio.manifest import Row
from shala_audio.task import Task
from shala_audio.votes import count_votes

log = logging.getLogger(__name__)

NAMES = {
    "hs_brexit": {"0": "no hate speech", "1": "hate speech"},
    "armis": {"0": "not misogynistic", "1": "misogynistic"},
    "conv_abuse": {"1": "not abusive", "0": "not abusive", "-1": "abusive", "-2": "abusive", "-3": "abusive"},
    "md_agreement": {"0": "not offensive", "1": "offensive"},
    "mp": {"0": "not ironic", "1": "ironic"},
}
# Of the official labels, where those of the annotations are others: 1 is the abusive one there.
OFFICIAL_NAMES = {"conv_abuse": {"0": "not abusive", "1": "abusive"}}
PARTS = (*NAMES, "csc", "paraphrase", "varierrnli")  # of which there is a task
SPLITS = ("train", "dev", "test")


def prepare(source: Path, part: str, task: Task) -> Prepared:
    """Rows of one corpus in its own splits.

    `extra` holds `raters` (who chose which labels), or `annotators` alone where their choices are withheld; and `hard_label`, the
    official one, which is random where raters are tied.

    Args:
        source: folder of the corpus, or of several.
        part: name of the corpus, as `part_name` has it.
        task: whose labels were chosen.

    Raises:
        UserError: the corpus is not there, or an item is not as it should be; the message names the file and the item.
    """
    names, official = NAMES.get(part, {}), OFFICIAL_NAMES.get(part, NAMES.get(part, {}))
    if not set(names.values()) <= set(task.label_names):  # a task that has the numbers
        names = official = {}
    rows: list[Row] = []
    for split, path in _files(source, part).items():
        for identity, item in _items(path).items():
            where = f"{path}: item {identity!r}"
            try:
                raters = _raters(item, names, where)
                text = _text(item["text"])
            except (KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{where}: not of LeWiDi ({error!r})") from None
            if unknown := {label for chosen in raters.values() for label in chosen} - set(task.label_names):
                raise UserError(
                    f"{where}: {min(unknown)!r} is no label of task {task.name} ({', '.join(task.label_names)}); "
                    "name a task that has it with --task"
                )
            votes = count_votes(raters.values())
            extra: dict[str, Any] = {"raters": {rater: list(chosen) for rater, chosen in raters.items()}}
            if not votes:
                extra = {"annotators": _named(item)}
            if (hard := str(item.get("hard_label", ""))) and votes:
                extra["hard_label"] = official.get(hard, hard)
            rows.append(Row(f"{split}-{identity}", task.name, split, text=text, votes=votes, extra=extra))
    _tell_broken(source, part)
    without = sum(not row.votes for row in rows)
    caveat = f"The official split of LeWiDi's {part}."
    return Prepared(
        rows,
        caveat=caveat + (f" {without} items have no annotations and are for prediction alone." if without else ""),
        licence=SOURCES["lewidi"].licence,
    )


def part_name(part: str) -> str:
    """A corpus's name as its task has it, whatever its letter case and signs; that of a corpus of one's own as it is.

    >>> part_name("MD-Agreement"), part_name("My_Corpus")
    ('md_agreement', 'My_Corpus')
    """
    return next((name for name in PARTS if _plain(name) == _plain(part)), part)


def _files(source: Path, part: str) -> dict[str, Path]:
    """The corpus's file of each split that it has; a train file must be there."""
    found: dict[str, dict[str, Path]] = {}
    for path in _json_files(source):
        name, _, split = path.stem.removesuffix("_clear").rpartition("_")  # a test set without its votes ends so
        if split in SPLITS:
            found.setdefault(_plain(name), {}).setdefault(split, path)
    files = found.get(_plain(part), {})
    if "train" not in files:
        near = nearest(_plain(part), found)
        there = f"; there are {', '.join(found)}{near}" if found else ""
        raise UserError(f"{source}: has no file {part}_train.json{there}")
    return {split: files[split] for split in SPLITS if split in files}


def _json_files(source: Path) -> list[Path]:
    return sorted([*source.glob("*.json"), *source.glob("*/*.json")])


def _tell_broken(source: Path, part: str) -> None:
    """Warn of files about the corpus's annotators that are no JSON, as two of 2025 are. Nothing is read from them."""
    for path in _json_files(source):
        if _plain(path.stem).startswith(_plain(part)) and path.stem.endswith("_meta"):
            try:
                json.loads(path.read_text(encoding="utf-8-sig"))
            except (OSError, ValueError) as error:
                log.warning("%s: not JSON (%s); nothing is read from it", path, error)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _items(path: Path) -> dict[str, Any]:
    with readable(path):
        text = path.read_text(encoding="utf-8-sig")
    try:
        items = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(items, dict) or not all(isinstance(item, dict) for item in items.values()):
        raise UserError(f"{path}: not of LeWiDi, whose files are an object of items by their number")
    if has_half_characters(items):
        raise UserError(f"{path}: has half an emoji (such as \\ud83d) without its other half; remove it")
    return items


def _raters(item: Mapping[str, Any], names: Mapping[str, str], where: str) -> dict[str, tuple[str, ...]]:
    """Who chose which labels: of 2025 an object, of 2023 two lists in one order, with commas between."""
    annotations = item.get("annotations") or {}
    if isinstance(annotations, str):
        chosen, raters = annotations.split(","), [rater.strip() for rater in str(item["annotators"]).split(",")]
        if len(chosen) != len(raters):
            raise UserError(f"{where}: {len(chosen)} annotations by {len(raters)} annotators")
        # One stands there twice in a few items of MD-Agreement; the official soft label counts both.
        again = [raters[:index].count(rater) for index, rater in enumerate(raters)]
        raters = [f"{rater} ({times + 1})" if times else rater for rater, times in zip(raters, again, strict=True)]
        annotations = dict(zip(raters, chosen, strict=True))
    given = {rater: chosen for rater, chosen in annotations.items() if chosen is not None}
    labels = {rater: [one.strip() for one in str(chosen).split(",")] for rater, chosen in given.items()}
    chosen_by = {rater: [names.get(one, one) for one in many if one] for rater, many in labels.items()}
    return {rater: tuple(dict.fromkeys(many)) for rater, many in chosen_by.items() if many}


def _named(item: Mapping[str, Any]) -> list[str]:
    """Who judged an item whose annotations are withheld."""
    names = str(item.get("annotators") or "").split(",")
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def _text(text: Any) -> dict[str, str]:
    """Fields of an item's text: an object, one written in a string, or a plain text, which is field `text`."""
    if isinstance(text, str) and text.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):  # a text may begin with a brace
            text = json.loads(text)
    if isinstance(text, str):
        return {"text": text}
    return {re.sub(r"\W", "_", str(name)): "" if value is None else str(value) for name, value in text.items()}
