"""Stops a run that can only waste time: numbers that are none, or no gradient where something should learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from shala_audio.errors import Stopped

STEPS_WITHOUT_GRADIENT = 5  # in a row, after which a part counts as cut off
PARTS = {"ear": "the ear (projector and what is trained of the encoder)", "adapter": "the adapter (LoRA)"}


class Guard(TrainerCallback):
    """Watches losses, gradients and parameters.

    Args:
        model: whose trained parameters are watched.
        gradients: whether they can be read: not where they are spread over processes.
        silent: whether all advantages or weights at hand are 0, so that no gradient is no fault. None where there are none.

    Raises (in training):
        Stopped: a loss, gradient or parameter is not a number; or for five steps in a row no gradient has reached the ear
            or the adapter, though there was something to learn.
    """

    def __init__(
        self, model: torch.nn.Module, gradients: bool = True, silent: Callable[[], bool] | None = None
    ) -> None:
        self.parts: dict[str, list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and (part := _part(name)) is not None:
                self.parts.setdefault(part, []).append(parameter)
        self.gradients, self.silent = gradients, silent
        self.without = dict.fromkeys(self.parts, 0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.gradients:
            return
        norms = {part: _norm(parameters) for part, parameters in self.parts.items()}
        for part, norm in norms.items():
            if not math.isfinite(norm):
                raise Stopped(
                    f"step {state.global_step + 1}: the gradient of {PARTS[part]} is not a number; use a lower "
                    "learning_rate or a longer warm-up (warmup_steps), or bf16 false"
                )
        if self.silent is not None and not any(norms.values()) and self.silent():
            return
        for part, norm in norms.items():
            self.without[part] = self.without[part] + 1 if norm == 0 else 0
            if self.without[part] >= STEPS_WITHOUT_GRADIENT:
                raise Stopped(
                    f"step {state.global_step + 1}: no gradient has reached {PARTS[part]} for "
                    f"{STEPS_WITHOUT_GRADIENT} steps; it would learn nothing"
                )


def check_loss(loss: torch.Tensor, step: int) -> None:
    """Stop at a loss that is not a number, which transformers would leave out of its averages in silence.

    Raises:
        Stopped: naming the step.
    """
    if not bool(torch.isfinite(loss)):
        raise Stopped(
            f"step {step}: the loss is {float(loss)}; use a lower learning_rate, a longer warm-up (warmup_steps) or bf16 "
            "false, and look at the rows' votes"
        )


def _part(name: str) -> str | None:
    if "ear" in name.split("."):
        return "ear"
    return "adapter" if ".lora_" in name else None


def _norm(parameters: list[torch.nn.Parameter]) -> float:
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return float(torch.stack(torch._foreach_norm(found)).float().norm()) if found else 0.0
