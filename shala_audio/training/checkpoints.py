"""What both trainers share: saving only what was trained, loading it again, and the projector's own learning rate."""

from __future__ import annotations

import os
from typing import Any

import torch


class SavesWhatWasTrained:
    """Mixin for a `transformers.Trainer` of a `SpeechLM`."""

    args: Any
    accelerator: Any
    model: Any
    optimizer: Any

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Projector, adapter, task and configuration; neither base weights nor pickled arguments."""
        folder = output_dir if output_dir is not None else self.args.output_dir
        assert folder is not None
        if self.args.should_save:
            os.makedirs(folder, exist_ok=True)
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.accelerator.unwrap_model(model or self.model).load_trained(resume_from_checkpoint)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trained = [(name, p) for name, p in (model or self.model).named_parameters() if p.requires_grad]
            projector = [p for name, p in trained if "projector" in name]
            adapter = [p for name, p in trained if "projector" not in name]
            rate = getattr(self.args, "projector_learning_rate", None) or self.args.learning_rate
            groups = [{"params": adapter}, {"params": projector, "lr": rate}]
            self.optimizer = torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer
