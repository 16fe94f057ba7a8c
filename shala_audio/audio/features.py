"""Encoder features of a manifest's clips: made once (`write_features`), kept as safetensors, indexed and read.

A folder holds `encoder.json` (what made the features), shards of clips (`features-<hash>.safetensors`, float16, one tensor
(S, T, D) a clip), and `index.jsonl`: one line a clip, of which the last one with its id counts. Lines are only ever added,
under a lock, after their shard is in place, so that two processes may fill a folder together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from shala_audio.audio.augment import perturb
from shala_audio.audio.encoders import AudioEncoder, by_length
from shala_audio.audio.io import SAMPLE_RATE, SHORTEST, Samples, read_row_audio, row_path, set_loudness, trim_silence
from shala_audio.errors import UserError
from shala_audio.io import append_lines, atomic_write, locked, read_json, write_json
from shala_audio.manifest import Row

_ENTRY = (("id", str), ("shard", str), ("frames", int), ("sound", str), ("stretch", str))  # of the index
_TAKEN_BACK = (("id", str), ("shard", type(None)))


class FeatureStore:
    """Features of rows by id.

    Raises:
        UserError: the folder has no index, or was made by another encoder than `encoder` names.
    """

    def __init__(self, folder: str | Path, encoder: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / "encoder.json").is_file():
            raise UserError(f"{folder}: has no features; `shala-audio features` makes them")
        self.encoder: dict[str, Any] = read_json(self.folder / "encoder.json")
        if encoder is not None:
            check_encoder(self.folder, self.encoder, encoder)
        self.entries = current_entries(self.folder)
        self._open = lru_cache(maxsize=128)(self._open_shard)

    def __contains__(self, row_id: str) -> bool:
        return row_id in self.entries

    def augmentations(self, row_id: str, most: int) -> list[str]:
        """Keys of a row's augmentations 1 to `most`, of the sound that the row has now; some may not be usable."""
        sound = self._entry(row_id)["sound"]
        keys = (augmented_id(row_id, number) for number in range(1, most + 1))
        return [key for key in keys if key in self.entries and self.entries[key]["sound"].startswith(f"{sound}:")]

    def frames(self, row_id: str) -> int:
        """Number of frames T of a row, or of an augmentation (`augmented_id`)."""
        return self._entry(row_id)["frames"]

    def __getitem__(self, row_id: str) -> Tensor:
        """Features of a row or an augmentation, (S, T, D) float16."""
        entry = self._entry(row_id)
        try:
            features: Tensor = self._open(entry["shard"]).get_tensor(row_id)
        except SafetensorError as error:
            raise UserError(f"{self.folder / entry['shard']}: has no features of row {row_id} ({error})") from None
        if features.ndim != 3 or features.shape[1] != entry["frames"]:
            raise UserError(f"{self.folder}: features of row {row_id} are not as long as the index says")
        return features

    def _open_shard(self, name: str) -> Any:
        if Path(name).name != name:
            raise UserError(f"{self.folder / 'index.jsonl'}: names {name}, which is not in the folder")
        try:
            return safe_open(self.folder / name, framework="pt")
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{self.folder / name}: cannot be read ({error}); remove {self.folder} and run `shala-audio features` again"
            ) from None

    def digest(self, row_ids: Iterable[str]) -> str:
        """Hash of the encoder and of the sound that rows were encoded from; those without features count as such."""
        sounds = [f"{row_id} {self.entries.get(row_id, {}).get('sound')}\n" for row_id in row_ids]
        return hashlib.sha256("".join([json.dumps(self.encoder, sort_keys=True), *sounds]).encode()).hexdigest()

    def check(self, rows: Iterable[Row]) -> None:
        """Raise where a row is now another segment of sound than the one whose features are here.

        Raises:
            UserError: naming the first such row.
        """
        for row in rows:
            if row.audio is not None and row.id in self.entries and self.entries[row.id]["stretch"] != segment_of(row):
                raise UserError(f"{self.folder}: row {row.id} is of other sound now; run `shala-audio features` again")

    def _entry(self, row_id: str) -> dict[str, Any]:
        try:
            return self.entries[row_id]
        except KeyError:
            raise UserError(
                f"{self.folder}: no features of row {row_id}; run `shala-audio features` again, or leave such rows out "
                "with --skip-bad"
            ) from None


def check_encoder(folder: Path, found: dict[str, Any], needed: dict[str, Any]) -> None:
    """Raise where features were made otherwise than a model needs; weights are compared where both are known."""
    other = [
        name
        for name in ("encoder", "layers", "trim_db", "loudness_db", "weights")
        if found.get(name) != needed.get(name) and not (name == "weights" and "" in (found.get(name), needed.get(name)))
    ]
    if other:
        shown = ", ".join(f"{name} {found.get(name)} instead of {needed.get(name)}" for name in other)
        raise UserError(
            f"{folder}: holds features of another encoder ({shown}); use another folder, or remove this one"
        )


