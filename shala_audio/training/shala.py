"""`ShalaTrainer`: what SHALA (arXiv 2606.05376) adds to TRL's `GRPOTrainer`.

- Ambiguous rows count for more: the weight multiplies the *advantage*, because a weight on the reward is divided out
  again when a group's rewards are normalised. Or they are drawn more often.
- Sound goes along with the prompt, into generation and into the loss.
- `slots` samples digits only. `label_token` has the whole distribution after one pass: its loss is the weighted divergence
  itself, or GRPO's on labels drawn from it (`exact_loss: off`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.models.adapters import plain_parameters
from shala_audio.models.readouts.label_token import label_tree
from shala_audio.models.readouts.slots import slot_template
from shala_audio.models.readouts.verbalized import parse_answer
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.ambiguity import AmbiguityWeights
from shala_audio.training.checkpoints import CheckpointMoments
from shala_audio.training.config import ShalaConfig
from shala_audio.training.data import Batcher
from shala_audio.training.label_loss import LabelLoss
from shala_audio.training.refusals import refuse_settings, sampled_prompts
from shala_audio.training.rewards import REWARDS, text_of
from shala_audio.training.sampling import RowSampler
from shala_audio.training.slot_rollouts import SlotRollouts, rollout_slots
from shala_audio.training.speech_trainer import SpeechTrainer
from shala_audio.training.without_signal import NO_SIGNAL, WithoutSignal


class ShalaTrainer(LabelLoss, SlotRollouts, SpeechTrainer, GRPOTrainer):
    """GRPO on distributions of annotators, for text and speech and all three readouts.

    Args:
        model: the policy; its readout says how it is trained.
        args: settings.
        train_dataset: `build_dataset(...)`.
        batcher: makes tensors of its rows.
        weights: of the dataset's rows, by their number.

    Raises:
        UserError: settings that would be ignored or cannot work.
    """

    def __init__(
        self,
        model: SpeechLM,
        args: ShalaConfig,
        train_dataset: Dataset,
        batcher: Batcher,
        weights: AmbiguityWeights,
        **options: Any,
    ) -> None:
        self.one_pass = model.readout == "label_token"  # nothing is generated, and rows are prompts
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.prompts_per_step = rows if self.one_pass else rows // args.num_generations
        refuse_settings(args, self.prompts_per_step, len(train_dataset), model)
        self.batcher, self.weights = batcher, weights
        self.nothing_to_learn = (
            False  # of the batch at hand: all advantages or weights are 0, so no gradient is no fault
        )
        # Of the batch at hand, for the hooks that TRL gives no room to pass them.
        self._audio: dict[str, Tensor] = {}
        self._rows: Tensor | None = None
        self._shown: list[tuple[list[int], Floats]] = []  # of a step, what is not remembered yet
        self._earned: list[Tensor] = []  # of a step, by drawn labels
        if self.one_pass:
            self.tree = label_tree(model)
        elif model.readout == "slots":
            self.template = slot_template(model)
            options["rollout_func"] = rollout_slots
        super().__init__(
            model=model,
            reward_funcs=REWARDS[args.reward](model.task.label_names, args.invalid_reward),
            args=args,
            train_dataset=train_dataset,
            processing_class=model.tokenizer,
            **options,
        )
        advice = NO_SIGNAL + ("" if self.one_pass else " or a higher temperature")
        self.without_signal = WithoutSignal(args.patience_without_signal, advice, self.accelerator.is_main_process)
        accumulated, used = args.gradient_accumulation_steps, args.steps_per_generation * args.num_iterations
        self.add_callback(CheckpointMoments(1 if self.one_pass else math.lcm(used, accumulated) // accumulated))
        if model.readout == "verbalized" and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError(
                "readout verbalized: its free answers are not sampled from a model that is spread over processes"
            )
        if args.use_vllm:  # TRL would send the weights under the names that they have here
            assert hasattr(self.vllm_generation, "_iter_named_params")
            self.vllm_generation._iter_named_params = lambda: plain_parameters(model)

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.weights.save(output_dir or self.args.output_dir)
            self.without_signal.save(output_dir or self.args.output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # called however the model itself is read, also by DeepSpeed
        if checkpoint is not None:
            self.weights.load(checkpoint)
            self.without_signal.load(checkpoint)

    # Rows and batches -------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        return Trainer.get_train_dataloader(self) if self.one_pass else super().get_train_dataloader()

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        if self.one_pass:
            return super()._get_train_sampler(dataset)
        lengths, group = self.train_dataset["length"], self.num_generations
        prompts = sampled_prompts(self.args)
        repeat = self.num_iterations * self.args.steps_per_generation
        repeats = RepeatSampler(range(len(lengths)), group, prompts, repeat, shuffle=False)
        return RowSampler(lambda epoch: self._order(lengths, prompts, epoch), len(lengths), repeats)

    def _draws(self, epoch: int) -> Floats | None:
        return self.weights.draws(epoch, self._middle(epoch))

    def _middle(self, epoch: int) -> float:
        """Share of the training that is done in the middle of an epoch: its draws are fixed when it begins, and take λ as
        it will be then."""
        rows, accumulated = len(self.weights), self.args.gradient_accumulation_steps
        if self.one_pass:
            steps = math.ceil(rows / self.prompts_per_step)
        else:  # TRL's sampler leaves out what does not fill a generation, and repeats what does
            batches = rows // sampled_prompts(self.args) * self.args.steps_per_generation * self.num_iterations
            steps = math.ceil(batches / accumulated)
        start, last = epoch * steps, max(self.state.max_steps, 1)
        return (start + min(start + steps, last)) / 2 / last

    def _progress(self) -> float:
        """Share of the training that is done."""
        return self.state.global_step / max(self.state.max_steps, 1)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self.one_pass:
            return self._prepare_input(self.batcher(generation_batch))
        return super()._prepare_inputs(generation_batch)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        inputs = self.batcher.hear(inputs)
        self._audio = self._prepare_input(self.batcher.audio(inputs))
        self._rows = torch.tensor([row["row"] for row in inputs], device=self.accelerator.device)
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            earned = self._mine(self._rewards, len(inputs))
            output["advantages"] = output["advantages"] * self._weigh(self._rows, 1 - earned.clamp(0, 1))
            self._watch(self._rewards.view(-1, self.num_generations))
        return {**output, **self._audio, "row": self._rows}

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        if self.batcher.builder.readout == "slots":
            completions = self.stated(completions)
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._rewards = rewards[:, 0]  # one reward function, all processes; kept for the running 1 - r
        if self.batcher.builder.readout == "verbalized":
            names = self.batcher.builder.task.label_names
            valid = [parse_answer(text_of(completion), names) is not None for completion in completions]
            self._metrics["train" if self.model.training else "eval"]["valid"].append(sum(valid) / len(valid))
        return rewards

    def _weigh(self, rows: Tensor, gap: Tensor) -> Tensor:
        """The weights (B,) of a batch's rows, logged; then what the batch showed of them is remembered.

        Args:
            rows, gap: (B,) numbers of this process's rows and their 1 - r; every process remembers those of all.
        """
        weights = self.weights.of(rows.tolist(), self._progress())
        every = self.accelerator.gather(rows).tolist()
        drawn = self.weights.drawn  # where rows are drawn by weight, all count 1: logged is what they were drawn by
        progress = self._progress() if drawn is None else self._middle(drawn[0])
        shown = self.weights.all(progress)[every] if drawn is None else drawn[1]
        self._shown.append((every, self.accelerator.gather(gap.float()).cpu().numpy()))
        if not self.one_pass or self.accelerator.sync_gradients:
            # Once a step, so that its last rows are not weighted by what its first have shown.
            for numbers, gaps in self._shown:
                self.weights.update(numbers, gaps)
            self._shown.clear()
        for name, value in self.weights.statistics(shown).items():
            self._metrics["train"][name].append(value)
        if self.weights.settings.kind != "off":
            self._metrics["train"]["weight/lambda"].append(self.weights.strength(progress))
        return torch.tensor(weights, dtype=torch.float32, device=rows.device)

    def _watch(self, groups: Tensor) -> None:
        """Log whether what the rollouts of each prompt (prompts, G) earned, in all processes, teaches anything."""
        silent = self.without_signal.see(groups, self.state.global_step + 1)
        self._metrics["train"]["without_signal"].append(float(silent))

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Tensor]]:
        return self.batcher.builder.token_ids(prompts), None, dict(self._audio)

    # Loss -------------------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self.one_pass:
            return self._label_loss(model, inputs)
        self._audio = {name: inputs[name] for name in ("audio_features", "audio_lengths") if name in inputs}
        self._rows = inputs["row"]
        self.nothing_to_learn = not inputs["advantages"].any()
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *rest: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self.batcher.builder.readout == "slots":
            return self._slots_logps(model, input_ids, attention_mask, logits_to_keep)
        with_audio = _WithAudio(model, self._audio)
        return super()._get_per_token_logps_and_entropies(
            with_audio, input_ids, attention_mask, logits_to_keep, *rest, **options
        )


class _WithAudio:
    """A model that gets the sound of the rows at hand with every call. TRL may call it for chunks of the batch, in order."""

    def __init__(self, model: Any, audio: dict[str, Tensor]) -> None:
        self.model, self.audio, self.start = model, audio, 0

    def __call__(self, input_ids: Tensor, **inputs: Any) -> Any:
        rows = slice(self.start, self.start + len(input_ids))
        self.start = rows.stop
        audio = {name: tensor[rows] for name, tensor in self.audio.items()}
        return self.model(input_ids=input_ids, **audio, **inputs)
