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


class ManifestRows:
    """The rows of a manifest's split that a job predicts, read anew whenever they are gone through."""

    def __init__(self, name: str, split: str | None, shard: Shard) -> None:
        from shala_audio.data.rows import iterate_manifest

        def read() -> Iterator[Row]:
            return (row for row in iterate_manifest(name) if split is None or row.split == split)

        self._read, self._shard = read, shard
        every = sum(1 for _ in read())
        if not every:
            raise UserError(f"{name}: no rows" + (f" in split {split}" if split else ""))
        self.count = len(range(shard[0] - 1, every, shard[1]))  # none, where there are fewer rows than parts

    def __iter__(self) -> Iterator[Row]:
        return islice(self._read(), self._shard[0] - 1, None, self._shard[1])


def sound_files(names: Iterable[str], complain: Callable[[UserError], None]) -> Iterator[str]:
    """Sound files as they were named, and those in folders that were named, at any depth, by name.

    Args:
        names: of files and folders.
        complain: hears of a folder that holds none.
    """

    from shala_audio.audio.sound import SUFFIXES
    from shala_audio.files import has_half_characters

    def unreadable(error: OSError) -> None:
        complain(UserError(f"{error.filename}: cannot be read ({error.strerror})"))

    for name in names:
        if has_half_characters(name):  # how bytes that are not UTF-8 come here
            complain(UserError(f"{name!r}: this name is not UTF-8; rename the file"))
            continue
        if not os.path.isdir(name):
            yield name
            continue
        found, other, linked = 0, 0, 0
        for folder, folders, files in os.walk(name, onerror=unreadable):
            folders.sort()
            linked += sum(os.path.islink(os.path.join(folder, inner)) for inner in folders)
            for file in sorted(files):
                if has_half_characters(file):
                    complain(UserError(f"{os.path.join(folder, file)!r}: this name is not UTF-8; rename the file"))
                elif file.lower().endswith(SUFFIXES):
                    found += 1
                    yield os.path.join(folder, file)
                else:
                    other += 1
        if not found:
            complain(UserError(f"{name}: holds no sound file ({', '.join(SUFFIXES)})"))
        if other:
            print(f"{name}: {other} files that are not sound by their names are left out", file=sys.stderr)
        if linked:
            print(f"{name}: {linked} links to folders are not followed; name their targets too", file=sys.stderr)