def augmented_id(row_id: str, number: int) -> str:
    """The key of a row's features: of the clip itself, number 0, or of an augmentation."""
    return f"{row_id}\t{number}" if number else row_id


def pad_features(features: Sequence[Tensor], multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Features (S, T, D) of B clips to (B, S, longest T, D) of the same type, and their lengths (B,).

    Args:
        features: of the clips.
        multiple: the longest T is rounded up to one of it.
    """
    lengths = torch.tensor([clip.shape[1] for clip in features])
    layers, _, width = features[0].shape
    longest = -(-int(lengths.max()) // multiple) * multiple
    padded = torch.zeros(len(features), layers, longest, width, dtype=features[0].dtype)
    for index, clip in enumerate(features):
        padded[index, :, : clip.shape[1]] = clip
    return padded, lengths


def add_lines(out: Path, lines: list[dict[str, Any]]) -> None:
    """Put entries at the end of the index, for good: their shard is in place."""
    with locked(out):
        append_lines(out / "index.jsonl", map(json.dumps, lines))


def current_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """The last entry of every id, but those that were taken back."""
    entries = {entry["id"]: entry for entry in _read_index(folder)}
    return {key: entry for key, entry in entries.items() if entry["shard"] is not None}


def _read_index(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / "index.jsonl"
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):  # cut short by an interruption; its clip is encoded again
                continue
            if not _is_entry(entry):
                raise UserError(
                    f"{path}: holds a line that is no entry; remove {folder} and run `shala-audio features` again"
                )
            yield entry


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or "shard" not in entry:
        return False
    fields = _TAKEN_BACK if entry["shard"] is None else _ENTRY
    return all(isinstance(entry.get(name), kind) for name, kind in fields)


def segment_of(row: Row) -> str:
    """Which sound a row is, as its manifest says it."""
    assert row.audio is not None
    channel = "" if row.audio.channel is None else f" {row.audio.channel}"
    return f"{row.audio.path} {row.audio.offset!r} {row.audio.duration!r}{channel}"


SHARD_CLIPS = 256
READERS = 4  # files read at once
SHARD_BYTES = 1 << 28  # of features: several layers of a large encoder are 80 MB a clip


@dataclass
class Encoded:
    """What `write_features` did: clips encoded, clips that were there, augmentations that became too short or too long,
    and rows whose sound is bad, with the reason."""

    new: int = 0
    old: int = 0
    unfit: int = 0
    bad: dict[str, str] = field(default_factory=dict)


def write_features(
    rows: Sequence[Row],
    root: Path,
    encoder: AudioEncoder,
    identity: dict[str, Any],
    out: Path,
    augmentations: int = 0,
    seed: int = 0,
) -> Encoded:
    """Encode the clips that the folder lacks. A kill loses one shard at most.

    Args:
        rows: rows with sound.
        root: what their paths are relative to.
        encoder: the encoder.
        identity: what features depend on beside the sound (`ModelConfig.encoder_identity`, and the weights' hash).
        out: the folder.
        augmentations: augmentations of each training row beside the clip itself.
        seed: of the perturbation.

    Raises:
        UserError: the folder holds features of another encoder.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        if (out / "encoder.json").is_file():
            check_encoder(out, read_json(out / "encoder.json"), identity)
        else:
            write_json(out / "encoder.json", identity)
    known = current_entries(out)
    done = Encoded()
    keys = sound_keys(rows, root)
    wanted: list[tuple[Row, int]] = []
    moved: list[dict[str, Any]] = []
    for row in rows:
        for number in range(1 + (augmentations if row.split == "train" else 0)):
            identifier = augmented_id(row.id, number)
            entry = known.get(identifier)
            if entry is None or entry["sound"] != _key(keys[row.id], number, seed):
                wanted.append((row, number))
                continue
            done.old += 1
            if entry["stretch"] != segment_of(row):  # the same sound in a file of another name
                moved.append({**entry, "stretch": segment_of(row)})
    if moved:
        add_lines(out, moved)
    wanted.sort(key=lambda item: ((item[0].audio.duration or 0.0) if item[0].audio else 0.0, item[0].id, item[1]))
    with tqdm(total=len(wanted), unit="clip", desc="features", disable=None) as bar:
        for start in range(0, len(wanted), SHARD_CLIPS):
            part = wanted[start : start + SHARD_CLIPS]
            features: dict[str, Tensor] = {}
            lines: list[dict[str, Any]] = []
            for batch in _batches(part, root, encoder.longest, identity, seed, done):
                for (row, number, _), states in zip(batch, encoder.encode([clip for _, _, clip in batch]), strict=True):
                    identifier = augmented_id(row.id, number)
                    features[identifier] = states.to(torch.float16).contiguous()
                    sound = _key(keys[row.id], number, seed)
                    lines.append(
                        {"id": identifier, "frames": states.shape[1], "sound": sound, "stretch": segment_of(row)}
                    )
                if sum(states.nbytes for states in features.values()) >= SHARD_BYTES:
                    done.new += _write_shard(out, features, lines)
                    features, lines = {}, []
            done.new += _write_shard(out, features, lines)
            bar.update(len(part))
    # What was there is of other sound than the file's now. Where there is no file, the root may not be the right one.
    if gone := sorted(row_id for row_id in done.bad.keys() & known.keys() if keys[row_id]):
        add_lines(out, [{"id": row_id, "shard": None} for row_id in gone])
    return done


def _write_shard(out: Path, features: dict[str, Tensor], lines: list[dict[str, Any]]) -> int:
    """Put features in place, and then their entries; returns how many there are, which may be none."""
    if features:
        shard = f"features-{hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]}.safetensors"
        with atomic_write(out / shard) as beside:
            save_file(features, beside)
        add_lines(out, [{**line, "shard": shard} for line in lines])
    return len(features)


def sound_keys(rows: Sequence[Row], root: Path) -> dict[str, str]:
    """What each row's features depend on beside the encoder: the file's content and the segment of it; "" where there is no
    reading the file, of which `_batches` says more. A file is read once for all its rows."""
    with ThreadPoolExecutor() as pool:
        paths = list(pool.map(lambda row: _path(row, root), rows))
        files = list(dict.fromkeys(path for path in paths if path is not None))
        made = tqdm(pool.map(_digest, files), total=len(files), unit="file", desc="hash", disable=None)
        digests = dict(zip(files, made, strict=True))
    keys = {}
    for row, path in zip(rows, paths, strict=True):
        assert row.audio is not None
        digest = None if path is None else digests[path]
        if digest is not None:
            digest = digest.copy()
            channel = "" if row.audio.channel is None else f":{row.audio.channel}"
            digest.update(f"{row.audio.offset}:{row.audio.duration}{channel}".encode())
        keys[row.id] = "" if digest is None else digest.hexdigest()[:16]
    return keys


def _path(row: Row, root: Path) -> Path | None:
    """A row's file; None where it is none, nor a pipe or a device, which may never end."""
    assert row.audio is not None
    try:
        path = row_path(row.audio, root)
        return path if path.is_file() else None
    except (UserError, OSError, ValueError):
        return None


def _digest(path: Path) -> Any:
    """The running sha256 of a file's content, or None."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256")
    except OSError:
        return None


def _key(sound: str, number: int, seed: int) -> str:
    """Of an augmentation, the seed counts too."""
    return f"{sound}:{seed}" if number else sound


def _batches(
    wanted: Sequence[tuple[Row, int]], root: Path, longest: float, identity: dict[str, Any], seed: int, done: Encoded
) -> Iterator[list[tuple[Row, int, Samples]]]:
    """Clips in batches of similar length and bounded total length; what cannot be used is noted in `done`."""
    trim_db, loudness_db = identity.get("trim_db"), identity.get("loudness_db")

    def read(item: tuple[Row, int]) -> Samples | UserError:
        row, number = item
        assert row.audio is not None
        try:
            samples = read_row_audio(row.audio, root)
            if trim_db is not None:
                samples = trim_silence(samples, trim_db)
            if len(samples) > longest * SAMPLE_RATE:
                seconds = len(samples) / SAMPLE_RATE
                raise UserError(f"{row.audio.path} lasts {seconds:.1f} s; the encoder takes {longest:.0f} s at once")
        except UserError as error:
            return error
        if number:
            samples = perturb(samples, int(hashlib.sha256(f"{seed}:{row.id}".encode()).hexdigest()[:8], 16), number)
        return samples if loudness_db is None else set_loudness(samples, loudness_db)

    clips: list[tuple[Row, int, Samples]] = []
    with ThreadPoolExecutor(READERS) as pool:
        for (row, number), samples in zip(wanted, pool.map(read, wanted), strict=True):
            if isinstance(samples, UserError):
                done.bad[row.id] = str(samples)
            elif not SHORTEST <= len(samples) <= longest * SAMPLE_RATE:  # as an augmentation may become
                done.unfit += 1
            else:
                clips.append((row, number, samples))
    for batch in by_length([len(samples) for _, _, samples in clips]):
        yield [clips[index] for index in batch]
