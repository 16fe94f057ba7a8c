"""What both trainers share: saving only what was trained, the order of rows, and the projector's own learning rate."""

from __future__ import annotations

import os
from typing import Any

import torch

from shala_audio.distribution import Floats
from shala_audio.training.sampling import RowSampler, visit_order


class SpeechTrainer:
    """Mixin for a `transformers.Trainer` of a `SpeechLM`."""

    args: Any
    accelerator: Any
    train_dataset: Any
    model: Any
    optimizer: Any
    get_decay_parameter_names: Any
    get_optimizer_cls_and_kwargs: Any

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Projector, adapter, task and configuration; neither base weights nor pickled arguments."""
        folder = output_dir if output_dir is not None else self.args.output_dir
        assert folder is not None
        if self.args.should_save:
            os.makedirs(folder, exist_ok=True)
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.accelerator.unwrap_model(model or self.model).load_trained(resume_from_checkpoint)

    def _get_train_sampler(self, dataset: Any = None) -> RowSampler:
        """Batches of rows of similar length, in an order that depends on the seed and the epoch alone."""
        dataset = self.train_dataset if dataset is None else dataset
        lengths = dataset["length"]
        batch, seed = self.args.per_device_train_batch_size, self.args.seed
        return RowSampler(lambda epoch: visit_order(lengths, batch, seed, epoch, self._draws(epoch)), len(lengths))

    def _draws(self, epoch: int) -> Floats | None:
        """Weights by which an epoch's rows are drawn; None visits each once."""
        return None

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = model or self.model
            rate = getattr(self.args, "projector_learning_rate", None) or self.args.learning_rate
            decayed = set(self.get_decay_parameter_names(model))
            groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault(("projector" in name, name in decayed), []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = kind(
                [
                    {
                        "params": parameters,
                        "lr": rate if projector else self.args.learning_rate,
                        "weight_decay": self.args.weight_decay if decays else 0.0,
                    }
                    for (projector, decays), parameters in groups.items()
                ],
                **options,
            )
        return self.optimizer
