"""Manifests to and from Hugging Face `datasets`, which hold the sound itself."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from shala_audio.audio.containers import check_header
from shala_audio.audio.io import row_path
from shala_audio.corpora.lhotse import sound_info
from shala_audio.corpora.ratings import SPLITS as SPLIT_NAMES
from shala_audio.errors import UserError, first_line, missing_extra
from shala_audio.io import atomic_write
from shala_audio.manifest import SPLITS, Audio, Row, row_from_json


def _datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise missing_extra(error, "datasets' format", "train") from None
    return datasets


def to_datasets(rows: Sequence[Row], labels: Sequence[str], audio_root: Path | None, out: Path) -> dict[str, int]:
    """Write a `DatasetDict` by `save_to_disk`, a split for each of ours; sound is in it, as flac at its own rate.

    Columns: `id`, `task`, `speaker`, `audio`, the text fields as they are called, `votes`, a count for each label, and
    `extra`, JSON of what else a row has.

    Returns:
        Rows of each split.

    Raises:
        UserError: a row's sound cannot be read, it has votes for another label, or a text field is called like a column.
    """
    datasets = _datasets()
    fields = list(dict.fromkeys(name for row in rows for name in row.text))
    if taken := {"id", "task", "speaker", "audio", "votes", "extra"} & set(fields):
        raise UserError(f"a text field is called {taken.pop()}, as a column is")
    for row in rows:
        if unknown := sorted(set(row.votes) - set(labels)):
            raise UserError(
                f"row {row.id}: votes for {', '.join(unknown)}, not among {', '.join(labels)}; give the --task"
            )
    with_audio = any(row.audio is not None for row in rows)
    shortened: set[str] = set()
    columns: dict[str, Any] = {name: datasets.Value("string") for name in ("id", "task", "speaker", "extra", *fields)}
    columns["votes"] = {label: datasets.Value("float64") for label in labels}
    if with_audio:  # as bytes until it stands in the dataset: encoding `Audio` would need torchcodec
        columns["audio"] = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}

    def records(split: str) -> Iterator[dict[str, Any]]:
        for row in (row for row in rows if row.split == split):
            record: dict[str, Any] = {"id": row.id, "task": row.task, "speaker": row.speaker}
            record["extra"] = json.dumps(row.extra, ensure_ascii=False)
            record |= {name: row.text.get(name) for name in fields}
            record["votes"] = {label: float(row.votes.get(label, 0)) for label in labels}
            if with_audio:
                record["audio"] = None if row.audio is None else _cut(row.audio, audio_root, row.id, shortened)
            yield record

    beside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        made = datasets.DatasetDict()
        for split in dict.fromkeys(row.split for row in rows):  # by way of the disk, not held in memory
            part = datasets.Dataset.from_generator(
                records,
                features=datasets.Features(columns),
                cache_dir=str(beside / "parts"),
                gen_kwargs={"split": split},
                split=split,
            )
            made[split] = part.cast_column("audio", datasets.Audio(decode=False)) if with_audio else part
        made.save_to_disk(str(beside / "whole"))
        if out.is_dir():
            out.rmdir()  # an empty one
        (beside / "whole").rename(out)
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if shortened:
        print(
            f"{len(shortened)} clips of 32-bit or float sound are kept in 24 bits, as FLAC holds them", file=sys.stderr
        )
    return {split: len(made[split]) for split in made}


def from_datasets(folder: Path, task: str | None, clips: Path | None) -> Iterator[Row]:
    """Rows of what `save_to_disk` wrote, with the columns of `to_datasets`; other text columns are text fields.

    Args:
        folder: of a `Dataset` or a `DatasetDict`.
        task: of rows that do not name one.
        clips: folder to write the sound into, which becomes the audio root.

    Raises:
        UserError: it is no dataset, or a column is missing.
    """
    datasets = _datasets()
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a dataset that `save_to_disk` wrote ({error})") from None
    if not isinstance(found, datasets.DatasetDict):
        found = datasets.DatasetDict({"predict": found})
    unread: set[str] = set()
    for name, part in found.items():
        split = name if name in SPLITS else SPLIT_NAMES.get(name)
        if split is None:
            raise UserError(f"{folder}: no split is called {name!r}; use {', '.join(SPLITS)}")
        if "audio" in part.column_names:
            if clips is None:
                raise UserError(f"{folder}: has sound; name a folder for it with --audio-root")
            part = part.cast_column("audio", datasets.Audio(decode=False))
        for number, record in enumerate(tqdm(part, unit="row", desc=name, disable=None)):
            identity = str(record.get("id") or f"{name}_{number}")
            where = f"{folder}: {name} row {number}"
            named = record.get("task") or task
            if named is None:
                raise UserError(f"{where}: names no task; give one with --task")
            known = ("id", "task", "speaker", "audio", "votes", "extra")
            others = {key: value for key, value in record.items() if key not in known and value is not None}
            text = {key: value for key, value in others.items() if isinstance(value, str)}
            if fresh := others.keys() - text.keys() - unread:
                print(f"{where}: left out are columns of no text: {', '.join(sorted(fresh))}", file=sys.stderr)
                unread |= fresh
            voted = record.get("votes") or {}
            if not isinstance(voted, dict):
                raise UserError(f"{where}: votes must be a count for each label by name; found {voted!r}")
            votes = {label: count for label, count in voted.items() if count}
            audio = None
            if record.get("audio") is not None:
                assert clips is not None
                audio = {"path": _keep(record["audio"], clips, where)}
            fields = {"id": identity, "task": named, "split": split, "text": text, "votes": votes, "audio": audio}
            if isinstance(record.get("extra"), str):
                try:
                    fields["extra"] = json.loads(record["extra"])
                except ValueError as error:
                    raise UserError(f"{where}: extra must be an object in JSON ({error})") from None
            if record.get("speaker"):
                fields["speaker"] = record["speaker"]
            yield row_from_json(json.dumps(fields), where)


def _cut(audio: Audio, root: Path | None, identity: str, shortened: set[str]) -> dict[str, Any]:
    """A row's segment of sound as flac, at the file's own rate; `shortened` takes the row where that has fewer bits.

    Raises:
        UserError: the sound cannot be read, or FLAC cannot hold it; the message names the row.
    """
    if root is None:
        raise UserError("the rows have sound: name the folder that it lies in with --audio-root")
    path = row_path(audio, root)
    info = sound_info(path, identity)
    start = round(audio.offset * info.samplerate)
    if audio.duration is not None:
        frames = round(audio.duration * info.samplerate)
    else:  # of an MP3, whose length is an estimate, as much as there is
        frames = -1 if info.format == "MP3" else info.frames - start
    whole = info.subtype not in ("FLOAT", "DOUBLE")  # what is read as integers is not scaled where it is none
    file = io.BytesIO()
    try:
        with open(path, "rb") as sound:
            check_header(sound)
            samples, rate = soundfile.read(sound, start=start, frames=frames, dtype="int32" if whole else "float64")
        if audio.channel is not None:
            channels = samples.reshape(len(samples), -1)
            if audio.channel >= channels.shape[1]:
                raise UserError(f"has no channel {audio.channel}")
            samples = channels[:, audio.channel]
        if len(samples) < frames - max(2, rate // 100):
            raise UserError(f"ends {(frames - len(samples)) / rate:.2f} s before the row does")
        if not whole and np.abs(samples).max(initial=0) > 1:
            raise UserError("has values beyond full scale, which FLAC cannot hold; make it softer")
        subtype = "PCM_16" if info.subtype in ("PCM_16", "PCM_U8", "PCM_S8", "ULAW", "ALAW") else "PCM_24"
        soundfile.write(file, samples, rate, format="FLAC", subtype=subtype)
    except (soundfile.LibsndfileError, OSError, ValueError, UserError) as error:  # such as of more channels than eight
        raise UserError(f"row {identity}: {path}: {first_line(error)}") from None
    if info.subtype in ("FLOAT", "DOUBLE", "PCM_32"):
        shortened.add(identity)
    return {"bytes": file.getvalue(), "path": re.sub(r"[^\w.-]", "_", identity) + ".flac"}


def _keep(audio: Mapping[str, Any], clips: Path, where: str) -> str:
    """Write a dataset's sound into a folder; return its name there, of its content, so that no other's is replaced."""
    content = audio.get("bytes")
    if content is None:
        raise UserError(f"{where}: names a sound file and does not hold it; save the dataset with its sound in it")
    name = hashlib.sha256(content).hexdigest()[:16] + (Path(audio.get("path") or "").suffix or ".wav")
    with atomic_write(clips / name) as beside:
        beside.write_bytes(content)
    return name
