"""What any run leaves on record, a classifier's too: its command, time, memory, versions and the hash of its data."""

from __future__ import annotations

import resource
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from shala_audio.files import file_sha256

PACKAGES = ("shala-audio", "torch", "transformers", "trl", "peft", "numpy")


def cost_record(seed: int, seconds: float, manifest: Path) -> dict[str, Any]:
    """What any run leaves, a classifier's too: command, seed, time, peak memory, versions and the manifest's hash."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    record: dict[str, Any] = {
        "seed": seed,
        "command": command_line(sys.argv),
        "seconds": round(seconds, 1),
        "peak_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
        "manifest_sha256": file_sha256(manifest),
        "versions": {name: version(name) for name in PACKAGES},
        "revision": revision(),
    }
    if torch.cuda.is_available() and (most := torch.cuda.max_memory_allocated()):  # a classifier's run leaves it alone
        record["gpu"] = torch.cuda.get_device_name()
        record["peak_gpu_mb"] = round(most / 2**20)
    return record


@cache
def revision() -> str | None:
    """The commit of this package's code when first asked for, `-dirty` where files differ; None where it is no clone."""
    place = Path(__file__).parents[2]
    if not (place / ".git").exists() or not shutil.which("git"):
        return None
    ask = ["git", "-C", str(place), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def command_line(arguments: list[str]) -> str:
    """The command with paths as seen from the working folder; one from elsewhere keeps its last part alone.

    >>> command_line(["/usr/bin/shala-audio", "train", "--config", "/somewhere/else/a.yaml", "--init=/x/warm start"])
    "shala-audio train --config .../a.yaml '--init=.../warm start'"
    >>> command_line(["/usr/lib/shala_audio/__main__.py", "doctor"])
    'shala-audio doctor'
    """
    program = Path(arguments[0]).name
    words = ["shala-audio" if program == "__main__.py" else program]  # as `accelerate launch -m shala_audio` runs it
    for word in arguments[1:]:
        option, equals, value = word.partition("=")
        words.append(option + equals + shorten(value) if word.startswith("--") and equals else shorten(word))
    return shlex.join(words)


def shorten(path: str) -> str:
    """An absolute path as seen from the working folder, or by its last part; anything else as it is."""
    if not Path(path).is_absolute():
        return path
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else f".../{Path(path).name}"
