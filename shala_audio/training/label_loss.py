"""The readout `label_token` in training: the exact objective, or GRPO on labels that are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shala_audio.models.readouts.label_token import LabelTree, label_answers
from shala_audio.training.drawn_labels import advantages, draw_labels, label_rewards, policy_loss
from shala_audio.training.guard import check_loss
from shala_audio.training.objective import js_distance, js_divergence


class LabelLoss:
    """Mixin for a `GRPOTrainer` of a `SpeechLM` whose distribution is there after one pass."""

    accelerator: Any
    args: Any
    current_gradient_accumulation_steps: int
    model: Any
    nothing_to_learn: bool
    num_generations: int
    scale_rewards: str
    state: Any
    tree: LabelTree
    _attribute_loss: Callable[[Tensor | None, dict[str, Any]], Tensor | float]
    _earned: list[Tensor]
    _metrics: Any
    _mine: Callable[[Tensor, int], Tensor]
    _watch: Callable[[Tensor], None]
    _weigh: Callable[[Tensor, Tensor], Tensor]

    def _label_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Mean over rows of w · JS divergence in nats, of w · JS distance, or of w · GRPO's loss on drawn labels."""
        log_q, stated = model(compute=lambda lm: label_answers(lm, self.tree, inputs["prompt"]))
        divergence = js_divergence(inputs["human"], log_q)
        distances = js_distance(divergence.detach())
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["jsd"].append(self.accelerator.gather(distances).mean().item())
        bits = -(log_q.detach().exp() * log_q.detach()).sum(dim=-1) / math.log(2)
        self._metrics[mode]["stated_entropy"].append(self.accelerator.gather(bits).mean().item())
        loss = js_distance(divergence) if self.args.exact_loss == "distance" else divergence
        if mode == "eval":
            return loss.mean()
        signal: Tensor | float = 1.0
        if self.args.exact_loss == "off":
            loss, signal = self._drawn_loss(log_q, inputs["human"])
        weights = self._weigh(inputs["row"], distances)
        weighted = weights * loss
        self.nothing_to_learn = not (weights * signal).any()
        whole = weighted.mean() + self._attribute_loss(stated, inputs)
        return whole / self.current_gradient_accumulation_steps

    def _drawn_loss(self, log_q: Tensor, human: Tensor) -> tuple[Tensor, Tensor]:
        """GRPO's loss on labels drawn from log-probabilities (B, K), and whether there is any advantage, each (B,)."""
        check_loss(log_q.detach().sum(), self.state.global_step + 1)  # nothing can be drawn from what is no number
        drawn = draw_labels(log_q, self.num_generations)
        earned = label_rewards(self.args.reward, human).gather(1, drawn)
        everyone = self.accelerator.gather(earned)
        self._metrics["train"]["reward"].append(everyone.mean().item())
        self._earned.append(everyone)
        if self.accelerator.sync_gradients:
            self._watch(torch.cat(self._earned))
            self._earned.clear()
        advantage = self._mine(advantages(everyone, self.scale_rewards), len(earned))
        return policy_loss(log_q, drawn, advantage), advantage.any(dim=1)
