"""`shala-audio train`: from settings to a trained model's folder."""

from __future__ import annotations

import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from shala_audio.audio.features import FeatureStore
from shala_audio.data.rows import read_manifest
from shala_audio.errors import UserError
from shala_audio.files import write_json
from shala_audio.models.config import load_model_config
from shala_audio.models.readouts.verbalized import longest_answer
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.tasks import load_task
from shala_audio.training.config import METHODS, ShalaConfig
from shala_audio.training.data import Batcher, build_dataset, training_rows
from shala_audio.training.projector_warm_up import warm_up_projector
from shala_audio.training.shala import ShalaTrainer
from shala_audio.training.warm_start import WarmStartTrainer


def train(config: ShalaConfig) -> Path:
    """Train as `config` says and write the model to its `output_dir`; return that folder.

    Raises:
        UserError: a setting is missing or wrong.
    """
    if config.method not in METHODS:
        raise UserError(f"method is {config.method!r}; use one of {', '.join(METHODS)}")
    if not config.manifest:
        raise UserError("manifest: name the manifest to learn from")
    started = time.monotonic()
    set_seed(config.seed)
    model = _model(config)
    out = Path(str(config.output_dir))
    if config.method != "zero_shot":
        _fit(model, config)
    model.save_pretrained(out)
    for checkpoint in out.glob("checkpoint-*"):  # they are for going on after an interruption, and there was none
        shutil.rmtree(checkpoint)
    record = {
        "method": config.method,
        "readout": model.readout,
        "ambiguity": {"kind": config.ambiguity, "lambda": config.ambiguity_lambda},
        "seed": config.seed,
        "precision": "bf16" if config.bf16 else "fp16" if config.fp16 else "fp32",
        "seconds": round(time.monotonic() - started, 1),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "versions": {name: version(name) for name in ("shala-audio", "torch", "transformers", "trl", "peft")},
    }
    write_json(out / "training.json", record)
    return out


def _model(config: ShalaConfig) -> SpeechLM:
    if config.init:
        return SpeechLM.from_pretrained(config.init)
    if not config.task or not config.model:
        raise UserError("task and model: name both, or give a trained model with --init")
    return SpeechLM.build(load_model_config(config.model), load_task(config.task), config.readout)


def _fit(model: SpeechLM, config: ShalaConfig) -> None:
    features = None
    if model.task.has_audio and config.features:
        features = FeatureStore(config.features, model.model_config.encoder_identity())
    rows = training_rows(read_manifest(str(config.manifest)), model)
    dataset = build_dataset(rows, model, features, config.ambiguity, config.ambiguity_lambda)
    batcher = Batcher(model, features)
    if model.readout == "verbalized":
        config.max_completion_length = longest_answer(model)  # no longer answer can be valid
    if config.world_size > 1 or config.n_gpu > 1:
        raise UserError("training runs in one process on one device; start it without a launcher, with one GPU visible")
    checkpoint = None
    if config.resume and Path(str(config.output_dir)).is_dir():
        checkpoint = get_last_checkpoint(str(config.output_dir))
    if config.method == "warm_start" and features is not None and config.projector_epochs and checkpoint is None:
        rate = config.projector_learning_rate or config.learning_rate
        losses = warm_up_projector(model, dataset, batcher, config.projector_epochs, rate, config.seed)
        print(f"projector: loss {losses[0]:.3f} in the first pass, {losses[-1]:.3f} in the last")
    log = _JsonLog(Path(str(config.output_dir)) / "log.jsonl", keep=checkpoint is not None)
    trainer: Any
    if config.method == "warm_start":
        trainer = WarmStartTrainer(model, args=config, train_dataset=dataset, data_collator=batcher, callbacks=[log])
    else:
        trainer = ShalaTrainer(model, config, dataset, batcher, callbacks=[log])
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer.train(resume_from_checkpoint=checkpoint)
    unmoved = [name for name, p in model.named_parameters() if name in before and torch.equal(p, before[name])]
    if len(unmoved) == len(before) and trainer.state.global_step > 1:  # the first step has a learning rate of 0
        raise RuntimeError("training changed no parameter: no gradient reached the projector or the adapter")


class _JsonLog(TrainerCallback):
    """What the trainer logs, one JSON object a line, beside the model."""

    def __init__(self, path: Path, keep: bool) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not keep:
            path.write_text("", encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
