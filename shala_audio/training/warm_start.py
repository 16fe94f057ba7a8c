"""The warm start: a short supervised stage on human distributions, before reinforcement learning.

`label_token` learns by cross-entropy with the whole human distribution, `slots` to write its digits, `verbalized` to write
it as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from shala_audio.models.readouts.label_token import label_answers, label_tree
from shala_audio.models.readouts.slots import digit_log_probs, slot_template, to_digits
from shala_audio.models.readouts.verbalized import write_answer
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.checkpoints import CheckpointMoments
from shala_audio.training.data import Batcher
from shala_audio.training.objective import soft_cross_entropy
from shala_audio.training.speech_trainer import SpeechTrainer


class WarmStartTrainer(SpeechTrainer, Trainer):
    """`transformers.Trainer` with the loss of the model's readout."""

    def __init__(self, model: SpeechLM, batcher: Batcher, **options: Any) -> None:
        self.batcher = batcher
        super().__init__(model=model, data_collator=batcher, **options)
        self.add_callback(CheckpointMoments(every=1))
        self.model_accepts_loss_kwargs = False  # so that Trainer divides by the accumulation steps
        if model.readout == "label_token":
            self.tree = label_tree(model)
        elif model.readout == "slots":
            self.template = slot_template(model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = model(compute=lambda lm: self._loss(lm, inputs))
        return (loss, {}) if return_outputs else loss

    def _loss(self, lm: SpeechLM, inputs: dict[str, Any]) -> Tensor:
        if lm.readout == "label_token":
            log_q, stated = label_answers(lm, self.tree, inputs["prompt"])
            return soft_cross_entropy(inputs["human"], log_q).mean() + self._attribute_loss(stated, inputs)
        if lm.readout == "slots":
            return self._slots_loss(lm, inputs["prompt"], inputs["human"])
        return self._verbalized_loss(lm, inputs["prompt"], inputs["human"])

    def _slots_loss(self, lm: SpeechLM, prompt: dict[str, Any], human: Tensor) -> Tensor:
        """Mean cross-entropy of the digits that state the human distribution."""
        digits = to_digits(human)
        inputs = append_completions(prompt, self.template.completion(digits))
        log_probs, _ = digit_log_probs(lm, self.template, inputs)
        return -log_probs.gather(2, digits.flatten(1)[..., None]).mean()

    def _verbalized_loss(self, lm: SpeechLM, prompt: dict[str, Any], human: Tensor) -> Tensor:
        """Mean over rows of the mean cross-entropy of the answer's tokens and the end after it."""
        answers = [write_answer(people, lm.task.label_names) for people in human.tolist()]
        tokens = [lm.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        completions, valid = pad_right([[*ids, lm.tokenizer.eos_token_id] for ids in tokens], human.device)
        inputs = append_completions(prompt, completions, valid)
        count = completions.shape[1]
        # Not by the model's own forward, which this is called by: autocast cannot be entered twice.
        hidden = lm.model(**inputs, use_cache=False).last_hidden_state[:, -count - 1 : -1]
        logits = lm.lm_head(hidden).float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), completions, reduction="none")
        return ((losses * valid).sum(dim=1) / valid.sum(dim=1)).mean()


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token lists to (B, C) tokens and (B, C) mask, padded with 0 on the right."""
    longest = max(map(len, rows))
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return tokens.to(device), mask.to(device)


def append_completions(prompt: dict[str, Any], completions: Tensor, valid: Tensor | None = None) -> dict[str, Any]:
    """A batch of prompts with completions (B, C) behind them."""
    valid = torch.ones_like(completions) if valid is None else valid
    return {
        **prompt,
        "input_ids": torch.cat([prompt["input_ids"], completions], dim=1),
        "attention_mask": torch.cat([prompt["attention_mask"], valid], dim=1),
    }
