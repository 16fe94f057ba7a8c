"""The readout `slots` in GRPO: groups of digits are sampled, and only digits count in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from shala_audio.models.readouts.slots import SlotTemplate, digit_log_probs, fill_slots, write_slots
from shala_audio.training.data import Batcher
from shala_audio.training.rewards import Completion, text_of


class SlotRollouts:
    """Mixin for a `GRPOTrainer` of a `SpeechLM` with slots."""

    accelerator: Any
    batcher: Batcher
    model: Any
    model_wrapped: Any
    num_generations: int
    template: SlotTemplate
    temperature: float
    _audio: dict[str, Tensor]
    _prepare_input: Any
    _rows: Tensor | None

    def rollout(self, prompts: list[str]) -> dict[str, Any]:
        """Sampled slots of prompts, of which every `num_generations` neighbours are the same one."""
        group = self.num_generations
        batch = self.batcher.builder.batch(prompts[::group])
        batch |= {name: tensor[::group] for name, tensor in self._audio.items()}
        batch = self._prepare_input(batch)
        policy = self.accelerator.unwrap_model(self.model)
        training = policy.training
        policy.eval()
        with torch.no_grad():  # also for what DDP does around it
            digits, _ = self.model_wrapped(
                compute=lambda lm: fill_slots(lm, self.template, batch, group, self.temperature)
            )
        policy.train(training)
        completions = self.template.completion(digits)
        return {
            "prompt_ids": self.batcher.builder.token_ids(prompts),
            "completion_ids": completions.tolist(),
            "logprobs": None,
            "env_mask": self.template.sampled().long().expand(len(completions), -1).tolist(),
        }

    def stated(self, completions: Sequence[Completion]) -> list[str]:
        """What filled slots say, for rewards; all zeros are uniform, as in prediction (`from_percent`)."""
        labels = self.batcher.builder.task.label_names
        silent, even = (write_slots([share] * len(labels), labels) for share in (0.0, 0.5))
        return [even if (text := text_of(one)) == silent else text for one in completions]

    def _slots_logps(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, count: int
    ) -> tuple[Tensor, Tensor, None]:
        """Log-probabilities among the ten digits, as they were sampled; 0 for forced tokens."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **self._audio}
        log_probs, places = model(
            compute=lambda lm: digit_log_probs(lm, self.template, inputs, self.temperature, self._rows)
        )
        places = places.to(input_ids.device)
        tokens = input_ids[:, -count:][:, places]
        chosen = (tokens[..., None] == self.template.digit_ids.to(tokens.device)).float()
        logps = log_probs.new_zeros(len(input_ids), count)
        entropies = torch.zeros_like(logps)
        logps = logps.index_copy(1, places, (log_probs * chosen).sum(dim=-1))
        entropies[:, places] = -(log_probs.exp() * log_probs).sum(dim=-1).detach()
        return logps, entropies, None


def rollout_slots(prompts: list[str], trainer: SlotRollouts) -> dict[str, Any]:
    """TRL's `rollout_func`."""
    return trainer.rollout(prompts)
