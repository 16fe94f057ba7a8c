"""Seeded splits that keep a group (a speaker, a premise) on one side."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import soundfile

from shala_audio.corpora.tables import plain_label
from shala_audio.errors import Note, UserError
from shala_audio.io import file_sha256
from shala_audio.manifest import Row

FOLDS = 5  # of a cross-validation
SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}  # of the items, where a corpus has no split of its own


def split_by_group(
    groups: Sequence[str], shares: Mapping[str, float], seed: int, strata: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Assign each distinct group to a split, so that the splits' shares of items come close to `shares`.

    Groups are shuffled with the seed, then each goes to the split that is furthest below its share. The result depends
    on the set of groups, their sizes and the seed, not on the order of items.

    Args:
        groups: the group of every item.
        shares: split name to share of the items, summing to 1.
        seed: of the shuffle.
        strata: group to stratum (such as sex); each stratum is split on its own.

    >>> split_by_group(["a", "a", "b", "c", "d"], {"train": 0.8, "test": 0.2}, seed=0) == \
        split_by_group(["d", "c", "b", "a", "a"], {"train": 0.8, "test": 0.2}, seed=0)
    True
    """
    sizes = Counter(groups)
    strata = strata or {}
    assigned: dict[str, str] = {}
    for stratum in sorted({strata.get(group, "") for group in sizes}):
        members = sorted(group for group in sizes if strata.get(group, "") == stratum)
        random.Random(f"{seed}:{stratum}").shuffle(members)
        total = sum(sizes[group] for group in members)
        filled: Counter[str] = Counter()
        for group in members:
            split = max(shares, key=lambda name: shares[name] - filled[name] / total)
            assigned[group] = split
            filled[split] += sizes[group]
    return assigned


def fold_split(
    groups: Sequence[str],
    fold: int,
    seed: int,
    dev_share: float,
    strata: Mapping[str, str] | None = None,
    members: Sequence[str] = (),
) -> dict[str, str]:
    """Assign each group to train, dev or test for one fold of a cross-validation: every group is in test once.

    The folds themselves do not depend on the seed, so that everybody's are the same.

    Args:
        groups: the group of every item.
        fold: 0 to `FOLDS` - 1; its groups are the test split.
        seed: of the choice of dev.
        dev_share: of the items that are not in test.
        strata: group to stratum; each is divided on its own.
        members: groups that make the folds, each of the same size; those of the items, by their sizes, where not given.

    Raises:
        UserError: no such fold.
    """
    if not 0 <= fold < FOLDS:
        raise UserError(f"--fold is {fold}; use 0 to {FOLDS - 1}")
    folds = split_by_group(members or groups, {str(index): 1 / FOLDS for index in range(FOLDS)}, 0, strata)
    rest = [group for group in groups if folds[group] != str(fold)]
    assigned = split_by_group(rest, {"train": 1 - dev_share, "dev": dev_share}, seed, strata)
    return {group: assigned.get(group, "test") for group in groups}


def twins(rows: Sequence[Row], root: str | Path | None) -> list[list[int]]:
    """Rows that are the same to a model: of one sound file, of files with equal bytes or samples, or, without sound, with equal
    text.

    Args:
        rows: of any splits.
        root: that sound lies in; None where files are not to be read.

    Returns:
        Indices of the rows of each set of two or more.
    """
    paths = {row.audio.path for row in rows if row.audio is not None}
    same = _same_sound(sorted(paths), Path(root)) if root is not None else {}
    sets: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.audio is not None:
            sets[f"sound {same.get(row.audio.path, row.audio.path)}"].append(index)
        else:
            text = "\n".join(f"{name}={plain_label(value).casefold()}" for name, value in sorted(row.text.items()))
            sets[f"text {text}"].append(index)
    return [members for members in sets.values() if len(members) > 1]


