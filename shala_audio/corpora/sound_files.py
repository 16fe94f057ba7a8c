"""Which sound file an item's name means: by its own name first, then by what uploads, spreadsheets and other systems make of it."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from shala_audio.audio.containers import SUFFIXES
from shala_audio.corpora.tables import Note, plain_text
from shala_audio.errors import UserError

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of a file that was uploaded


def last_part(name: str) -> str:
    """The file's name out of a path of Windows or others, or an address.

    >>> last_part(r"C:\\speech\\a.wav"), last_part("https://host/b%20c.wav?key=1"), last_part("/data/d.wav")
    ('a.wav', 'b c.wav', 'd.wav')
    """
    if "://" in name:
        name = unquote(urlsplit(name).path)
    return PurePosixPath(name.replace("\\", "/")).name


def without_upload_mark(name: str) -> str:
    """Without what Label Studio puts before the name of a file that was uploaded."""
    return _UPLOADED.sub("", name)


def _stem(name: str) -> str:
    """Without the suffix of a sound file, if it has one."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in SUFFIXES else name


def _cleaned(name: str) -> str:
    """Letters and digits alone, without accents, as uploads leave them."""
    bare = unicodedata.normalize("NFKD", without_upload_mark(_stem(name))).casefold()
    return "".join(letter for letter in bare if letter.isalnum())


def _number(name: str) -> str:
    """A name of digits without its leading zeros, which spreadsheets drop; a name with letters is none."""
    stem = _stem(name)
    stem = stem[:-2] if re.fullmatch(r"\d+\.0", stem) else stem
    return stem.lstrip("0") or "0" if stem.isdecimal() else ""


# How names are compared, one way after the other, and what to say of those found in that way.
_WAYS: Sequence[tuple[str, Callable[[str], str]]] = (
    ("by the last part of their path", lambda name: plain_text(last_part(name))),
    ("by another suffix, or other capitals", lambda name: _stem(plain_text(last_part(name))).casefold()),
    ("as an upload changes names", lambda name: _cleaned(last_part(name))),
    ("without leading zeros", lambda name: _number(last_part(name))),
)
NOT_THERE = "items without a sound file"
UNCLEAR = "items whose name several sound files could mean"


def find_sound_files(folder: Path, names: Sequence[str], note: Note) -> tuple[dict[str, Path], dict[str, str]]:
    """The sound file of each name that has one, and why the others have none.

    First by its path below `folder`, by its file's name, or by that without suffix; those that are not found so, by the last
    part of the path, another suffix, and so on.

    Args:
        folder: of the sound, with or without folders in it.
        names: as items are called.
        note: told how many were found otherwise than by their name, with an example.

    Raises:
        UserError: two files have an item's own name, two items are one file, or a link leads out of the folder.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    below = {path: plain_text(path.relative_to(folder).as_posix()) for path in paths}
    own: dict[str, set[Path]] = defaultdict(set)
    for path, relative in below.items():
        for name in (relative, PurePosixPath(relative).name, PurePosixPath(relative).stem):
            own[name].add(path)
    found: dict[str, Path] = {}
    for name in names:
        if len(own.get(name, ())) > 1:
            one, two, *_ = sorted(below[path] for path in own[name])
            raise UserError(f"{name}: both {one} and {two} have that name; write the path below {folder}")
        if name in own:
            found[name] = next(iter(own[name]))
    missing = {name: NOT_THERE for name in names if name not in found}
    for how, key in _WAYS:
        by_key: dict[str, set[Path]] = defaultdict(set)
        for path, relative in below.items():
            by_key[key(relative)].add(path)
        now: dict[str, Path] = {}
        for name in list(missing):
            hits = by_key.get(key(name), set()) if key(name) else set()
            if len(hits) == 1:
                now[name] = next(iter(hits))
                del missing[name]
            elif hits:
                missing[name] = UNCLEAR
        if now:
            example = next(iter(now))
            note(f"{len(now)} sound files are found {how}: {example!r} is {below[now[example]]}")
        found |= now
    _check(folder, {name: found[name] for name in names if name in found})
    return {name: found[name] for name in names if name in found}, missing


def _check(folder: Path, found: dict[str, Path]) -> None:
    root, owner = folder.resolve(), dict[Path, str]()
    for name, path in found.items():
        if not path.resolve().is_relative_to(root):
            raise UserError(f"{path}: leads out of {folder}; name a folder that holds what it links to")
        if owner.setdefault(path, name) != name:
            raise UserError(f"{owner[path]} and {name} are one clip, {path.name}; call it the same in every line")
