"""Encoder features of a manifest, computed once and kept as safetensors.

A folder holds shards of clips (`features-00000.safetensors`, float16, one tensor (S, T, D) for each row id) and an index
that says which shard holds which row, how many frames it has, and which encoder made it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from shala_audio.audio.sound import SAMPLE_RATE, Samples, read_row_audio
from shala_audio.data.rows import Row
from shala_audio.errors import UserError
from shala_audio.files import read_json, write_beside, write_json

if TYPE_CHECKING:
    from shala_audio.audio.encoders import WhisperFrontEnd  # loads transformers, which reading features does not need

SHARD_ROWS = 256
BATCH_SECONDS = 60.0  # sound encoded in one batch


class FeatureStore:
    """Features of rows by id.

    Raises:
        UserError: the folder has no index, or was made by another encoder than `encoder` names.
    """

    def __init__(self, folder: str | Path, encoder: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / "index.json").is_file():
            raise UserError(f"{folder}: has no features; `shala-audio features` makes them")
        index = read_json(self.folder / "index.json")
        if encoder is not None and index["encoder"] != encoder:
            raise UserError(f"{folder}: features of {index['encoder']}, but the model needs {encoder}; make them anew")
        self.encoder: dict[str, Any] = index["encoder"]
        self.rows: dict[str, dict[str, Any]] = index["rows"]
        self._open = lru_cache(maxsize=None)(lambda name: safe_open(self.folder / name, framework="pt"))

    def frames(self, row_id: str) -> int:
        """Number of frames T of a row."""
        return self._entry(row_id)["frames"]

    def __getitem__(self, row_id: str) -> Tensor:
        """Features of a row, (S, T, D) float16."""
        return self._open(self._entry(row_id)["shard"]).get_tensor(row_id)

    def _entry(self, row_id: str) -> dict[str, Any]:
        try:
            return self.rows[row_id]
        except KeyError:
            raise UserError(f"{self.folder}: no features of row {row_id}; run `shala-audio features` again") from None


def pad_features(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (S, T, D) of B clips to (B, S, longest T, D) float32, and their lengths (B,)."""
    lengths = torch.tensor([clip.shape[1] for clip in features])
    layers, _, width = features[0].shape
    padded = torch.zeros(len(features), layers, int(lengths.max()), width)
    for index, clip in enumerate(features):
        padded[index, :, : clip.shape[1]] = clip
    return padded, lengths


def sound_key(row: Row, root: Path) -> str:
    """What a row's features depend on beside the encoder: the file's content and the stretch of it."""
    assert row.audio is not None
    path = root / row.audio.path
    if not path.is_file():
        raise UserError(f"{path}: no such file (row {row.id})")
    digest = hashlib.sha256(path.read_bytes())
    digest.update(f"{row.audio.offset}:{row.audio.duration}".encode())
    return digest.hexdigest()[:16]


def write_features(
    rows: Sequence[Row], root: Path, front_end: WhisperFrontEnd, encoder: dict[str, Any], out: Path
) -> int:
    """Encode the rows that the folder lacks; return how many were encoded. A kill loses one shard at most.

    Args:
        rows: rows with sound.
        root: what their paths are relative to.
        front_end: the encoder.
        encoder: what identifies it (name, layers, weights); stored, and compared when the features are used.
        out: the folder.
    """
    index: dict[str, Any] = {"encoder": encoder, "rows": {}}
    if (out / "index.json").is_file():
        found = read_json(out / "index.json")
        if found["encoder"] == encoder:
            index = found
    with ThreadPoolExecutor() as pool:
        keys = dict(zip((row.id for row in rows), pool.map(lambda row: sound_key(row, root), rows), strict=True))
    missing = [row for row in rows if index["rows"].get(row.id, {}).get("sound") != keys[row.id]]
    with tqdm(total=len(missing), unit="clip", desc="features", disable=None) as bar:
        for start in range(0, len(missing), SHARD_ROWS):
            shard_rows = missing[start : start + SHARD_ROWS]
            features: dict[str, Tensor] = {}
            for batch in _batches(shard_rows, root, front_end.longest):
                for row_id, states in zip(
                    (row.id for row, _ in batch), front_end.encode([clip for _, clip in batch]), strict=True
                ):
                    features[row_id] = states.to(torch.float16).contiguous()
                    bar.update()
            identity = hashlib.sha256("".join(keys[row.id] for row in shard_rows).encode()).hexdigest()[:12]
            shard = f"features-{identity}.safetensors"
            with write_beside(out / shard) as beside:
                save_file(features, beside)
            for row in shard_rows:
                frames = features[row.id].shape[1]
                index["rows"][row.id] = {"shard": shard, "frames": frames, "sound": keys[row.id]}
            write_json(out / "index.json", index)
    if not missing and not (out / "index.json").is_file():
        write_json(out / "index.json", index)
    return len(missing)


def _batches(rows: Iterable[Row], root: Path, longest: float) -> Iterable[list[tuple[Row, Samples]]]:
    """Rows with their sound, in batches of similar length and bounded total length.

    Raises:
        UserError: a row's sound cannot be read or lasts more than `longest` seconds; the message names it.
    """
    clips = []
    for row in rows:
        assert row.audio is not None
        samples = read_row_audio(row.audio, root)
        if len(samples) > longest * SAMPLE_RATE:
            seconds = len(samples) / SAMPLE_RATE
            raise UserError(f"row {row.id}: {row.audio.path} lasts {seconds:.1f} s; the encoder hears {longest:.0f} s")
        clips.append((row, samples))
    clips.sort(key=lambda item: len(item[1]))
    batch: list[tuple[Row, Samples]] = []
    for item in clips:
        if batch and len(item[1]) * (len(batch) + 1) > BATCH_SECONDS * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
