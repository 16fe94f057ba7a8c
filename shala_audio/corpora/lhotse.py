"""Manifests to and from Lhotse's recordings and supervisions.

Nothing in them is absolute: sources are relative to the audio root (`RecordingSet.with_path_prefix` adds it).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

from shala_audio.audio.io import row_path
from shala_audio.errors import UserError
from shala_audio.io import atomic_write
from shala_audio.manifest import Row, row_from_json

RECORDINGS, SUPERVISIONS = "recordings.jsonl.gz", "supervisions.jsonl.gz"


def to_lhotse(rows: Sequence[Row], audio_root: Path, out: Path) -> tuple[int, int]:
    """Write `recordings.jsonl.gz` and `supervisions.jsonl.gz`; votes, split and task stand in each supervision's `custom`.

    Returns:
        How many recordings and supervisions there are.

    Raises:
        UserError: a row has no sound, or its file cannot be read.
    """
    recordings: dict[str, dict[str, Any]] = {}
    supervisions = []
    for row in tqdm(rows, unit="row", desc="lhotse", disable=None):
        if row.audio is None:
            raise UserError(f"row {row.id}: has no sound, which Lhotse is for")
        path = row.audio.path
        if path not in recordings:
            info = sound_info(row_path(row.audio, audio_root), row.id)
            recordings[path] = {
                "id": path,
                "sources": [{"type": "file", "channels": list(range(info.channels)), "source": path}],
                "sampling_rate": info.samplerate,
                "num_samples": info.frames,
                "duration": info.frames / info.samplerate,
                "channel_ids": list(range(info.channels)),
            }
        start, lasts = row.audio.offset, row.audio.duration
        supervision: dict[str, Any] = {
            "id": row.id,
            "recording_id": path,
            "start": start,
            "duration": lasts if lasts is not None else recordings[path]["duration"] - start,
            "channel": recordings[path]["channel_ids"] if row.audio.channel is None else row.audio.channel,
            "custom": {"task": row.task, "split": row.split, "votes": dict(row.votes), "extra": dict(row.extra)},
        }
        if row.speaker is not None:
            supervision["speaker"] = row.speaker
        if row.text:
            supervision["text"] = next(iter(row.text.values()))
            supervision["custom"]["text"] = dict(row.text)
        supervisions.append(supervision)
    _write_lines(out / RECORDINGS, recordings.values())
    _write_lines(out / SUPERVISIONS, supervisions)
    return len(recordings), len(supervisions)


def from_lhotse(folder: Path, task: str | None, audio_root: Path | None = None) -> Iterator[Row]:
    """Rows of a folder's recordings and supervisions (.jsonl or .jsonl.gz).

    A supervision without votes in its `custom` becomes a row for prediction.

    Args:
        folder: of the two files.
        task: of rows that do not name one.
        audio_root: folder that sources lie in which are absolute, as those of Lhotse's own recipes are.

    Raises:
        UserError: a file is missing or not Lhotse's, or a source is not a relative path.
    """
    sources = {}
    for where, record in _lines(_one_of(folder, "recordings")):
        try:
            path = Path(record["sources"][0]["source"])
            if audio_root is not None and path.is_relative_to(audio_root.absolute()):
                path = path.relative_to(audio_root.absolute())
            sources[record["id"]] = path.as_posix(), set(_channels(record["sources"][0].get("channels", 0)))
            several = len(record["sources"]) > 1
        except (KeyError, IndexError, TypeError):
            raise UserError(f"{where}: not a recording of Lhotse's") from None
        if several:
            raise UserError(f"{where}: a recording of several files; make one recording of each")
    for where, record in _lines(_one_of(folder, "supervisions")):
        try:
            source, channels = sources[record["recording_id"]]
            used = set(_channels(record.get("channel", 0)))
            audio = {"path": source, "offset": record["start"], "duration": record["duration"], "channel": None}
            identity = record["id"]
        except (KeyError, TypeError):
            raise UserError(f"{where}: not a supervision of one of the recordings") from None
        if used != channels:  # of a call, say, where each channel is a person
            if len(used) > 1 or not used <= channels:
                raise UserError(
                    f"{where}: of channels {', '.join(map(str, sorted(used)))} of {len(channels)}; one of them or all are taken"
                )
            audio["channel"] = used.pop()
        custom = record.get("custom") or {}
        named = custom.get("task", task)
        if named is None:
            raise UserError(f"{where}: names no task; give one with --task")
        text = custom.get("text") or ({"transcript": record["text"]} if record.get("text") else {})
        fields = {"id": identity, "task": named, "split": custom.get("split", "predict"), "audio": audio, "text": text}
        fields |= {"votes": custom.get("votes") or {}, "extra": custom.get("extra") or {}}
        if record.get("speaker"):
            fields["speaker"] = str(record["speaker"])
        yield row_from_json(json.dumps(fields), where)


def _channels(named: int | list[int]) -> list[int]:
    return [named] if isinstance(named, int) else named


def sound_info(path: Path, identity: str) -> Any:
    """What soundfile says of the file of a row.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return soundfile.info(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(f"row {identity}: {path}: cannot be read as sound ({error})") from None


def _one_of(folder: Path, kind: str) -> Path:
    found = sorted(path for path in folder.glob(f"*{kind}*.jsonl*") if path.name.endswith((".jsonl", ".jsonl.gz")))
    if len(found) != 1:
        raise UserError(f"{folder}: one file *{kind}*.jsonl.gz is needed, {len(found)} are there")
    return found[0]


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    opened: Any = gzip.open if path.name.endswith(".gz") else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield f"{path}:{number}", json.loads(line)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}:{number + 1}: cannot be read as JSON Lines ({error})") from None


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    # Without a name or time in its header, the same records are the same bytes.
    with atomic_write(path) as beside, open(beside, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for record in records:
            file.write((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8"))
