"""Provenance: what any run leaves on record, enough to run it again and to see what it cost."""

from __future__ import annotations

import hashlib
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from shala_audio.audio.features import FeatureStore
from shala_audio.corpora.prepare import corpus_record
from shala_audio.io import file_sha256, read_json
from shala_audio.manifest import Row
from shala_audio.models.folder import TRAINED
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.config import METHODS, DirectConfig, GrpoConfig, unread_settings

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


# Where a run writes and what it says while it runs: not part of what it computes.
NOT_SETTINGS = {
    "output_dir", "resume", "seed", "data_seed", "manifest", "features", "init", "task", "model", "method", "readout",
    "disable_tqdm", "report_to", "dev_evaluations", "zero_variance_patience", "run_name", "use_cpu", "bf16",
    "activation_checkpointing", "generation_batch_size",
    "pad_to_multiple_of", "dataloader_pin_memory", "dataloader_num_workers",
    "per_device_eval_batch_size", "resume_from_checkpoint",
}  # fmt: skip
QUIET = ("logging_", "save_", "hub_", "push_", "log_", "trackio_")


def settings(config: DirectConfig | GrpoConfig) -> dict[str, Any]:
    """The settings of a run that differ from the defaults and change what it computes, and its learning rate."""
    found = {}
    idle = NOT_SETTINGS | {"few_shot_examples"} | unread_settings(config)
    if isinstance(config, GrpoConfig) and config.steps_per_generation == config.gradient_accumulation_steps:
        idle |= {"steps_per_generation"}  # as TRL sets it
    for field in fields(config):
        value = getattr(config, "longest_asked" if field.name == "max_completion_length" else field.name)
        if field.name in idle or field.name.startswith(QUIET) or not field.init:
            continue
        if value == field.default and field.name != "learning_rate":  # which is named even where it is the default
            continue
        if isinstance(field.default, float) and isinstance(value, int):
            value = float(value)  # a file's 2 and a flag's 2.0 are one setting
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, (bool, int, float, str, type(None))):
            found[field.name] = value
    return found


def precision(config: DirectConfig | GrpoConfig) -> str:
    """The type that products are computed in."""
    return "bf16" if config.bf16 else "fp16" if config.fp16 else "fp32"


def fingerprint(
    config: DirectConfig | GrpoConfig, model: SpeechLM, features: FeatureStore | None, rows: Sequence[Row]
) -> dict[str, Any]:
    """What a checkpoint belongs to: its settings, seed, method, rows, and the model it began from."""
    start = Path(config.init) / TRAINED if config.init else None
    return {
        **settings(config),
        "method": config.method,
        "readout": config.readout,
        "seed": config.seed,
        "processes": config.world_size,
        "precision": precision(config),
        "features": features.digest(row.id for row in rows) if features is not None else None,
        "manifest": file_sha256(Path(str(config.manifest))),
        "init": file_sha256(start) if start is not None and start.is_file() else None,
        "model": hashlib.sha256(repr((model.model_config.to_dict(), model.task, model.lm_sha256)).encode()).hexdigest(),
    }


def run_record(config: DirectConfig | GrpoConfig, model: SpeechLM, seconds: float, resumed: bool) -> dict[str, Any]:
    """Command, settings, hashes of data and base model, versions, time and peak memory. No absolute path.

    Args:
        config: the run's settings.
        model: the trained model.
        seconds: how long the run took; since the resume, where it was resumed.
        resumed: whether it was.
    """
    trained = METHODS[config.method].learns != "nothing"
    encoder = shorten(model.model_config.encoder) if model.model_config.encoder else None
    encoder_record = {"encoder": encoder, "encoder_sha256": model.encoder_sha256} if model.task.has_audio else {}
    return {
        "method": config.method,
        "readout": model.readout.name,
        "task": model.task.name,
        **cost_record(config.seed, seconds, Path(str(config.manifest))),
        "data": corpus_record(Path(str(config.manifest)).with_name("summary.json")),
        "modality": model.task.modality,
        **_start(config.init),
        "settings": settings(config) if trained else {"few_shot_examples": len(model.examples)},
        "precision": precision(config),
        "processes": config.world_size,
        "resumed": resumed,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad) if trained else 0,
        "lm": shorten(model.model_config.lm),
        "lm_sha256": model.lm_sha256,
        **encoder_record,
        "model": _shortened(model, encoder),
    }


def _shortened(model: SpeechLM, encoder: str | None) -> dict[str, Any]:
    """What the model is made of, base models by their hash or name."""
    lm = model.lm_sha256 or shorten(model.model_config.lm)
    if model.model_config.audio_projector:
        return {**model.model_config.to_dict(), "audio_lm": lm}
    return {**model.model_config.to_dict(), "lm": lm, "encoder": encoder}


def _start(init: str | None) -> dict[str, Any]:
    """Commands and settings of the runs that this one started from, first to last."""
    path = Path(init) / "training.json" if init else None
    if path is None or not path.is_file():
        return {"before": [], "start": []}
    record = read_json(path)
    return {
        "before": [*record.get("before", []), record["command"]],
        "start": [*record.get("start", []), record["settings"]],
    }