def _same_sound(paths: Sequence[str], root: Path) -> dict[str, str]:
    """What the sound of files is known by, of those that may be others' twins: as many samples at the same rate are read."""
    lengths: dict[tuple[int, int], list[str]] = defaultdict(list)
    for path in paths:
        with suppress(OSError):
            try:
                about = soundfile.info(root / path)
                lengths[about.frames, about.samplerate].append(path)
            except soundfile.LibsndfileError:  # what only ffmpeg reads is known by its bytes
                lengths[(root / path).stat().st_size, 0].append(path)
    alike = [path for members in lengths.values() if len(members) > 1 for path in members]
    with ThreadPoolExecutor() as pool:
        return dict(zip(alike, pool.map(lambda path: _sound_digest(root / path), alike), strict=True))


def _sound_digest(path: Path) -> str:
    """Of the samples, in 16 bits: the same in every lossless format. Read as numbers with a point, since those that are would
    not be scaled otherwise, and all be 0."""
    with suppress(OSError):
        try:
            with soundfile.SoundFile(path) as sound:
                digest = hashlib.sha256(f"{sound.frames} {sound.channels} {sound.samplerate}".encode())
                for block in sound.blocks(1 << 20, dtype="float32"):
                    digest.update(np.round(np.nan_to_num(block) * 2**15).astype(np.int64).tobytes())
            return digest.hexdigest()
        except soundfile.LibsndfileError:
            return file_sha256(path)
    return str(path)


def twin_groups(rows: Sequence[Row], root: str | Path | None, note: Note) -> list[str]:
    """The group of each row, which a split must keep on one side: its speaker, or else itself; with those of its twins.

    Args:
        rows, root: as of `twins`.
        note: told of twins, with an example.
    """
    groups = [row.speaker or row.id for row in rows]
    leader = {group: group for group in groups}

    def find(group: str) -> str:
        while leader[group] != group:
            leader[group] = leader[leader[group]]  # so that no chain grows long
            group = leader[group]
        return group

    found = twins(rows, root)
    for members in found:
        first = min(find(groups[member]) for member in members)
        for member in members:
            leader[find(groups[member])] = first
    if different := [members for members in found if len({_file(rows[member]) for member in members}) > 1]:
        one, two, *_ = (rows[member].id for member in different[0])
        what = "sound" if rows[different[0][0]].audio is not None else "text"
        count = sum(len(members) for members in different)
        note(f"{count} items share their {what} with others, such as {one} and {two}; those stay in one split")
    return [find(group) for group in groups]


def _file(row: Row) -> str:
    return row.audio.path if row.audio is not None else row.id


def crossing_twins(rows: Sequence[Row], root: str | Path | None) -> list[tuple[Row, Row]]:
    """Pairs of rows that are the same to a model and stand in different splits; of each set of twins the first such pair."""
    pairs = []
    for members in twins(rows, root):
        first = rows[members[0]]
        other = next((rows[member] for member in members if rows[member].split != first.split), None)
        if other is not None:
            pairs.append((first, other))
    return pairs


def check_speakers(rows: Sequence[Row]) -> None:
    """Raise where a speaker stands in two splits that must not share any (rows without a speaker are not checked).

    MSP-Podcast's own partition is kept as it is, for it is a contract with its other users: `prepare` names the speakers that
    it shares.

    Raises:
        UserError: naming the speaker and the splits.
    """
    split_of: dict[str, str] = {}
    for row in rows:
        own_partition = row.task.startswith("msp_podcast")
        if row.speaker is not None and not own_partition and split_of.setdefault(row.speaker, row.split) != row.split:
            raise UserError(f"speaker {row.speaker} is in {split_of[row.speaker]} and in {row.split}")


def shared_speakers(rows: Sequence[Row], split: str = "train") -> list[str]:
    """Speakers who are in `split` and in another one."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row.speaker is not None:
            splits.setdefault(row.speaker, set()).add(row.split)
    return sorted(speaker for speaker, found in splits.items() if split in found and len(found) > 1)
