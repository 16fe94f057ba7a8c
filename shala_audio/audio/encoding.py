"""The clips of a manifest through the encoder, once, into a folder of features (`features`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from shala_audio.audio.augment import perturb
from shala_audio.audio.features import add_lines, check_encoder, copy_id, current_entries, stretch_of
from shala_audio.audio.sound import SAMPLE_RATE, SHORTEST, Samples, read_row_audio, row_path, trim_silence
from shala_audio.data.rows import Row
from shala_audio.errors import UserError
from shala_audio.files import locked, read_json, write_beside, write_json

if TYPE_CHECKING:
    from shala_audio.audio.encoders import AudioEncoder  # loads transformers

SHARD_CLIPS = 256
BATCH_SECONDS = 60.0  # sound encoded in one batch


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
                        {"id": identifier, "frames": states.shape[1], "sound": sound, "stretch": stretch_of(row)}
                    )
            bar.update(len(part))
            if features:
                shard = f"features-{hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]}.safetensors"
                with write_beside(out / shard) as beside:
                    save_file(features, beside)
                add_lines(out, [{**line, "shard": shard} for line in lines])
                done.new += len(features)
    # What was there is of other sound than the file's now. Where there is no file, the root may not be the right one.
    if gone := sorted(row_id for row_id in done.bad.keys() & known.keys() if keys[row_id]):
        add_lines(out, [{"id": row_id, "shard": None} for row_id in gone])
    return done


def _sound_key(row: Row, root: Path) -> str:
    """What a row's features depend on beside the encoder: the file's content and the stretch of it; "" where there is no
    reading the file, of which `_batches` says more."""
    assert row.audio is not None
    try:
        path = row_path(row.audio, root)
        if not path.is_file():  # nor a pipe, nor a device that never ends
            return ""
        about = path.stat()
        digest = _digest(path, about.st_size, about.st_mtime_ns).copy()
    except (UserError, OSError, ValueError):
        return ""
    digest.update(f"{row.audio.offset}:{row.audio.duration}".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=64)  # rows of one recording come one after the other
def _digest(path: Path, size: int, changed: int) -> Any:
    """The running sha256 of a file's content; size and time of its last change tell another content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256")


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
