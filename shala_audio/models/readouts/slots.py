"""`slots`: the model fills two digits for every label into a fixed text; everything else is forced.

The text is `{"anger": 67, "disgust": 05, ...}`: whole per cent with a leading zero, 99 at most; what the digits say is
then normalised, so every answer is valid. The prompt, with what is forced before the first digit, is computed once for a
group of rollouts; another forced piece goes through in one pass together with the digit before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.models.readouts.base import (
    Prediction,
    Readout,
    Rollouts,
    append_completions,
    check_probs,
    distinct_prompts,
)
from shala_audio.models.readouts.verbalized import ask_for_json

if TYPE_CHECKING:
    from shala_audio.models.speech_lm import SpeechLM

READINGS = 4  # answers whose mean is a prediction


class Slots(Readout):
    """Two digits for each label, in a forced text.

    Attributes:
        pieces: K + 1 pieces of forced tokens: before each label's two digits, and the end.
        digit_ids: (10,) tokens of the digits 0 to 9.
        drawn: (C,) bool over an answer: True where a digit is drawn.

    Raises:
        UserError: the tokenizer writes a digit with more than one token.
    """

    name = "slots"

    def __init__(self, model: SpeechLM) -> None:
        super().__init__(model)

        def tokens(text: str) -> tuple[int, ...]:
            return tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])

        digits = [tokens(str(digit)) for digit in range(10)]
        if any(len(digit) != 1 for digit in digits):
            raise UserError(f"lm {model.model_config.lm}: a digit is not one token; use another readout than slots")
        self.digit_ids = torch.tensor([digit[0] for digit in digits])
        names = model.task.label_names
        self.pieces = [tokens(('{"' if index == 0 else ', "') + name + '": ') for index, name in enumerate(names)]
        self.pieces.append((*tokens("}"), model.tokenizer.eos_token_id))
        flags = [flag for piece in self.pieces for flag in (*[False] * len(piece), True, True)]
        self.drawn = torch.tensor(flags[:-2])

    def question(self, question: str) -> str:
        return ask_for_json(question, self.model.task.label_names)

    def write(self, p: Floats) -> str:
        digits = to_digits(torch.tensor(p)[None])[0].tolist()
        labels = self.model.task.label_names
        pairs = ", ".join(f'"{label}": {tens}{units}' for label, (tens, units) in zip(labels, digits, strict=True))
        return "{" + pairs + "}"

    def predict(self, batch: dict[str, Any]) -> Prediction:
        """The mean over `READINGS` answers to each prompt.

        One answer, even the likeliest, is a draw from what the policy deems possible. Along each of a few sampled answers, the
        numbers that its digits' probabilities expect are normalised, and these distributions averaged. The noise is a fixed
        Sobol sequence, so that a row's prediction is always the same, and does not depend on its neighbours.
        """
        labels = len(self.pieces) - 1
        sobol = torch.quasirandom.SobolEngine(2 * labels, scramble=True, seed=0)
        _, expected = self.fill(batch, READINGS, noise=sobol.draw(READINGS).view(READINGS, labels, 2))
        probs = from_percent(expected).view(-1, READINGS, labels).mean(dim=1).cpu().double().numpy()
        return Prediction(probs / probs.sum(axis=1, keepdims=True), [{} for _ in probs])

    def supervised_losses(self, batch: dict[str, Any], human: Tensor) -> tuple[Tensor, None]:
        """Mean cross-entropy of the digits that state the human distribution."""
        digits = to_digits(human)
        log_probs, _ = self.digit_log_probs(append_completions(batch, self.completion(digits)))
        return -log_probs.gather(2, digits.flatten(1)[..., None]).mean(dim=(1, 2)), None

    def rollouts(self, batch: dict[str, Any], group: int, temperature: float) -> Rollouts:
        digits, _ = self.fill(batch, group, temperature)
        completions = self.completion(digits).tolist()
        return Rollouts(completions, [self.drawn.long().tolist()] * len(completions))

    def drawn_log_probs(
        self, inputs: dict[str, Any], count: int, temperature: float, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Among the ten digits, as they were drawn."""
        ids = inputs["input_ids"]
        log_probs, positions = self.digit_log_probs(inputs, temperature, rows)
        positions = positions.to(ids.device)
        tokens = ids[:, -count:][:, positions]
        chosen = (tokens[..., None] == self.digit_ids.to(ids.device)).float()
        logps = log_probs.new_zeros(len(ids), count)
        entropies = torch.zeros_like(logps)
        entropies[:, positions] = -(log_probs.exp() * log_probs).sum(dim=-1).detach()
        return logps.index_copy(1, positions, (log_probs * chosen).sum(dim=-1)), entropies

    def digits(self, completions: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """(B, K, 2) the digits that answers hold."""
        tokens = np.array([list(one[: len(self.drawn)]) for one in completions])
        found: NDArray[np.int64] = (tokens[:, self.drawn.numpy(), None] == self.digit_ids.numpy()).argmax(axis=-1)
        return found.reshape(len(tokens), -1, 2)

    def stated(self, completions: Sequence[Sequence[int]]) -> Floats:
        """All zeros are uniform, as in prediction."""
        return from_percent(torch.tensor(self.digits(completions) @ [10, 1], dtype=torch.float64)).numpy()

    def completion(self, digits: Tensor) -> Tensor:
        """Tokens (B, C) of digits (B, K, 2)."""
        tokens = self.digit_ids.to(digits.device)[digits]
        parts: list[Tensor] = []
        for index, piece in enumerate(self.pieces):
            parts.append(torch.tensor(piece, device=digits.device).expand(len(digits), -1))
            parts.append(tokens[:, index : index + 1].flatten(1))  # none behind the last
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def fill(
        self, batch: dict[str, Any], group: int, temperature: float = 1.0, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sample the digits of every prompt's slots.

        Args:
            batch: B left-padded prompts, with features where the task has sound.
            group: G rollouts of each prompt, which share its pass.
            temperature: what logits are divided by.
            noise: (G, K, 2) in [0, 1), where in the ten digits' summed probabilities each choice falls; drawn anew where None.
                The same noise gives a prompt the same digits, whatever stands beside it.

        Returns:
            Digits (B · G, K, 2), rollouts of one prompt next to each other. And the numbers that the digits' probabilities
            expect along the way, (B · G, K) in [0, 99].
        """
        batch, model = dict(batch), self.model
        ids, mask = batch.pop("input_ids"), batch.pop("attention_mask")
        digit_ids = self.digit_ids.to(ids.device)
        begin = torch.tensor(self.pieces[0], device=ids.device).expand(len(ids), -1)
        ids, mask = torch.cat([ids, begin], dim=1), torch.cat([mask, mask.new_ones(begin.shape)], dim=1)
        first = model.model(input_ids=ids, attention_mask=mask, use_cache=True, **batch)
        cache = first.past_key_values
        if group > 1:
            cache.batch_repeat_interleave(group)
        mask = mask.repeat_interleave(group, dim=0)
        values = torch.arange(10, device=ids.device, dtype=torch.float32)

        def feed(tokens: Tensor) -> Tensor:
            """Probabilities (B · G, 10) of the digit after `tokens` (B · G, n)."""
            nonlocal mask
            mask = torch.cat([mask, mask.new_ones(tokens.shape)], dim=1)
            outputs = model.model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True)
            return choices(outputs.last_hidden_state[:, -1])

        def choices(hidden: Tensor) -> Tensor:
            """Probabilities (B · G, 10) of the next digit."""
            return (model.token_logits(hidden, digit_ids) / temperature).softmax(dim=-1)

        def choose(probs: Tensor, label: int, place: int) -> Tensor:
            if noise is None:
                return torch.multinomial(check_probs(probs) if label == place == 0 else probs, 1).squeeze(1)
            at = noise[:, label, place].to(probs).repeat(len(ids))[:, None]
            return (probs.cumsum(dim=-1)[:, :9] <= at).sum(dim=-1)  # the last digit takes what rounding leaves

        digits, expected = [], []
        tens_probs = choices(first.last_hidden_state[:, -1]).repeat_interleave(group, dim=0)
        for label, following in enumerate(self.pieces[1:]):
            tens = choose(tens_probs, label, 0)
            units_probs = feed(digit_ids[tens][:, None])
            units = choose(units_probs, label, 1)
            digits.append(torch.stack([tens, units], dim=1))
            expected.append((10 * tens_probs * values + units_probs * values).sum(dim=1))
            if label + 2 < len(self.pieces):
                forced = torch.tensor(following, device=ids.device).expand(len(units), -1)
                tens_probs = feed(torch.cat([digit_ids[units][:, None], forced], dim=1))
        return torch.stack(digits, dim=1), torch.stack(expected, dim=1)

    def digit_log_probs(
        self, inputs: dict[str, Any], temperature: float = 1.0, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of all ten digits where one is drawn, (B, 2 K, 10) float32, and these token positions, (2 K,).

        Args:
            inputs: `input_ids`, `attention_mask` (B, prompt + C) of prompts with their answers, and features.
            temperature: what logits are divided by.
            rows: (B,) numbers, the same for answers to the same prompt, which is then computed once, with its gradient; None
                computes every prompt with its answer.
        """
        positions = self.drawn.nonzero().squeeze(1)
        # A token is predicted by the position before it.
        if rows is None or not self.model.model.shares_prompts():
            hidden = self.model.model(**inputs, use_cache=False).last_hidden_state
            hidden = hidden[:, hidden.shape[1] - len(self.drawn) + positions - 1]
        else:
            hidden = self._states_of_answers(inputs, rows)[:, positions - len(self.pieces[0])]
        logits = self.model.token_logits(hidden, self.digit_ids.to(hidden.device))
        return (logits / temperature).log_softmax(dim=-1), positions

    def _states_of_answers(self, inputs: dict[str, Any], rows: Tensor) -> Tensor:
        """Hidden states (B, C', D) from before the first digit to before the last one; answers to the same prompt, which begin
        alike, share the pass up to there."""
        inputs = dict(inputs)
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        start = ids.shape[1] - len(self.drawn) + len(self.pieces[0])
        stop = ids.shape[1] - len(self.pieces[-1]) - 1
        first, which = distinct_prompts(rows)
        prompts = self.model.model(
            input_ids=ids[first, :start],
            attention_mask=mask[first, :start],
            use_cache=True,
            **{name: tensor[first] for name, tensor in inputs.items()},
        )
        cache = prompts.past_key_values
        for layer in cache.layers:
            # The cache's own `keys[which]` adds its gradients up, on CPUs, in an order that changes from run to run.
            layer.keys, layer.values = layer.keys.index_select(0, which), layer.values.index_select(0, which)
        answers = self.model.model(
            input_ids=ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache, use_cache=True
        )
        last = prompts.last_hidden_state[:, -1:].index_select(0, which)
        return torch.cat([last, answers.last_hidden_state], dim=1)


def to_digits(p: Tensor) -> Tensor:
    """Distributions (B, K) to the two digits of their whole per cent (B, K, 2), 99 at most.

    >>> to_digits(torch.tensor([[0.07, 0.93], [0.0, 1.0]])).tolist()
    [[[0, 7], [9, 3]], [[0, 0], [9, 9]]]
    """
    percent = (p * 100).round().long().clamp(0, 99)
    return torch.stack([percent // 10, percent % 10], dim=-1)


def from_percent(percent: Tensor) -> Tensor:
    """Non-negative numbers (..., K) to distributions; all zero means nothing was said: uniform."""
    total = percent.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, percent / total.clamp(min=1e-9), 1 / percent.shape[-1])
