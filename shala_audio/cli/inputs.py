"""What `shala-audio predict` is given: rows of manifests, sound files, folders of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from shala_audio.cli.shards import Shard
from shala_audio.errors import UserError

if TYPE_CHECKING:
    from shala_audio.data.rows import Row

SOUND = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")  # what a file in a folder must be called


class ManifestRows:
    """The rows of a manifest's split that a job predicts, read anew whenever they are gone through."""

    def __init__(self, name: str, split: str | None, shard: Shard) -> None:
        from shala_audio.data.rows import iterate_manifest

        def read() -> Iterator[Row]:
            chosen = (row for row in iterate_manifest(name) if split is None or row.split == split)
            return islice(chosen, shard[0] - 1, None, shard[1])

        self._read = read
        self.count = sum(1 for _ in read())
        if not self.count:
            of = f" of part {shard[0]} of {shard[1]}" if shard[1] > 1 else ""
            raise UserError(f"{name}: no rows" + (f" in split {split}" if split else "") + of)

    def __iter__(self) -> Iterator[Row]:
        return self._read()


def sound_files(names: Iterable[str], complain: Callable[[UserError], None]) -> Iterator[str]:
    """Sound files as they were named, and those in folders that were named, at any depth, by name.

    Args:
        names: of files and folders.
        complain: hears of a folder that holds none.
    """
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        found, other = 0, 0
        for folder, folders, files in os.walk(name):
            folders.sort()
            for file in sorted(files):
                if file.lower().endswith(SOUND):
                    found += 1
                    yield os.path.join(folder, file)
                else:
                    other += 1
        if not found:
            complain(UserError(f"{name}: holds no sound file ({', '.join(SOUND)})"))
        if other:
            print(f"{name}: {other} files that are not sound by their names are left out", file=sys.stderr)
