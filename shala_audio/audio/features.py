"""Encoder features of a manifest, computed once and kept as safetensors.

A folder holds `encoder.json` (what made the features), shards of clips (`features-<hash>.safetensors`, float16, one tensor
(S, T, D) a clip), and `index.jsonl`: one line a clip, of which the last one with its id counts. Lines are only ever added,
under a lock, after their shard is in place, so that two processes may fill a folder together.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from shala_audio.audio.augment import perturb
from shala_audio.audio.sound import SAMPLE_RATE, SHORTEST, Samples, read_row_audio, row_path, trim_silence
from shala_audio.data.rows import Row
from shala_audio.errors import UserError
from shala_audio.files import read_json, write_beside, write_json

if TYPE_CHECKING:
    from shala_audio.audio.encoders import AudioEncoder  # loads transformers, which reading features does not need

SHARD_CLIPS = 256
_ENTRY = (("id", str), ("shard", str), ("frames", int), ("sound", str), ("stretch", str))  # of the index
_TAKEN_BACK = (("id", str), ("shard", type(None)))
BATCH_SECONDS = 60.0  # sound encoded in one batch


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
        self.entries = _current(self.folder)
        self._open = lru_cache(maxsize=128)(self._open_shard)

    def __contains__(self, row_id: str) -> bool:
        return row_id in self.entries

    def copies(self, row_id: str, most: int) -> list[str]:
        """Keys of a row's perturbed copies 1 to `most`, of the sound that the row has now; some may not be usable."""
        sound = self._entry(row_id)["sound"]
        keys = (copy_id(row_id, copy) for copy in range(1, most + 1))
        return [key for key in keys if key in self.entries and self.entries[key]["sound"].startswith(f"{sound}:")]

    def frames(self, row_id: str) -> int:
        """Number of frames T of a row, or of a copy (`copy_id`)."""
        return self._entry(row_id)["frames"]

    def __getitem__(self, row_id: str) -> Tensor:
        """Features of a row or a copy, (S, T, D) float16."""
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
        """Raise where a row is now another stretch of sound than the one whose features are here.

        Raises:
            UserError: naming the first such row.
        """
        for row in rows:
            if row.audio is not None and row.id in self.entries and self.entries[row.id]["stretch"] != _stretch(row):
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
        for name in ("encoder", "layers", "trim_db", "weights")
        if found.get(name) != needed.get(name) and not (name == "weights" and "" in (found.get(name), needed.get(name)))
    ]
    if other:
        shown = ", ".join(f"{name} {found.get(name)} instead of {needed.get(name)}" for name in other)
        raise UserError(
            f"{folder}: holds features of another encoder ({shown}); use another folder, or remove this one"
        )


def copy_id(row_id: str, copy: int) -> str:
    """The key of a row's features: of the clip itself, copy 0, or of a perturbed copy."""
    return f"{row_id}\t{copy}" if copy else row_id


