"""Settings that ShalaTrainer refuses, once the model is known."""

from __future__ import annotations

from trl.import_utils import is_vllm_available

from shala_audio.errors import UserError, not_one_of
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.config import ShalaConfig
from shala_audio.training.rewards import REWARDS

SCALES = ("group", "batch", "none")


def sampled_prompts(args: ShalaConfig) -> int:
    """How many prompts are answered at once, over all processes, where answers are sampled."""
    return int(args.generation_batch_size or 0) // args.num_generations


def refuse_settings(args: ShalaConfig, prompts: int, rows: int, model: SpeechLM) -> None:
    """Refuse settings that would be ignored, and those under which the ambiguity weight cancels out.

    Args:
        args: the settings.
        prompts: of a step, over all processes.
        rows: of training.
        model: that is to be trained.

    Raises:
        UserError: naming the setting and what to do.
    """
    if args.beta != 0:
        raise UserError("beta: no reference model is kept, so a KL term cannot be computed; leave it at 0")
    if args.reward not in REWARDS:
        raise not_one_of("reward", args.reward, REWARDS)
    if args.scale_rewards not in SCALES:
        raise not_one_of("scale_rewards", args.scale_rewards, SCALES)
    if args.use_vllm:
        if model.readout != "verbalized" or model.task.has_audio:
            raise UserError(
                "use_vllm: vLLM samples free text, so use it with readout verbalized and a task of text alone"
            )
        if not is_vllm_available():
            raise UserError("use_vllm: vLLM is not installed here; `pip install trl[vllm]` on a machine with a GPU")
    if model.readout == "slots" and args.per_device_train_batch_size * args.steps_per_generation % args.num_generations:
        raise UserError(
            f"per_device_train_batch_size: each process samples whole groups of {args.num_generations} answers "
            "(num_generations), so make it a multiple of that"
        )
    one_pass = model.readout == "label_token"
    if not one_pass and rows < sampled_prompts(args):
        raise UserError(
            f"per_device_train_batch_size: {sampled_prompts(args)} prompts are answered at once, over all processes and "
            f"accumulated batches, and there are {rows} training rows; lower it, gradient_accumulation_steps or the processes"
        )
    mixed = prompts if one_pass else max(prompts, sampled_prompts(args))  # TRL shuffles what is answered at once
    plain = str(args.optim).lower().endswith("sgd") and not args.max_grad_norm
    if args.ambiguity != "off" and not args.ambiguity_sampling and mixed < 2 and not plain:
        raise UserError(
            "ambiguity: each step holds one prompt, and the optimizer or the clipping of gradients divides a factor on the "
            "whole gradient out again; use a larger per_device_train_batch_size or gradient_accumulation_steps, "
            "ambiguity_sampling, or ambiguity off"
        )
