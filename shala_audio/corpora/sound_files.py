"""Which sound file an item's name means: by its own name first, then by what uploads, spreadsheets and other systems make of it."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from shala_audio.audio.containers import SUFFIXES
from shala_audio.corpora.tables import plain_label, plain_text
from shala_audio.errors import Note, UserError

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of a file that was uploaded


def parts_of(name: str) -> list[str]:
    """Folders and file of a path of Windows or others, or of an address, which may be quoted.

    >>> parts_of(r"C:\\speech\\a.wav"), parts_of("https://host/b%20c.wav?key=1"), parts_of('"/data/d.wav"')
    (['C:', 'speech', 'a.wav'], ['b c.wav'], ['data', 'd.wav'])
    """
    name = plain_label(name).strip("\"'")
    if "://" in name:
        name = "/" + name.split("://", 1)[1].partition("/")[2]
    name = re.sub(r"(\.\w{2,4})[?#].*$", r"\1", name)
    return [unquote(part) for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def last_part(name: str) -> str:
    """The file's name alone."""
    return (parts_of(name) or [""])[-1]


def without_upload_mark(name: str) -> str:
    """Without what Label Studio puts before the name of a file that was uploaded."""
    return _UPLOADED.sub("", name)


def _stem(name: str) -> str:
    """Without the suffix of a sound file, if it has one."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in SUFFIXES else name


def _cleaned(name: str) -> str:
    """Letters and digits alone, without accents, as uploads leave them; nothing where too few are left to go by."""
    bare = unicodedata.normalize("NFKD", without_upload_mark(_stem(name))).casefold()
    bare = "".join(letter for letter in bare if letter.isalnum())
    return bare if len(bare) >= LEAST_LETTERS else ""


def _unpadded(name: str) -> str:
    """Numbers without leading zeros, which spreadsheets drop."""
    stem = _stem(name)
    stem = stem[:-2] if re.fullmatch(r"\d+\.0", stem) else stem
    return re.sub(r"0*(\d+)", r"\1", stem).casefold() if any(letter.isdigit() for letter in stem) else ""


LEAST_LETTERS = 4
# How names are compared, one way after the other, and what to say of those found in that way.
_WAYS: Sequence[tuple[str, Callable[[str], str]]] = (
    ("by the last part of their path", lambda name: plain_text(last_part(name))),
    ("by another suffix, or other capitals", lambda name: _stem(plain_text(last_part(name))).casefold()),
    ("as an upload changes names", lambda name: _cleaned(last_part(name))),
    ("without leading zeros", lambda name: _unpadded(last_part(name))),
)
NOT_THERE = "items without a sound file"
UNCLEAR = "items whose name several sound files could mean"


def find_sound_files(
    folder: Path, names: Sequence[str], note: Note
) -> tuple[dict[str, Path], dict[str, str], dict[str, str]]:
    """The sound file of each name that has one, why the others have none, and those that were found otherwise.

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
    otherwise: dict[str, str] = {}
    for how, key in _WAYS:
        if not missing:
            break
        by_key: dict[str, set[Path]] = defaultdict(set)
        for path, relative in below.items():
            by_key[key(relative)].add(path)
        now: dict[str, Path] = {}
        for name in list(missing):
            hits = by_key.get(known, set()) if (known := key(name)) else set()
            if len(hits) > 1 or _is_relative(name):  # whose folders count
                hits = _nearest(name, hits, below)
            if len(hits) == 1:
                now[name] = next(iter(hits))
                del missing[name]
            elif hits:
                missing[name] = UNCLEAR
        if now:
            example = next(iter(now))
            note(f"{len(now)} sound files are found {how}: {example!r} is {below[now[example]]}")
        found |= now
        otherwise |= {name: below[path] for name, path in now.items()}
    _check(folder, {name: found[name] for name in names if name in found})
    return {name: found[name] for name in names if name in found}, missing, otherwise


def _is_relative(name: str) -> bool:
    """Whether a name is a path below the folder of the sound, and not one of another machine."""
    return len(parts_of(name)) > 1 and "://" not in name and not re.match(r"[\"']?([A-Za-z]:|/|\\|\.\.)", name)


def _nearest(name: str, hits: set[Path], below: dict[Path, str]) -> set[Path]:
    """Of several files, those that share most folders with a path, from its end; of a relative path, all of the file's."""
    folders = [part.casefold() for part in parts_of(name)[-2::-1]]

    def shared(path: Path) -> int:
        own = [part.casefold() for part in PurePosixPath(below[path]).parts[-2::-1]]
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(folders, own, strict=False)))

    if _is_relative(name):
        return {path for path in hits if shared(path) == min(len(folders), len(PurePosixPath(below[path]).parts) - 1)}
    most = max(map(shared, hits), default=0)
    return {path for path in hits if shared(path) == most}


def _check(folder: Path, found: dict[str, Path]) -> None:
    root, owner = folder.resolve(), dict[Path, str]()
    for name, path in found.items():
        if not path.resolve().is_relative_to(root):
            raise UserError(f"{path}: leads out of {folder}; name a folder that holds what it links to")
        if owner.setdefault(path, name) != name:
            raise UserError(f"{owner[path]} and {name} are one clip, {path.name}; call it the same in every line")
