"""What a training run leaves on record: enough to run it again, and to see what it cost."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

from shala_audio.audio.features import FeatureStore
from shala_audio.data.prepare import corpus_record
from shala_audio.data.rows import Row
from shala_audio.files import file_sha256, read_json
from shala_audio.models.folder import TRAINED
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.config import ShalaConfig
from shala_audio.training.cost import cost_record, shorten
from shala_audio.training.methods import METHODS, idle_weights, without_part

# Where a run writes and what it says while it runs: not part of what it computes.
NOT_SETTINGS = {
    "output_dir", "resume", "seed", "data_seed", "manifest", "features", "init", "task", "model", "method", "readout",
    "disable_tqdm", "report_to", "watch_dev", "patience_without_signal", "run_name", "use_cpu", "bf16",
    "activation_checkpointing", "pad_to_multiple_of", "dataloader_pin_memory", "dataloader_num_workers",
    "per_device_eval_batch_size", "resume_from_checkpoint",
}  # fmt: skip
QUIET = ("logging_", "save_", "hub_", "push_", "log_", "trackio_")


def settings(config: ShalaConfig) -> dict[str, Any]:
    """The settings of a run that differ from the defaults and change what it computes, and its learning rate."""
    found = {}
    idle = NOT_SETTINGS | without_part(config.method, config.readout, config.exact_loss) | {"few_shot_examples"}
    idle |= idle_weights(config.ambiguity, config.ambiguity_entropy) | config.without_rollouts
    if config.init or METHODS[config.method].loss != "supervised":
        idle |= {"ear_epochs"}
    for field in fields(config):
        value = getattr(config, field.name)
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


def precision(config: ShalaConfig) -> str:
    """The type that products are computed in."""
    return "bf16" if config.bf16 else "fp16" if config.fp16 else "fp32"


def fingerprint(
    config: ShalaConfig, model: SpeechLM, features: FeatureStore | None, rows: Sequence[Row]
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
        "model": hashlib.sha256(repr((model.model_config, model.task, model.lm_sha256)).encode()).hexdigest(),
    }


def run_record(config: ShalaConfig, model: SpeechLM, seconds: float, resumed: bool) -> dict[str, Any]:
    """Command, settings, hashes of data and base model, versions, time and peak memory. No absolute path.

    Args:
        config: the run's settings.
        model: the trained model.
        seconds: how long the run took; since the resume, where it was resumed.
        resumed: whether it was.
    """
    trained = METHODS[config.method].loss != "none"
    encoder = shorten(model.model_config.encoder) if model.model_config.encoder else None
    heard_with = {"encoder": encoder, "encoder_sha256": model.encoder_sha256} if model.task.has_audio else {}
    return {
        "method": config.method,
        "readout": model.readout,
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
        **heard_with,
        "model": {**model.model_config.to_dict(), "lm": model.lm_sha256 or model.model_config.lm, "encoder": encoder},
    }


def _start(init: str | None) -> dict[str, Any]:
    """Commands and settings of the runs that this one went on from, first to last."""
    path = Path(init) / "training.json" if init else None
    if path is None or not path.is_file():
        return {"before": [], "start": []}
    record = read_json(path)
    return {
        "before": [*record.get("before", []), record["command"]],
        "start": [*record.get("start", []), record["settings"]],
    }
