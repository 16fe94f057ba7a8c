"""`DirectTrainer`: learning in which nothing is drawn.

Without weights it is supervised: each readout states the human distributions in its own way. With weights it is SHALA's
direct objective, of readouts whose log-probabilities of the labels follow from one pass: the weighted Jensen-Shannon
divergence itself. Soft labels learn by the same pass, so they cost the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.ambiguity import AmbiguityWeights
from shala_audio.training.callbacks import CheckpointMoments
from shala_audio.training.config import DirectConfig
from shala_audio.training.data import Batcher, curriculum_ranks
from shala_audio.training.losses import concordance_loss, js_distance, js_divergence, ranked_probability_score
from shala_audio.training.trainer import SpeechTrainer


class DirectTrainer(SpeechTrainer):
    """Supervised learning, or SHALA's direct objective.

    Args:
        model: what is trained.
        args: settings.
        train_dataset: `build_dataset(...)`.
        batcher: makes tensors of its rows.
        weights: of the dataset's rows, for SHALA; None for supervised learning.
    """

    def __init__(
        self,
        model: SpeechLM,
        args: DirectConfig,
        train_dataset: Dataset,
        batcher: Batcher,
        weights: AmbiguityWeights | None = None,
    ) -> None:
        super().__init__(model, batcher, weights, args=args, train_dataset=train_dataset, data_collator=batcher)
        self.model_accepts_loss_kwargs = True  # losses are divided by the rows of the whole step, below
        self.add_callback(CheckpointMoments(every=1))
        if args.curriculum:
            self.ranks = curriculum_ranks(train_dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The batches of a step, and how many rows they are in all processes: a batch that is not full counts by its rows."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = torch.tensor(sum(len(batch["row"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(rows).sum()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        # Through the model's forward, where autocast, DDP and FSDP are (`SpeechLM.forward`).
        losses, attributes = model(compute=lambda: self._losses(inputs))
        total = losses.sum()
        if attributes is not None and self.args.attribute_weight:
            total = total + len(losses) * self.args.attribute_weight * concordance_loss(
                attributes, inputs["attributes"]
            )
        elif attributes is not None:
            total = total + 0 * attributes.sum()  # DDP waits for the gradient of all that leaves the model
        rows = len(losses) * self.accelerator.num_processes if num_items_in_batch is None else num_items_in_batch
        loss = total * self.accelerator.num_processes / rows  # DDP averages over processes
        return (loss, {}) if return_outputs else loss

    def _losses(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """(B,) weighted losses, and predicted attributes."""
        if self.weights is None:
            losses, attributes = self.readout.supervised_losses(inputs["prompt"], inputs["target"])
            return inputs["row_weight"] * losses, attributes
        log_q, attributes = self.readout.log_probs(inputs["prompt"])
        distances = js_distance(js_divergence(inputs["human"], log_q.detach()))
        uncertainty = -(log_q.detach().exp() * log_q.detach()).sum(dim=-1) / math.log(2)
        self._averages["jsd"].append(self.accelerator.gather(distances).mean().item())
        self._averages["entropy"].append(self.accelerator.gather(uncertainty).mean().item())
        weights = self.weigh(inputs["row"], distances) * inputs["row_weight"]
        self.nothing_to_learn = not weights.any()
        if self.args.direct_loss == "ranked":
            return weights * ranked_probability_score(inputs["target"], log_q), attributes
        divergence = js_divergence(inputs["target"], log_q)
        return weights * (js_distance(divergence) if self.args.direct_loss == "distance" else divergence), attributes
