"""What a training run leaves on record: enough to run it again, and to see what it cost."""

from __future__ import annotations

import hashlib
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.config import ShalaConfig

PACKAGES = ("shala-audio", "torch", "transformers", "trl", "peft", "numpy")


def run_record(config: ShalaConfig, model: SpeechLM, seconds: float, resumed: bool) -> dict[str, Any]:
    """Command, settings, hashes of data and base model, versions, time and peak memory. No absolute path.

    Args:
        config: the run's settings.
        model: the trained model.
        seconds: how long the run took; since the resume, where it was resumed.
        resumed: whether it was.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return {
        "method": config.method,
        "readout": model.readout,
        "seed": config.seed,
        "command": command_line(sys.argv),
        "ambiguity": {"kind": config.ambiguity, "lambda": config.ambiguity_lambda},
        "reward": config.reward,
        "learning_rate": config.learning_rate,
        "precision": "bf16" if config.bf16 else "fp16" if config.fp16 else "fp32",
        "seconds": round(seconds, 1),
        "resumed": resumed,
        "peak_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "lm": model.model_config.lm,
        "lm_sha256": model.lm_sha256,
        "manifest_sha256": file_sha256(Path(str(config.manifest))),
        "versions": {name: version(name) for name in PACKAGES},
    }


def command_line(arguments: list[str]) -> str:
    """The command with paths as seen from the working folder; one from elsewhere keeps its last part alone.

    >>> command_line(["/usr/bin/shala-audio", "train", "--config", "/somewhere/else/a.yaml"])
    'shala-audio train --config .../a.yaml'
    """
    here = Path.cwd()
    words = [Path(arguments[0]).name]
    for word in arguments[1:]:
        if Path(word).is_absolute():
            path = Path(word)
            word = str(path.relative_to(here)) if path.is_relative_to(here) else f".../{path.name}"
        words.append(word)
    return " ".join(words)


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
