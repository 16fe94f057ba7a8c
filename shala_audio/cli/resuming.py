"""Going on with `shala-audio predict` after a kill: what was predicted lies beside the output until all of it is there."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from shala_audio.errors import UserError
from shala_audio.io import atomic_write, file_sha256
from shala_audio.models.folder import SETTINGS, TRAINED

Record = dict[str, Any]


class Progress:
    """Predictions so far, in `.<name>.begun` beside the output: a line says what they are of, then comes one line for each
    batch, `[answers that did not parse up to here, predictions]`. A batch that a kill cut short is predicted again.

    Args:
        out: file that all predictions will be in.
        of: what decides the predictions; the file of another is begun anew.
        resume: whether to go on; said where what was begun is of something else.

    Raises:
        UserError: predictions of this work are there already, and they are not to be resumed.
    """

    def __init__(self, out: Path, of: Record, resume: bool) -> None:
        self.out = out
        self.path = out.with_name(f".{out.name}.begun")
        self.done: set[str] = set()
        self.unparsed = 0
        head = json.dumps(of, sort_keys=True).encode() + b"\n"
        whole = self._read(head) if self.path.is_file() else 0
        if self.done and not resume:
            raise UserError(
                f"{self.path}: holds {len(self.done):,} of these predictions, of a job that was interrupted: add --resume to "
                "go on from there, or remove the file"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        if whole:
            os.truncate(self.path, whole)
        else:
            self.path.write_bytes(head)

    def _read(self, head: bytes) -> int:
        """Bytes of the whole lines; none where the file is not of this work."""
        with open(self.path, "rb") as file:
            if (theirs := next(file, b"")) != head:
                print(f"{self.path}: is of {_other(theirs, head)}, and is begun anew", file=sys.stderr)
                return 0
            whole = len(head)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    unparsed, records = json.loads(line)
                    self.done.update([record["id"] for record in records])
                except (ValueError, TypeError, LookupError):  # a power cut can leave zeros
                    break
                self.unparsed = unparsed
                whole += len(line)
        return whole

    def finish(self, batches: Iterable[list[Record]], unparsed: Callable[[], int]) -> None:
        """Write the predictions that are missing, then all of them to the output.

        Args:
            batches: the missing ones.
            unparsed: answers among them that did not parse, so far.
        """
        before = self.unparsed
        with open(self.path, "a", encoding="utf-8") as file:
            for records in batches:
                self.unparsed = before + unparsed()
                file.write(json.dumps([self.unparsed, records], ensure_ascii=False) + "\n")
                file.flush()
            os.fsync(file.fileno())
        with (
            atomic_write(self.out) as beside,
            open(beside, "w", encoding="utf-8") as file,
            open(self.path, "rb") as begun,
        ):
            next(begun)
            for line in begun:
                for record in json.loads(line)[1]:
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def clear(self) -> None:
        self.path.unlink()


def identity(
    predictor: Any, manifest: str, features: Path | None, audio_root: Path | None, calibration: str | None
) -> Record:
    """Hashes of all that predictions follow from, and where they are computed."""
    files = {"manifest": Path(manifest)}
    for number, member in enumerate(getattr(predictor, "members", [predictor])):
        which = "model's" if not number else f"model {number + 1}'s"
        files |= {
            f"{which} {name}": member.folder / name for name in (SETTINGS, TRAINED, f"calibration_{calibration}.json")
        }
    files |= {f"features' {name}": features / name for name in ("encoder.json", "index.jsonl")} if features else {}
    found = {name: file_sha256(path) for name, path in files.items() if path.is_file()}
    root = hashlib.sha256(str(audio_root.resolve()).encode()).hexdigest() if audio_root else ""
    return {**found, "audio root": root, "device": str(predictor.device)}


def _other(theirs: bytes, mine: bytes) -> str:
    """What two first lines differ in."""
    try:
        was, now = dict(json.loads(theirs)), json.loads(mine)
    except (ValueError, TypeError):
        return "something else"
    return "other " + ", ".join(sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key)))