def pad_features(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (S, T, D) of B clips to (B, S, longest T, D) float32, and their lengths (B,)."""
    lengths = torch.tensor([clip.shape[1] for clip in features])
    layers, _, width = features[0].shape
    padded = torch.zeros(len(features), layers, int(lengths.max()), width)
    for index, clip in enumerate(features):
        padded[index, :, : clip.shape[1]] = clip
    return padded, lengths


@dataclass
class Encoded:
    """What `write_features` did: clips encoded, clips that were there, perturbed copies that became too short or too long to
    be heard, and rows whose sound is bad, with the reason."""

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
    copies: int = 0,
    seed: int = 0,
) -> Encoded:
    """Encode the clips that the folder lacks. A kill loses one shard at most.

    Args:
        rows: rows with sound.
        root: what their paths are relative to.
        encoder: the encoder.
        identity: what features depend on beside the sound (`ModelConfig.encoder_identity`, and the weights' hash).
        out: the folder.
        copies: perturbed copies of each training row beside the clip itself.
        seed: of the perturbation.

    Raises:
        UserError: the folder holds features of another encoder.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        if (out / "encoder.json").is_file():
            check_encoder(out, read_json(out / "encoder.json"), identity)
        else:
            write_json(out / "encoder.json", identity)
    known = _current(out)
    done = Encoded()
    with ThreadPoolExecutor() as pool:
        keys = dict(zip((row.id for row in rows), pool.map(lambda row: _sound_key(row, root), rows), strict=True))
    wanted: list[tuple[Row, int]] = []
    for row in rows:
        for copy in range(1 + (copies if row.split == "train" else 0)):
            identifier = copy_id(row.id, copy)
            if known.get(identifier, {}).get("sound") == _key(keys[row.id], copy, seed):
                done.old += 1
            else:
                wanted.append((row, copy))
    wanted.sort(key=lambda item: ((item[0].audio.duration or 0.0) if item[0].audio else 0.0, item[0].id, item[1]))
    with tqdm(total=len(wanted), unit="clip", desc="features", disable=None) as bar:
        for start in range(0, len(wanted), SHARD_CLIPS):
            part = wanted[start : start + SHARD_CLIPS]
            features: dict[str, Tensor] = {}
            lines = []
            for batch in _batches(part, root, encoder.longest, identity.get("trim_db"), seed, done):
                for (row, copy, _), states in zip(batch, encoder.encode([clip for _, _, clip in batch]), strict=True):
                    identifier = copy_id(row.id, copy)
                    features[identifier] = states.to(torch.float16).contiguous()
                    sound = _key(keys[row.id], copy, seed)
                    lines.append(
                        {"id": identifier, "frames": states.shape[1], "sound": sound, "stretch": _stretch(row)}
                    )
            bar.update(len(part))
            if features:
                shard = f"features-{hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]}.safetensors"
                with write_beside(out / shard) as beside:
                    save_file(features, beside)
                _add_lines(out, [{**line, "shard": shard} for line in lines])
                done.new += len(features)
    # What was there is of other sound than the file's now. Where there is no file, the root may not be the right one.
    if gone := sorted(row_id for row_id in done.bad.keys() & known.keys() if keys[row_id]):
        _add_lines(out, [{"id": row_id, "shard": None} for row_id in gone])
    return done


def _add_lines(out: Path, lines: list[dict[str, Any]]) -> None:
    with _locked(out), open(out / "index.jsonl", "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # an interruption cut the last line short; it does not count
                file.write(b"\n")
        file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes when its holder does."""
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _current(folder: Path) -> dict[str, dict[str, Any]]:
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


def _stretch(row: Row) -> str:
    """Which sound a row is, as its manifest says it."""
    assert row.audio is not None
    return f"{row.audio.path} {row.audio.offset!r} {row.audio.duration!r}"


def _sound_key(row: Row, root: Path) -> str:
    """What a row's features depend on beside the encoder: the file's content and the stretch of it; "" where there is no
    reading the file, of which `_batches` says more."""
    assert row.audio is not None
    try:
        path = row_path(row.audio, root)
        if not path.is_file():  # nor a pipe, nor a device that never ends
            return ""
        digest = hashlib.sha256(path.read_bytes())
    except (UserError, OSError, ValueError):
        return ""
    digest.update(f"{row.audio.offset}:{row.audio.duration}".encode())
    return digest.hexdigest()[:16]


def _key(sound: str, copy: int, seed: int) -> str:
    """Of a copy, the seed counts too."""
    return f"{sound}:{seed}" if copy else sound


def _batches(
    wanted: Sequence[tuple[Row, int]], root: Path, longest: float, trim_db: float | None, seed: int, done: Encoded
) -> Iterator[list[tuple[Row, int, Samples]]]:
    """Clips in batches of similar length and bounded total length; what cannot be used is noted in `done`."""
    clips: list[tuple[Row, int, Samples]] = []
    for row, copy in wanted:
        assert row.audio is not None
        try:
            samples = read_row_audio(row.audio, root)
            if trim_db is not None:
                samples = trim_silence(samples, trim_db)
            if len(samples) > longest * SAMPLE_RATE:
                seconds = len(samples) / SAMPLE_RATE
                raise UserError(f"{row.audio.path} lasts {seconds:.1f} s; the encoder hears {longest:.0f} s at once")
        except UserError as error:
            done.bad[row.id] = str(error)
            continue
        if copy:
            samples = perturb(samples, int(hashlib.sha256(f"{seed}:{row.id}".encode()).hexdigest()[:8], 16), copy)
            if not SHORTEST <= len(samples) <= longest * SAMPLE_RATE:
                done.unfit += 1
                continue
        clips.append((row, copy, samples))
    clips.sort(key=lambda item: len(item[2]))
    batch: list[tuple[Row, int, Samples]] = []
    for item in clips:
        if batch and len(item[2]) * (len(batch) + 1) > BATCH_SECONDS * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
