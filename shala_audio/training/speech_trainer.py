"""What both trainers share: saving only what was trained, the order of rows, and the ear's own learning rates."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shala_audio.distribution import Floats
from shala_audio.files import remove_folder, replace_folder
from shala_audio.training.checkpoints import UNFINISHED, checkpoints
from shala_audio.training.data import Batcher
from shala_audio.training.guard import check_loss
from shala_audio.training.objective import concordance_loss
from shala_audio.training.sampling import RowSampler, visit_order

LOGGED_KEPT = 1000  # records in memory and in checkpoints, which would grow with a run of days; log.jsonl has them all


def learning_rate(name: str, args: Any) -> float:
    """Peak learning rate of a parameter: the ear and the encoder's trained layers in it may have their own."""
    rate: float = args.learning_rate
    if "ear" in name.split("."):
        own = getattr(args, "ear_learning_rate", None)
        rate = rate if own is None else own
    if ".ear.top." in f".{name}":
        own = getattr(args, "encoder_learning_rate", None)
        rate = rate if own is None else own
    return rate


class SpeechTrainer:
    """Mixin for a `transformers.Trainer` of a `SpeechLM`."""

    args: Any
    accelerator: Any
    train_dataset: Any
    batcher: Batcher
    model: Any
    optimizer: Any
    state: Any
    _saving = False
    get_decay_parameter_names: Any
    get_optimizer_cls_and_kwargs: Any

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Projector, adapter, task and configuration; neither base weights nor pickled arguments."""
        folder = output_dir if output_dir is not None else self.args.output_dir
        assert folder is not None
        if self.args.should_save:
            os.makedirs(folder, exist_ok=True)
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state_dict)

    def _get_output_dir(self, trial: Any = None) -> str:
        folder: str = super()._get_output_dir(trial)  # type: ignore[misc]
        return os.path.join(folder, UNFINISHED) if self._saving else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written beside, synced and renamed: whenever the process is killed, a checkpoint is complete or absent, and the
        previous one stays until the new one is there."""
        if self.state.global_step >= self.state.max_steps:
            return  # the model itself is written next; going on from the last step would take one more
        out = Path(self._get_output_dir(trial))
        if self.args.should_save:
            shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # of a run that was killed
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()  # all processes have written their part
        if self.args.should_save:
            written = out / UNFINISHED / f"checkpoint-{self.state.global_step}"
            replace_folder(written, out / written.name)
            (out / UNFINISHED).rmdir()
            for old in checkpoints(out)[: -(self.args.save_total_limit or sys.maxsize)]:
                remove_folder(old)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None by TRL, whose card is of a model that writes text: `inference.card` knows better."""

    def _prepare_input(self, data: Any) -> Any:
        """To the device. DeepSpeed rounds all that is not whole to bfloat16, which what people said must not be."""
        if isinstance(data, dict):
            kept = {name: data[name].to(self.args.device) for name in ("human", "attributes") if name in data}
            return {**super()._prepare_input(data), **kept}  # type: ignore[misc]
        return super()._prepare_input(data)  # type: ignore[misc]

    def log(self, logs: dict[str, float], *times: Any) -> None:
        # transformers' mean over a run takes the steps before a resume for steps without loss.
        logs.pop("train_loss", None)
        super().log(logs, *times)  # type: ignore[misc]
        del self.state.log_history[:-LOGGED_KEPT]

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        loss = super().training_step(*arguments, **options)  # type: ignore[misc]
        check_loss(loss.detach(), self.state.global_step + 1)
        return loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.accelerator.unwrap_model(model or self.model).load_trained(resume_from_checkpoint)

    def _get_train_sampler(self, dataset: Any = None) -> RowSampler:
        """Steps of rows of similar length, in an order that depends on the seed and the epoch, and not on how a step's rows
        are spread over processes and accumulation."""
        dataset = self.train_dataset if dataset is None else dataset
        batch = self.args.per_device_train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        lengths = dataset["length"]
        return RowSampler(lambda epoch: self._order(lengths, batch, epoch), len(lengths))

    def _order(self, lengths: Sequence[int], batch: int, epoch: int) -> list[int]:
        """Rows of an epoch that begins, from which on its copies of clips are heard."""
        self.batcher.epoch = epoch
        return visit_order(lengths, batch, self.args.seed, epoch, self._draws(epoch))

    def _draws(self, epoch: int) -> Floats | None:
        """Weights by which an epoch's rows are drawn; None visits each once."""
        return None

    def _mine(self, everyone: Tensor, count: int) -> Tensor:
        """This process's `count` rows of what was gathered from all."""
        start = self.accelerator.process_index * count
        mine: Tensor = everyone[start : start + count]
        return mine

    def _attribute_loss(self, stated: Tensor | None, inputs: dict[str, Any]) -> Tensor | float:
        """What the attributes (B, A) that the model states add to the loss of a batch."""
        return 0.0 if stated is None else self.args.attribute_weight * concordance_loss(stated, inputs["attributes"])

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = model or self.model
            decayed = set(self.get_decay_parameter_names(model))
            groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((learning_rate(name, self.args), name in decayed), []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = kind(
                [
                    {
                        "params": parameters,
                        "lr": rate,
                        "weight_decay": self.args.weight_decay if decays else 0.0,
                    }
                    for (rate, decays), parameters in groups.items()
                ],
                **options,
            )
        return self.optimizer
