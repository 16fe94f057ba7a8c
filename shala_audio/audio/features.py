"""Encoder features of a manifest, kept as safetensors: how they are indexed and read (`encoding` makes them).

A folder holds `encoder.json` (what made the features), shards of clips (`features-<hash>.safetensors`, float16, one tensor
(S, T, D) a clip), and `index.jsonl`: one line a clip, of which the last one with its id counts. Lines are only ever added,
under a lock, after their shard is in place, so that two processes may fill a folder together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shala_audio.data.rows import Row
from shala_audio.errors import UserError
from shala_audio.files import locked, read_json

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
            if row.audio is not None and row.id in self.entries and self.entries[row.id]["stretch"] != stretch_of(row):
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
    """Features (S, T, D) of B clips to (B, S, longest T, D) of the same type, and their lengths (B,)."""
    lengths = torch.tensor([clip.shape[1] for clip in features])
    layers, _, width = features[0].shape
    padded = torch.zeros(len(features), layers, int(lengths.max()), width, dtype=features[0].dtype)
    for index, clip in enumerate(features):
        padded[index, :, : clip.shape[1]] = clip
    return padded, lengths


def add_lines(out: Path, lines: list[dict[str, Any]]) -> None:
    """Put entries at the end of the index, for good: their shard is in place."""
    with locked(out), open(out / "index.jsonl", "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # an interruption cut the last line short; it does not count
                file.write(b"\n")
        file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())


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


def stretch_of(row: Row) -> str:
    """Which sound a row is, as its manifest says it."""
    assert row.audio is not None
    return f"{row.audio.path} {row.audio.offset!r} {row.audio.duration!r}"
