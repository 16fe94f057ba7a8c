"""The clips of a manifest through the encoder, once, into a folder of features (`features`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from shala_audio.audio.augment import perturb
from shala_audio.audio.encoders import AudioEncoder, by_length
from shala_audio.audio.features import add_lines, check_encoder, copy_id, current_entries, stretch_of
from shala_audio.audio.sound import SAMPLE_RATE, SHORTEST, Samples, read_row_audio, row_path, trim_silence
from shala_audio.data.rows import Row
from shala_audio.errors import UserError
from shala_audio.files import locked, read_json, write_beside, write_json

SHARD_CLIPS = 256
READERS = 4  # files read at once
SHARD_BYTES = 1 << 28  # of features: several layers of a large encoder are 80 MB a clip


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
    with locked(out):
        if (out / "encoder.json").is_file():
            check_encoder(out, read_json(out / "encoder.json"), identity)
        else:
            write_json(out / "encoder.json", identity)
    known = current_entries(out)
    done = Encoded()
    keys = _sound_keys(rows, root)
    wanted: list[tuple[Row, int]] = []
    moved: list[dict[str, Any]] = []
    for row in rows:
        for copy in range(1 + (copies if row.split == "train" else 0)):
            identifier = copy_id(row.id, copy)
            entry = known.get(identifier)
            if entry is None or entry["sound"] != _key(keys[row.id], copy, seed):
                wanted.append((row, copy))
                continue
            done.old += 1
            if entry["stretch"] != stretch_of(row):  # the same sound in a file of another name
                moved.append({**entry, "stretch": stretch_of(row)})
    if moved:
        add_lines(out, moved)
    wanted.sort(key=lambda item: ((item[0].audio.duration or 0.0) if item[0].audio else 0.0, item[0].id, item[1]))
    with tqdm(total=len(wanted), unit="clip", desc="features", disable=None) as bar:
        for start in range(0, len(wanted), SHARD_CLIPS):
            part = wanted[start : start + SHARD_CLIPS]
            features: dict[str, Tensor] = {}
            lines: list[dict[str, Any]] = []
            for batch in _batches(part, root, encoder.longest, identity.get("trim_db"), seed, done):
                for (row, copy, _), states in zip(batch, encoder.encode([clip for _, _, clip in batch]), strict=True):
                    identifier = copy_id(row.id, copy)
                    features[identifier] = states.to(torch.float16).contiguous()
                    sound = _key(keys[row.id], copy, seed)
                    lines.append(
                        {"id": identifier, "frames": states.shape[1], "sound": sound, "stretch": stretch_of(row)}
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
        with write_beside(out / shard) as beside:
            save_file(features, beside)
        add_lines(out, [{**line, "shard": shard} for line in lines])
    return len(features)


def _sound_keys(rows: Sequence[Row], root: Path) -> dict[str, str]:
    """What each row's features depend on beside the encoder: the file's content and the stretch of it; "" where there is no
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
            digest.update(f"{row.audio.offset}:{row.audio.duration}".encode())
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


def _key(sound: str, copy: int, seed: int) -> str:
    """Of a copy, the seed counts too."""
    return f"{sound}:{seed}" if copy else sound


def _batches(
    wanted: Sequence[tuple[Row, int]], root: Path, longest: float, trim_db: float | None, seed: int, done: Encoded
) -> Iterator[list[tuple[Row, int, Samples]]]:
    """Clips in batches of similar length and bounded total length; what cannot be used is noted in `done`."""

    def read(item: tuple[Row, int]) -> Samples | UserError:
        row, copy = item
        assert row.audio is not None
        try:
            samples = read_row_audio(row.audio, root)
            if trim_db is not None:
                samples = trim_silence(samples, trim_db)
            if len(samples) > longest * SAMPLE_RATE:
                seconds = len(samples) / SAMPLE_RATE
                raise UserError(f"{row.audio.path} lasts {seconds:.1f} s; the encoder hears {longest:.0f} s at once")
        except UserError as error:
            return error
        if copy:
            samples = perturb(samples, int(hashlib.sha256(f"{seed}:{row.id}".encode()).hexdigest()[:8], 16), copy)
        return samples

    clips: list[tuple[Row, int, Samples]] = []
    with ThreadPoolExecutor(READERS) as pool:
        for (row, copy), samples in zip(wanted, pool.map(read, wanted), strict=True):
            if isinstance(samples, UserError):
                done.bad[row.id] = str(samples)
            elif not SHORTEST <= len(samples) <= longest * SAMPLE_RATE:  # as a copy may become
                done.unfit += 1
            else:
                clips.append((row, copy, samples))
    for batch in by_length([len(samples) for _, _, samples in clips]):
        yield [clips[index] for index in batch]
