"""`GrpoTrainer`: what SHALA (arXiv 2606.05376) adds to TRL's `GRPOTrainer`, for answers that are drawn.

- Ambiguous rows count for more: the weight multiplies the *advantage*, because a weight on the reward is divided out
  again when a group's rewards are normalised.
- Sound goes along with the prompt, into generation and into the loss.
- A readout that draws few tokens (digits, one label) draws them itself, and only they count in the loss.
- The policy that is trained is the one that was sampled: nothing in it is random (`SpeechLM.train_as_policy`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOTrainer
from trl.import_utils import is_vllm_available
from trl.trainer.utils import RepeatSampler

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.models.lora import plain_parameters
from shala_audio.models.readouts.base import Rollouts, append_completions
from shala_audio.models.readouts.slots import Slots
from shala_audio.models.readouts.verbalized import Verbalized
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.ambiguity import AmbiguityWeights
from shala_audio.training.callbacks import CheckpointMoments, ZeroVarianceGroups
from shala_audio.training.config import METHODS, GrpoConfig
from shala_audio.training.data import Batcher, RowSampler
from shala_audio.training.losses import js_divergence
from shala_audio.training.rewards import earned, every_digit
from shala_audio.training.trainer import SpeechTrainer

REPLACEMENTS = 2  # how often rows whose answers all earn alike are replaced, at most


class GrpoTrainer(SpeechTrainer, GRPOTrainer):
    """GRPO on distributions of annotators, for text and speech.

    Args:
        model: the policy; its readout says what is drawn.
        args: settings; a batch counts answers, `num_generations` of each prompt.
        train_dataset: `build_dataset(...)`.
        batcher: makes tensors of its rows.
        weights: of the dataset's rows, by their number.

    Raises:
        UserError: settings that would be ignored or cannot work.
    """

    def __init__(
        self,
        model: SpeechLM,
        args: GrpoConfig,
        train_dataset: Dataset,
        batcher: Batcher,
        weights: AmbiguityWeights,
    ) -> None:
        _check(args, len(train_dataset), model)
        # Of the batch at hand, for the hooks that TRL gives no room to pass them.
        self._audio: dict[str, Tensor] = {}
        self._rows: Tensor | None = None
        self._rewards: Tensor | None = None
        self._stated: Floats | None = None
        self._shorter: Floats | None = None  # what a valid answer would earn more, were brevity all
        self._drawn: dict[str, Any] | None = None  # answers that are there already
        # Answers after thoughts have a gradient of their own.
        self.answers_learn = model.readout.thinks and METHODS[args.method].learns == "shala"
        if isinstance(model.readout, Verbalized):  # no longer answer can be valid
            longest, given = model.readout.longest_completion(), args.max_completion_length
            as_in_trl = given == GrpoConfig.__dataclass_fields__["max_completion_length"].default
            args.max_completion_length = longest if as_in_trl else min(given, longest)
        super().__init__(
            model,
            batcher,
            weights,
            args=args,
            train_dataset=train_dataset,
            reward_funcs=self._reward_function(args),
            processing_class=model.tokenizer,
            rollout_func=None if model.readout.writes_freely else lambda prompts, trainer: trainer.rollouts(prompts),
        )
        self.zero_variance = ZeroVarianceGroups(args.zero_variance_patience, self.accelerator.is_main_process)
        used = args.steps_per_generation * args.num_iterations
        self.add_callback(
            CheckpointMoments(math.lcm(used, args.gradient_accumulation_steps) // args.gradient_accumulation_steps)
        )
        if model.readout.writes_freely and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError(
                f"readout {model.readout.name}: its free answers are not sampled from a model that is spread over processes"
            )
        if args.use_vllm:  # TRL would send the weights under the names that they have here
            assert hasattr(self.vllm_generation, "_iter_named_params")
            self.vllm_generation._iter_named_params = lambda: plain_parameters(model)

    # Rows and rollouts ------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> RowSampler:
        lengths, prompts = self.train_dataset["length"], prompts_at_once(self.args)
        repeat = self.num_iterations * self.args.steps_per_generation
        repeats = RepeatSampler(range(len(lengths)), self.num_generations, prompts, repeat, shuffle=False)
        return RowSampler(lambda epoch: self._order(lengths, prompts, epoch), len(lengths), repeats)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self.model.training:
            self.model.train_as_policy()
        return super()._prepare_inputs(generation_batch)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        inputs = self.batcher.augmented(inputs)
        if self.args.dynamic_sampling and self.model.training:
            inputs, self._drawn = self._with_spread(inputs)
        self._audio = self._prepare_input(self.batcher.audio(inputs))
        self._rows = torch.tensor([row["row"] for row in inputs], device=self.accelerator.device)
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            assert self._rewards is not None
            start = self.accelerator.process_index * len(inputs)  # rewards are gathered from all processes
            rewards = self._rewards[start : start + len(inputs)]
            weights = self.weigh(self._rows, 1 - rewards.clamp(0, 1), at_once=True)
            output["advantages"] = output["advantages"] * weights
            if self.args.advantage == "all_digits":  # which needs no spread between answers
                places, found = self._every_digit(output["completion_ids"], output["completion_mask"], inputs)
                output["every_digit"] = found * weights[:, None, None]
                if places is not None:  # of free answers, whose other tokens learn by GRPO
                    output["digit_places"] = places
                    output["advantages"] = output["advantages"][:, None] * ~places
                    if not places.any():
                        self.zero_variance.see(self._rewards.view(-1, self.num_generations), self.state.global_step + 1)
            elif self.answers_learn:  # whatever the thoughts earn
                output["human"] = torch.tensor([row["human"] for row in inputs], device=weights.device)
                output["row_weight"] = weights
            else:
                self.zero_variance.see(self._rewards.view(-1, self.num_generations), self.state.global_step + 1)
        return {**output, **self._audio, "row": self._rows}

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Tensor]]:
        return self.batcher.builder.token_ids(prompts), None, dict(self._audio)

    def rollouts(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Answers to prompts, of which every `num_generations` neighbours are the same one, as TRL takes them."""
        if self._drawn is not None:
            found, self._drawn = self._drawn, None
            return found
        group = self.num_generations
        policy = self.accelerator.unwrap_model(self.model)
        training = policy.training
        policy.eval()  # layers whose activations are computed again keep no cache in training mode
        # Answers, no more than are learnt from at once: their keys and values are kept until they are whole.
        at_once = max(1, self.args.per_device_train_batch_size // group) * group
        with torch.no_grad():  # also for what DDP does around it
            parts = [self._draw(prompts, slice(at, at + at_once, group)) for at in range(0, len(prompts), at_once)]
        if training:
            policy.train_as_policy()
        stated = [part.stated for part in parts if part.stated is not None]
        self._stated = np.concatenate(stated) if stated else None
        return {
            "prompt_ids": self.batcher.builder.token_ids(prompts),
            "completion_ids": [one for part in parts for one in part.completions],
            "logprobs": None,
            "env_mask": [one for part in parts for one in part.drawn],
        }

    def _draw(self, prompts: Sequence[str], part: slice) -> Rollouts:
        batch = self.batcher.builder.batch(prompts[part])
        batch = self._prepare_input(batch | {name: tensor[part] for name, tensor in self._audio.items()})
        drawn: Rollouts = self.model_wrapped(
            compute=lambda: self.readout.rollouts(batch, self.num_generations, self.temperature)
        )
        return drawn

    def _with_spread(self, inputs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Rows whose answers earn differently, and these answers. Rows whose answers all earn alike are replaced by others, up to
        `REPLACEMENTS` times; what is still alike then stays."""
        assert self.weights is not None
        rng = np.random.default_rng([self.args.seed, self.state.global_step])
        used = {row["row"] for row in inputs}
        kept: list[dict[str, Any]] = []
        answers: dict[str, list[Any]] = {"prompt_ids": [], "completion_ids": [], "env_mask": []}
        stated: list[Floats] = []
        replaced = 0
        for left in range(REPLACEMENTS, -1, -1):
            self._audio = self._prepare_input(self.batcher.audio(inputs))
            found = self.rollouts([row["prompt"] for row in inputs])
            of_answers = self.readout.stated(found["completion_ids"]) if self._stated is None else self._stated
            human = np.array([row["human"] for row in inputs])
            rewards = earned(self.args.reward, human, of_answers, self.args.invalid_reward)
            spread = np.repeat(np.ptp(rewards.reshape(-1, self.num_generations), axis=1) > 1e-9, self.num_generations)
            others = [row for row in range(len(self.train_dataset)) if row not in used]
            wanted = min(int((~spread).sum()) // self.num_generations, len(others)) if left else 0
            if not wanted:
                spread[:] = True
            for index in np.flatnonzero(spread):
                kept.append(inputs[index])
                stated.append(of_answers[index])
                for name, values in answers.items():
                    values.append(found[name][index])
            if not wanted:
                break
            # Fewer others than are wanted: the rest of what is alike is left out of this step's choice, not of the batch.
            alike = [inputs[index] for index in np.flatnonzero(~spread)][wanted * self.num_generations :]
            priority = self.weights.all()[others] + 1e-9
            drawn = rng.choice(others, wanted, replace=False, p=priority / priority.sum())
            used |= set(drawn.tolist())
            replaced += wanted
            fresh = self.batcher.augmented([self.train_dataset[int(row)] for row in drawn])
            inputs = [row for row in fresh for _ in range(self.num_generations)] + alike
        self._averages["replaced"].append(replaced * self.num_generations / len(kept))
        if self._stated is not None:
            self._stated = np.stack(stated)
        return kept, {**answers, "logprobs": None}

    # Rewards ----------------------------------------------------------------------------------------------------------

    def _reward_function(self, args: GrpoConfig) -> Callable[..., list[float]]:
        def reward(completion_ids: Sequence[Sequence[int]], human: Sequence[Sequence[float]], **_: Any) -> list[float]:
            stated = self.readout.stated(completion_ids) if self._stated is None else self._stated
            if self.readout.writes_freely and self.model.training:
                self._averages["valid"].append(float(np.mean(~np.isnan(stated[:, 0]))))
            found = earned(args.reward, np.asarray(human), stated, args.invalid_reward)
            if args.brevity_reward and self.readout.writes_freely:
                short = 1 - np.array([len(ids) for ids in completion_ids]) / args.max_completion_length
                self._shorter = np.where(np.isnan(stated).any(axis=-1), 0.0, short - found)
            return found.tolist()

        reward.__name__ = f"{args.reward}_to_raters"  # TRL logs it under this name
        return reward

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._rewards = rewards[:, 0]  # one reward function, all processes; kept for the running losses
        if self._shorter is not None:
            shorter = torch.tensor(self._shorter, dtype=rewards.dtype, device=rewards.device)
            rewards = rewards + self.args.brevity_reward * self.accelerator.gather(shorter)[:, None]
        return rewards

    def _every_digit(
        self, completions: Tensor, mask: Tensor, inputs: list[dict[str, Any]]
    ) -> tuple[Tensor | None, Tensor]:
        """What all ten digits earn at the places of this process's answers: of `slots` (n, 2 K, 10); of free answers (n, C, 10),
        and before that which of their tokens (n, C) are digits on which the reward depends."""
        human = np.array([row["human"] for row in inputs])
        readout = self.readout
        if isinstance(readout, Slots):
            digits = readout.digits(completions.tolist())
            found = every_digit(self.args.reward, human, digits, self.num_generations, self.args.group_reward)
            return None, torch.tensor(found, dtype=torch.float32, device=completions.device)
        assert isinstance(readout, Verbalized)
        answers = [row[: int(count)].tolist() for row, count in zip(completions, mask.sum(dim=1), strict=True)]
        where, stated = readout.every_digit(answers)
        people = human[[number for number, _ in where for _ in range(10)]].reshape(-1, human.shape[1])
        found = earned(self.args.reward, people, stated.reshape(people.shape), self.args.invalid_reward).reshape(-1, 10)
        matters = np.ptp(found, axis=1) > 1e-9
        numbers, at = np.array(where, dtype=int).reshape(-1, 2)[matters].T
        places, rewards = torch.zeros(mask.shape, dtype=torch.bool), torch.zeros(*mask.shape, 10)
        places[numbers, at] = True
        rewards[numbers, at] = torch.tensor(found[matters], dtype=torch.float32)
        return places.to(mask.device), rewards.to(mask.device)

    # Loss -------------------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._audio = {name: inputs[name] for name in ("audio_features", "audio_lengths") if name in inputs}
        self._rows = inputs["row"]
        if "every_digit" in inputs and isinstance(self.readout, Slots):
            return self._all_digits_loss(model, inputs)
        self.nothing_to_learn = not inputs["advantages"].any()
        loss = super()._compute_loss(model, inputs)
        if self.answers_learn:
            self.nothing_to_learn &= not inputs["row_weight"].any()
            loss = loss + self._answer_loss(model, inputs)
        if "every_digit" in inputs:
            self.nothing_to_learn &= not inputs["digit_places"].any()
            loss = loss + self._all_digits_loss(model, inputs)
        return loss

    def _answered(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch of prompts with the answers that were drawn."""
        prompts = {"input_ids": inputs["prompt_ids"], "attention_mask": inputs["prompt_mask"], **self._audio}
        return append_completions(prompts, inputs["completion_ids"], inputs["completion_mask"])

    def _answer_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """SHALA's direct objective of the answers after drawn thoughts."""
        batch = self._answered(inputs)
        log_q, _ = model(compute=lambda: self.readout.log_probs(batch))
        weighted = inputs["row_weight"] * js_divergence(inputs["human"], log_q)
        return weighted.mean() / self.current_gradient_accumulation_steps

    def _all_digits_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Less the expected reward over the policy's ten probabilities at each place, the other digits held as they were drawn.

        No noise comes from which digit was drawn, and no baseline is needed: the probabilities of a place sum to 1, so what is
        the same for all ten has no gradient. What later digits would have become after another one is left out.
        """
        batch, readout, rewards = self._answered(inputs), self.readout, inputs["every_digit"]
        if isinstance(readout, Slots):
            log_probs, _ = model(compute=lambda: readout.digit_log_probs(batch, self.temperature, self._rows))
            self.nothing_to_learn = not (rewards - rewards.mean(dim=-1, keepdim=True)).any()
        else:
            assert isinstance(readout, Verbalized)
            places = inputs["digit_places"]
            log_probs = model(compute=lambda: readout.digit_log_probs(batch, places, self.temperature))
            rewards = rewards[places]
        expected = (log_probs.exp() * rewards).sum(dim=-1)
        mean = expected.detach().sum() / max(1, expected.numel())
        self._averages["expected_reward"].append(self.accelerator.gather(mean).mean().item())
        return -expected.sum() / len(batch["input_ids"]) / self.current_gradient_accumulation_steps

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *rest: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self.readout.writes_freely:
            with_audio = _WithAudio(model, self._audio)
            return super()._get_per_token_logps_and_entropies(
                with_audio, input_ids, attention_mask, logits_to_keep, *rest, **options
            )
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **self._audio}
        log_probs, entropies = model(
            compute=lambda: self.readout.drawn_log_probs(inputs, logits_to_keep, self.temperature, self._rows)
        )
        return log_probs, entropies, None

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.zero_variance.save(output_dir or self.args.output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.zero_variance.load(checkpoint)


class _WithAudio:
    """A model that gets the sound of the rows at hand with every call. TRL may call it for chunks of the batch, in order."""

    def __init__(self, model: Any, audio: dict[str, Tensor]) -> None:
        self.model, self.audio, self.start = model, audio, 0

    def __call__(self, input_ids: Tensor, **inputs: Any) -> Any:
        rows = slice(self.start, self.start + len(input_ids))
        self.start = rows.stop
        audio = {name: tensor[rows] for name, tensor in self.audio.items()}
        return self.model(input_ids=input_ids, **audio, **inputs)


def prompts_at_once(args: GrpoConfig) -> int:
    """How many prompts are answered at once, over all processes."""
    return int(args.generation_batch_size or 0) // args.num_generations


def _check(args: GrpoConfig, rows: int, model: SpeechLM) -> None:
    """Refuse settings that do not fit the model or the rows, and those under which the ambiguity weight cancels out."""
    readout = model.readout
    if args.use_vllm:
        if model.model_config.weights == "4bit":
            raise UserError("use_vllm: vLLM cannot be sent weights of four bits; use weights auto")
        if not readout.writes_freely or model.task.has_audio:
            raise UserError(
                "use_vllm: vLLM samples free text, so use it with readout verbalized and a task of text alone"
            )
        if not is_vllm_available():
            raise UserError("use_vllm: vLLM is not installed here; `pip install trl[vllm]` on a machine with a GPU")
    if (
        not readout.writes_freely
        and args.per_device_train_batch_size * args.steps_per_generation % args.num_generations
    ):
        raise UserError(
            f"per_device_train_batch_size: each process samples whole groups of {args.num_generations} answers "
            "(num_generations), so make it a multiple of that"
        )
    if args.dynamic_sampling and (readout.writes_freely or args.advantage == "all_digits" or args.world_size > 1):
        raise UserError(
            "dynamic_sampling: is for readouts that draw their answers themselves, advantage group and one process"
        )
    if args.advantage == "all_digits" and isinstance(readout, Verbalized):
        _ = readout.digit_ids  # which not every tokenizer has
        if args.world_size > 1:
            raise UserError("advantage all_digits: with readout verbalized in one process alone; use advantage group")
    if readout.thinks and args.mask_truncated_completions:
        raise UserError(f"mask_truncated_completions: does not go with readout {readout.name}")
    if args.pad_to_multiple_of and (readout.thinks or isinstance(readout, Slots)):
        raise UserError(f"pad_to_multiple_of: does not go with readout {readout.name}, whose answers are all as long")
    if args.advantage == "all_digits" and args.num_iterations != 1:
        raise UserError("num_iterations: with advantage all_digits, each answer is learnt from once; leave it at 1")
    at_once = prompts_at_once(args)
    if rows < at_once:
        raise UserError(
            f"per_device_train_batch_size: {at_once} prompts are answered at once, over all processes and accumulated "
            f"batches, and there are {rows} training rows; lower it, gradient_accumulation_steps or the processes"
        )
    answers = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    args.check_weights(max(answers // args.num_generations, at_once))  # TRL shuffles what is answered at once
