"""What both trainers share: saving what was trained, the order of rows, ambiguity weights and learning rates of parts."""

from __future__ import annotations

import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.io import remove_folder, replace_folder
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.ambiguity import AmbiguityWeights
from shala_audio.training.callbacks import UNFINISHED, check_loss, checkpoints
from shala_audio.training.config import precision_dtype
from shala_audio.training.data import Batcher, RowSampler, visit_order

KEPT_EXACT = ("human", "target", "row_weight", "attributes")  # of a batch
LOGGED_KEPT = 1000  # records in memory and in checkpoints, which would grow with a run of days; log.jsonl has them all


def part_learning_rates(args: Any) -> dict[str, float]:
    """Peak learning rate of each of `SpeechLM.trained_parts`."""
    adapter = args.learning_rate if args.adapter_learning_rate is None else args.adapter_learning_rate
    encoder = adapter if args.encoder_learning_rate is None else args.encoder_learning_rate
    return {
        "audio adapter": adapter,
        "encoder": encoder,
        "lm": args.learning_rate,
        "attribute head": args.learning_rate,
    }


class SpeechTrainer(Trainer):
    """A `transformers.Trainer` of a `SpeechLM`.

    Args:
        model: what is trained.
        batcher: makes tensors of rows.
        weights: of the dataset's rows, by their number; None where all count alike.
        options: of the trainer below.

    Attributes:
        nothing_to_learn: of the batch at hand: whether all weights or advantages are 0, so that no gradient is no fault.
    """

    def __init__(
        self, model: SpeechLM, batcher: Batcher, weights: AmbiguityWeights | None = None, **options: Any
    ) -> None:
        self.batcher, self.weights, self.readout = batcher, weights, model.readout
        self.nothing_to_learn = False
        self.ranks: Floats | None = None  # of the rows in the first pass
        self._averages: dict[str, list[float]] = defaultdict(list)  # since the last time something was logged
        self._seen: list[tuple[list[int], Floats]] = []  # rows of a step and their losses, not yet in the weights
        self._saving = False
        super().__init__(model=model, **options)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # which put no autocast around the model, as DDP does
            low = precision_dtype(self.args)
            model.autocast = (self.args.device.type, low) if low != torch.float32 else None
        if self.is_fsdp_enabled and self.accelerator.is_fsdp2:
            # So products alone are low here too; FSDP's own policy would round what goes from layer to layer.
            policy = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
        alone = {
            "weights 4bit": model.model_config.weights == "4bit",
            f"readout {model.readout.name}": model.readout.thinks,
        }
        spread = self.args.world_size > 1 or self.is_fsdp_enabled or self.is_deepspeed_enabled
        if spread and (what := next((name for name, given in alone.items() if given), None)):
            raise UserError(f"{what}: is for one process, without FSDP and DeepSpeed")

    # Rows -------------------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> RowSampler:
        """Steps of rows of similar length, in an order that depends on the seed and the epoch, and not on how a step's rows
        are spread over processes and accumulation."""
        batch = self.args.per_device_train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        lengths = self.train_dataset["length"]
        return RowSampler(lambda epoch: self._order(lengths, batch, epoch), len(lengths))

    def _order(self, lengths: Sequence[int], batch: int, epoch: int) -> list[int]:
        """Rows of an epoch that begins, from which on its augmentations of clips are used."""
        self.batcher.epoch = epoch
        return visit_order(lengths, batch, self.args.seed, epoch, self.ranks)

    def _prepare_input(self, data: Any) -> Any:
        """To the device. DeepSpeed rounds all that is not whole to bfloat16, which what people said must not be."""
        if isinstance(data, dict):
            kept = {name: data[name].to(self.args.device) for name in KEPT_EXACT if name in data}
            return {**super()._prepare_input(data), **kept}
        return super()._prepare_input(data)

    # Weights and learning rates ---------------------------------------------------------------------------------------

    def weigh(self, rows: Tensor, losses: Tensor, at_once: bool = False) -> Tensor:
        """The weights (B,) of a batch's rows; afterwards, what the batch showed of them goes into the running losses.

        Args:
            rows, losses: (B,) numbers of this process's rows and their 1 - reward; every process keeps those of all.
            at_once: whether the batch is all that is learnt from before the next is drawn, however many steps share it.
        """
        if self.weights is None:
            return torch.ones(len(rows), device=rows.device)
        weights = self.weights.all()
        gathered = self.accelerator.gather(rows).tolist()
        self._seen.append((gathered, self.accelerator.gather(losses.float()).cpu().numpy()))
        if at_once or self.accelerator.sync_gradients:
            # Once a step, so that its last rows are not weighted by what its first have shown.
            for numbers, found in self._seen:
                self.weights.update(numbers, found)
            self._seen.clear()
        for name, value in self.weights.statistics(weights[gathered]).items():
            self._averages[name].append(value)
        return torch.tensor(weights[rows.tolist()], dtype=torch.float32, device=rows.device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:  # type: ignore[has-type]
            model = model or self.model
            decayed = set(self.get_decay_parameter_names(model))
            parts = self.accelerator.unwrap_model(model).trained_parts()
            rates = part_learning_rates(self.args)
            rate_of = {id(parameter): rates[part] for part, members in parts.items() for parameter in members}
            groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((rate_of[id(parameter)], name in decayed), []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = kind(
                [
                    {"params": members, "lr": rate, "weight_decay": self.args.weight_decay if decays else 0.0}
                    for (rate, decays), members in groups.items()
                ],
                **options,
            )
        return self.optimizer

    # Steps and logs ---------------------------------------------------------------------------------------------------

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        loss = super().training_step(*arguments, **options)
        remedy = "a lower learning_rate, a longer warm-up (warmup_steps) or bf16 false, and look at the rows' votes"
        check_loss(loss.detach(), f"step {self.state.global_step + 1}", remedy)
        return loss

    def log(self, logs: dict[str, float], *times: Any) -> None:
        # transformers' mean over a run takes the steps before a resume for steps without loss.
        logs.pop("train_loss", None)
        if self.model.training:
            logs |= {name: float(np.mean(values)) for name, values in self._averages.items()}
            self._averages.clear()
        super().log(logs, *times)
        del self.state.log_history[:-LOGGED_KEPT]

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Projector, adapter, task and configuration; neither base weights nor pickled arguments."""
        folder = output_dir if output_dir is not None else self.args.output_dir
        assert folder is not None
        if self.args.should_save:
            os.makedirs(folder, exist_ok=True)
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state_dict)
            if self.weights is not None:
                self.weights.save(folder)

    def _get_output_dir(self, trial: Any = None) -> str:
        folder: str = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED) if self._saving else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written beside, synced and renamed: whenever the process is killed, a checkpoint is complete or absent, and the
        previous one stays until the new one is there."""
        if self.state.global_step >= self.state.max_steps:
            return  # the model itself is written next; resuming from the last step would take one more
        out = Path(self._get_output_dir(trial))
        if self.args.should_save:
            shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # of a run that was killed
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()  # all processes have written their part
        if self.args.should_save:
            written = out / UNFINISHED / f"checkpoint-{self.state.global_step}"
            replace_folder(written, out / written.name)
            (out / UNFINISHED).rmdir()
            for old in checkpoints(out)[: -(self.args.save_total_limit or sys.maxsize)]:
                remove_folder(old)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.accelerator.unwrap_model(model or self.model).load_trained(resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # called however the model itself is read, also by DeepSpeed
        if checkpoint is not None and self.weights is not None:
            self.weights.load(checkpoint)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None by transformers or TRL, whose cards are of models that write text: `inference.hub` knows better."""
