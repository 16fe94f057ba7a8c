"""What every readout can do: state a distribution, learn one from people, and, if it draws answers, draw them.

A readout belongs to one model and knows the text that it adds to a prompt. Trainers and `Predictor` call the methods below,
and never ask which readout they have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shala_audio.distribution import Floats
from shala_audio.errors import Stopped

if TYPE_CHECKING:
    from shala_audio.models.speech_lm import SpeechLM


class Prediction(NamedTuple):
    """Of B rows.

    Attributes:
        probs: (B, K) float64; every row sums to 1.
        attributes: of every row, by name; empty where the model predicts none.
        unparsed: how many written answers state no distribution, and count as no opinion (uniform).
        states: (B, D) float32, the language model's last state of each prompt, where the readout has computed it.
    """

    probs: Floats
    attributes: list[dict[str, float]]
    unparsed: int = 0
    states: np.ndarray | None = None


class Rollouts(NamedTuple):
    """Drawn answers to B prompts, G neighbours for each.

    Attributes:
        completions: tokens of each answer.
        drawn: for each of these tokens, 1 where it was drawn and 0 where it is forced.
        stated: (B · G, K) what each answer states, where that does not follow from its tokens alone.
    """

    completions: list[list[int]]
    drawn: list[list[int]]
    stated: Floats | None = None


class Readout(ABC):
    """How a policy states a distribution over a task's K labels.

    Attributes:
        name: by which a configuration chooses it.
        is_direct: whether log-probabilities of the labels follow from one forward pass (`log_probs`).
        writes_freely: whether an answer is any text, which generation draws; else `rollouts` draws it.
        thinks: whether what is drawn is a thought, after which `log_probs` has the labels' log-probabilities.
    """

    name: ClassVar[str]
    is_direct: ClassVar[bool] = False
    writes_freely: ClassVar[bool] = False
    thinks: ClassVar[bool] = False

    def __init__(self, model: SpeechLM) -> None:
        self.model = model

    def question(self, question: str) -> str:
        """The user's turn: a task's question, with what the readout adds to it."""
        return question

    @property
    def answer_start(self) -> str:
        """What follows the prompt before anything is read or drawn."""
        return ""

    @abstractmethod
    def write(self, p: Floats) -> str:
        """The answer that states a distribution (K,)."""

    def log_probs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of the labels, (B, K) float32, and attributes (B, A) of a model with a head for them."""
        raise NotImplementedError(f"{self.name} has no log-probabilities of labels")

    def answers(self, batch: dict[str, Any]) -> list[str] | None:
        """What is written to left-padded prompts; None of a readout that writes nothing of its own."""
        return None

    @abstractmethod
    def predict(self, batch: dict[str, Any]) -> Prediction:
        """Distributions of B left-padded prompts; `batch` holds `input_ids`, `attention_mask` and features of the sound."""

    @abstractmethod
    def supervised_losses(self, batch: dict[str, Any], human: Tensor) -> tuple[Tensor, Tensor | None]:
        """Losses (B,) of stating the human distributions (B, K), and predicted attributes (B, A) where there is a head."""

    @abstractmethod
    def stated(self, completions: Sequence[Sequence[int]]) -> Floats:
        """Distributions (n, K) that n drawn answers state, from their tokens; a row of NaN where one states none."""

    def rollouts(self, batch: dict[str, Any], group: int, temperature: float) -> Rollouts:
        """Draw `group` answers to each of B prompts, at a temperature that logits are divided by."""
        raise NotImplementedError(f"{self.name} is drawn by generation")

    def drawn_log_probs(
        self, inputs: dict[str, Any], count: int, temperature: float, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of drawn tokens, with their gradient, and entropies (in nats) of what they were drawn from.

        Args:
            inputs: `input_ids`, `attention_mask` (B, L) of prompts with their answers, and features.
            count: C, the last tokens of L that are the answers.
            temperature: of the draws.
            rows: (B,) numbers, the same for answers to the same prompt, which is computed once for all of them.

        Returns:
            Two (B, C), 0 at forced tokens.
        """
        raise NotImplementedError(f"{self.name} is drawn by generation")


def append_completions(prompt: dict[str, Any], completions: Tensor, valid: Tensor | None = None) -> dict[str, Any]:
    """A batch of prompts with completions (B, C) behind them."""
    valid = torch.ones_like(completions) if valid is None else valid
    return {
        **prompt,
        "input_ids": torch.cat([prompt["input_ids"], completions], dim=1),
        "attention_mask": torch.cat([prompt["attention_mask"], valid], dim=1),
    }


def distinct_prompts(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of numbers (B,), where each different one stands first, (P,), and which of these P each of the B is, (B,)."""
    numbers, which = torch.unique(rows, return_inverse=True)
    position = torch.arange(len(rows), device=rows.device)
    first = torch.full((len(numbers),), len(rows), device=rows.device).scatter_reduce(0, which, position, "amin")
    return first, which


def check_probs(probs: Tensor) -> Tensor:
    """The same probabilities.

    Raises:
        Stopped: they are NaN or infinite, so that nothing can be drawn from them.
    """
    if not bool(torch.isfinite(probs).all()):
        raise Stopped(
            "the model's probabilities are NaN or infinite; use a lower learning_rate, a longer warm-up (warmup_steps) or "
            "bf16 false"
        )
    return probs
