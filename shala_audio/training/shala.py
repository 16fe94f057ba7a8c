"""`ShalaTrainer`: what SHALA (arXiv 2606.05376) adds to TRL's `GRPOTrainer`.

- Ambiguous rows count for more: the weight multiplies the *advantage*, because a weight on the reward is divided out
  again when a group's rewards are normalised.
- Sound goes along with the prompt, into generation and into the loss.
- `slots` samples digits only; `label_token` samples nothing: its loss is the weighted divergence itself.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer
from trl import GRPOTrainer

from shala_audio.errors import UserError
from shala_audio.models.readouts.label_token import label_log_probs, label_tree
from shala_audio.models.readouts.slots import digit_log_probs, fill_slots, slot_template
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.checkpoints import SavesWhatWasTrained
from shala_audio.training.config import ShalaConfig
from shala_audio.training.data import Batcher
from shala_audio.training.objective import js_divergence
from shala_audio.training.rewards import jsd_reward


class ShalaTrainer(SavesWhatWasTrained, GRPOTrainer):
    """GRPO on distributions of annotators, for text and speech and all three readouts.

    Args:
        model: the policy; its readout says how it is trained.
        args: settings.
        train_dataset: `build_dataset(...)`.
        batcher: makes tensors of its rows.

    Raises:
        UserError: settings that would be ignored or cannot work.
    """

    def __init__(self, model: SpeechLM, args: ShalaConfig, train_dataset: Dataset, batcher: Batcher, **options: Any):
        if args.beta != 0:
            raise UserError("beta: no reference model is kept, so a KL term cannot be computed; leave it at 0")
        self.batcher = batcher
        self.exact = model.readout == "label_token"
        self._audio: dict[str, Tensor] = {}  # of the batch at hand, for the hooks that TRL gives no room to pass it
        if self.exact:
            self.tree = label_tree(model)
        elif model.readout == "slots":
            self.template = slot_template(model)
            options["rollout_func"] = _rollout_slots
        super().__init__(
            model=model,
            reward_funcs=jsd_reward(model.task.label_names),
            args=args,
            train_dataset=train_dataset,
            processing_class=model.tokenizer,
            **options,
        )

    # Rows and batches -------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        # The exact objective needs no groups of equal prompts.
        return Trainer.get_train_dataloader(self) if self.exact else super().get_train_dataloader()

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return Trainer._get_train_sampler(self, dataset) if self.exact else super()._get_train_sampler(dataset)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self.exact:
            return self._prepare_input(self.batcher(generation_batch))
        return super()._prepare_inputs(generation_batch)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._audio = self._prepare_input(self.batcher.audio(inputs))
        output = super()._generate_and_score_completions(inputs)
        weights = torch.tensor([row["weight"] for row in inputs], device=output["advantages"].device)
        output["advantages"] = output["advantages"] * weights
        return {**output, **self._audio}

    # Rollouts ---------------------------------------------------------------------------------------------------------

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Tensor]]:
        return self.batcher.builder.token_ids(prompts), None, dict(self._audio)

    def rollout(self, prompts: list[str]) -> dict[str, Any]:
        """Sampled slots of prompts, of which every `num_generations` neighbours are the same one."""
        group = self.num_generations
        batch = self.batcher.builder.batch(prompts[::group])
        batch |= {name: tensor[::group] for name, tensor in self._audio.items()}
        batch = self._prepare_input(batch)
        policy = self.accelerator.unwrap_model(self.model)
        policy.eval()
        with self.accelerator.autocast():
            digits, _ = fill_slots(policy, self.template, batch, group, self.temperature)
        policy.train()
        completions = self.template.completion(digits)
        return {
            "prompt_ids": self.batcher.builder.token_ids(prompts),
            "completion_ids": completions.tolist(),
            "logprobs": None,
            "env_mask": self.template.sampled().long().expand(len(completions), -1).tolist(),
        }

    # Loss -------------------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self.exact:
            return self._exact_loss(inputs)
        self._audio = {name: inputs[name] for name in ("audio_features", "audio_lengths") if name in inputs}
        return super()._compute_loss(model, inputs)

    def _exact_loss(self, inputs: dict[str, Any]) -> Tensor:
        """Mean over rows of w · JS divergence, in nats."""
        policy = self.accelerator.unwrap_model(self.model)
        # `Trainer` puts autocast around the model's own `forward`, which this goes beneath.
        with self.accelerator.autocast():
            log_q = label_log_probs(policy, self.tree, inputs["prompt"])
        divergence = js_divergence(inputs["human"], log_q)
        bits = divergence.detach() / torch.log(torch.tensor(2.0))
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["jsd"].append(self.accelerator.gather(bits.sqrt()).mean().item())
        steps = self.current_gradient_accumulation_steps if mode == "train" else 1
        return (inputs["weight"] * divergence).mean() / steps

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *rest: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self.batcher.builder.readout == "slots":
            return self._slots_logps(model, input_ids, attention_mask, logits_to_keep)
        with_audio = _WithAudio(model, self._audio)
        return super()._get_per_token_logps_and_entropies(
            with_audio, input_ids, attention_mask, logits_to_keep, *rest, **options
        )

    def _slots_logps(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, count: int
    ) -> tuple[Tensor, Tensor, None]:
        """Log-probabilities among the ten digits, as they were sampled; 0 for forced tokens."""
        policy = self.accelerator.unwrap_model(model)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **self._audio}
        with self.accelerator.autocast():
            log_probs, places = digit_log_probs(policy, self.template, inputs, self.temperature)
        places = places.to(input_ids.device)
        tokens = input_ids[:, -count:][:, places]
        chosen = (tokens[..., None] == self.template.digit_ids.to(tokens.device)).float()
        logps = log_probs.new_zeros(len(input_ids), count)
        entropies = torch.zeros_like(logps)
        logps = logps.index_copy(1, places, (log_probs * chosen).sum(dim=-1))
        entropies[:, places] = -(log_probs.exp() * log_probs).sum(dim=-1).detach()
        return logps, entropies, None


def _rollout_slots(prompts: list[str], trainer: ShalaTrainer) -> dict[str, Any]:
    return trainer.rollout(prompts)


class _WithAudio:
    """A model that gets the sound of the rows at hand with every call. TRL may call it for chunks of the batch, in order."""

    def __init__(self, model: Any, audio: dict[str, Tensor]) -> None:
        self.model, self.audio, self.start = model, audio, 0

    def __call__(self, input_ids: Tensor, **inputs: Any) -> Any:
        rows = slice(self.start, self.start + len(input_ids))
        self.start = rows.stop
        audio = {name: tensor[rows] for name, tensor in self.audio.items()}
        return self.model(input_ids=input_ids, **audio, **inputs)
