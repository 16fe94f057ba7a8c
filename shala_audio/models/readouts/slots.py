"""`slots`: the model fills two digits for every label into a fixed text; everything else is forced.

The text is `{"anger": 67, "disgust": 05, ...}`: whole per cent with a leading zero, 99 at most; what the digits say is
then normalised, so every answer is valid. The prompt, with what is forced before the first digit, is computed once for a
group of rollouts; another forced piece goes through in one pass together with the digit before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    Raises:
        UserError: the tokenizer writes a digit with more than one token.
    """

    name = "slots"

    def __init__(self, model: SpeechLM) -> None:
        super().__init__(model)
        self.template = slot_template(model)

    def question(self, question: str) -> str:
        return ask_for_json(question, self.model.task.label_names)

    def write(self, p: Floats) -> str:
        return write_slots(p.tolist(), self.model.task.label_names)

    def predict(self, batch: dict[str, Any]) -> Prediction:
        probs = slot_distributions(self.model, self.template, batch).cpu().double().numpy()
        return Prediction(probs / probs.sum(axis=1, keepdims=True), [{} for _ in probs])

    def supervised_losses(self, batch: dict[str, Any], human: Tensor) -> tuple[Tensor, None]:
        """Mean cross-entropy of the digits that state the human distribution."""
        digits = to_digits(human)
        inputs = append_completions(batch, self.template.completion(digits))
        log_probs, _ = digit_log_probs(self.model, self.template, inputs)
        return -log_probs.gather(2, digits.flatten(1)[..., None]).mean(dim=(1, 2)), None

    def longest_completion(self) -> int:
        return len(self.template.sampled())

    def rollouts(self, batch: dict[str, Any], group: int, temperature: float) -> Rollouts:
        digits, _ = fill_slots(self.model, self.template, batch, group, temperature)
        completions = self.template.completion(digits).tolist()
        return Rollouts(completions, [self.template.sampled().long().tolist()] * len(completions))

    def drawn_log_probs(
        self, inputs: dict[str, Any], count: int, temperature: float, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Among the ten digits, as they were drawn."""
        ids = inputs["input_ids"]
        log_probs, positions = digit_log_probs(self.model, self.template, inputs, temperature, rows)
        positions = positions.to(ids.device)
        tokens = ids[:, -count:][:, positions]
        chosen = (tokens[..., None] == self.template.digit_ids.to(ids.device)).float()
        logps = log_probs.new_zeros(len(ids), count)
        entropies = torch.zeros_like(logps)
        entropies[:, positions] = -(log_probs.exp() * log_probs).sum(dim=-1).detach()
        return logps.index_copy(1, positions, (log_probs * chosen).sum(dim=-1)), entropies

    def digits(self, completions: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """(B, K, 2) the digits that answers hold."""
        tokens = np.array([list(one[: self.longest_completion()]) for one in completions])
        drawn = tokens[:, self.template.sampled().numpy()]
        found: NDArray[np.int64] = (drawn[..., None] == self.template.digit_ids.numpy()).argmax(axis=-1)
        return found.reshape(len(tokens), -1, 2)

    def stated(self, completions: Sequence[Sequence[int]]) -> Floats:
        """All zeros are uniform, as in prediction."""
        return from_percent(torch.tensor(self.digits(completions) @ [10, 1], dtype=torch.float64)).numpy()


@dataclass(frozen=True)
class SlotTemplate:
    """The forced text of a task in tokens.

    Attributes:
        pieces: K + 1 pieces of forced tokens: before each label's two digits, and the end.
        digit_ids: (10,) tokens of the digits 0 to 9.
    """

    pieces: tuple[tuple[int, ...], ...]
    digit_ids: Tensor

    @property
    def labels(self) -> int:
        return len(self.pieces) - 1

    def sampled(self) -> Tensor:
        """(C,) bool over the completion: True where a digit is sampled."""
        flags: list[bool] = []
        for piece in self.pieces[:-1]:
            flags += [False] * len(piece) + [True, True]
        return torch.tensor(flags + [False] * len(self.pieces[-1]))

    def completion(self, digits: Tensor) -> Tensor:
        """Tokens (B, C) of digits (B, K, 2)."""
        tokens = self.digit_ids.to(digits.device)[digits]
        parts: list[Tensor] = []
        for index, piece in enumerate(self.pieces):
            parts.append(torch.tensor(piece, device=digits.device).expand(len(digits), -1))
            if index < self.labels:
                parts.append(tokens[:, index])
        return torch.cat(parts, dim=1)


def slot_template(model: SpeechLM) -> SlotTemplate:
    """The template of a model's task.

    Raises:
        UserError: the tokenizer writes a digit with more than one token.
    """

    def tokens(text: str) -> tuple[int, ...]:
        return tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])

    digits = [tokens(str(digit)) for digit in range(10)]
    if any(len(digit) != 1 for digit in digits):
        raise UserError(f"lm {model.model_config.lm}: a digit is not one token; use another readout than slots")
    names = model.task.label_names
    pieces = [tokens(('{"' if index == 0 else ', "') + name + '": ') for index, name in enumerate(names)]
    pieces.append((*tokens("}"), model.tokenizer.eos_token_id))
    return SlotTemplate(tuple(pieces), torch.tensor([digit[0] for digit in digits]))


def to_digits(p: Tensor) -> Tensor:
    """Distributions (B, K) to the two digits of their whole per cent (B, K, 2), 99 at most.

    >>> to_digits(torch.tensor([[0.07, 0.93], [0.0, 1.0]])).tolist()
    [[[0, 7], [9, 3]], [[0, 0], [9, 9]]]
    """
    percent = (p * 100).round().long().clamp(0, 99)
    return torch.stack([percent // 10, percent % 10], dim=-1)


def write_slots(p: Sequence[float], labels: Sequence[str]) -> str:
    """The filled text that states a distribution.

    >>> write_slots([0.07, 0.93], ["a", "b"])
    '{"a": 07, "b": 93}'
    """
    digits = to_digits(torch.tensor([list(p)]))[0].tolist()
    pairs = ", ".join(f'"{label}": {tens}{units}' for label, (tens, units) in zip(labels, digits, strict=True))
    return "{" + pairs + "}"


def from_percent(percent: Tensor) -> Tensor:
    """Non-negative numbers (..., K) to distributions; all zero means nothing was said: uniform."""
    total = percent.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, percent / total.clamp(min=1e-9), 1 / percent.shape[-1])


@torch.no_grad()
def fill_slots(
    model: SpeechLM,
    template: SlotTemplate,
    batch: dict[str, Any],
    generations: int,
    temperature: float = 1.0,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample the digits of every prompt's slots.

    Args:
        model: the policy.
        template: `slot_template(model)`.
        batch: B left-padded prompts, with features where the task has sound.
        generations: G rollouts of each prompt, which share its pass.
        temperature: what logits are divided by.
        noise: (G, K, 2) in [0, 1), where in the ten digits' summed probabilities each choice falls; drawn anew where None.
            The same noise gives a prompt the same digits, whatever stands beside it.

    Returns:
        Digits (B · G, K, 2), rollouts of one prompt next to each other, and the numbers that the digits' probabilities
        expect along the way, (B · G, K) in [0, 99].
    """
    batch = dict(batch)
    ids, mask = batch.pop("input_ids"), batch.pop("attention_mask")
    digit_ids = template.digit_ids.to(ids.device)
    begin = torch.tensor(template.pieces[0], device=ids.device).expand(len(ids), -1)
    ids, mask = torch.cat([ids, begin], dim=1), torch.cat([mask, mask.new_ones(begin.shape)], dim=1)
    first = model.model(input_ids=ids, attention_mask=mask, use_cache=True, **batch)
    cache = first.past_key_values
    if generations > 1:
        cache.batch_repeat_interleave(generations)
    rows = len(ids) * generations
    mask = mask.repeat_interleave(generations, dim=0)
    values = torch.arange(10, device=ids.device, dtype=torch.float32)

    def feed(tokens: Tensor) -> Tensor:
        """Probabilities (rows, 10) of the digit after `tokens` (rows, n)."""
        nonlocal mask
        mask = torch.cat([mask, mask.new_ones(tokens.shape)], dim=1)
        outputs = model.model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True)
        return choices(outputs.last_hidden_state[:, -1])

    def choices(hidden: Tensor) -> Tensor:
        """Probabilities (rows, 10) of the next digit."""
        return (model.token_logits(hidden, digit_ids) / temperature).softmax(dim=-1)

    def choose(probs: Tensor, label: int, place: int) -> Tensor:
        if noise is None:
            return torch.multinomial(check_probs(probs) if label == place == 0 else probs, 1).squeeze(1)
        at = noise[:, label, place].to(probs).repeat(len(ids))[:, None]
        return (probs.cumsum(dim=-1)[:, :9] <= at).sum(dim=-1)  # the last digit takes what rounding leaves

    digits, expected = [], []
    tens_probs = choices(first.last_hidden_state[:, -1]).repeat_interleave(generations, dim=0)
    for label in range(template.labels):
        tens = choose(tens_probs, label, 0)
        units_probs = feed(digit_ids[tens][:, None])
        units = choose(units_probs, label, 1)
        digits.append(torch.stack([tens, units], dim=1))
        expected.append((10 * tens_probs * values + units_probs * values).sum(dim=1))
        if label + 1 < template.labels:
            forced = torch.tensor(template.pieces[label + 1], device=ids.device).expand(rows, -1)
            tens_probs = feed(torch.cat([digit_ids[units][:, None], forced], dim=1))
    return torch.stack(digits, dim=1), torch.stack(expected, dim=1)


def slot_distributions(model: SpeechLM, template: SlotTemplate, batch: dict[str, Any]) -> Tensor:
    """(B, K) the distribution that the policy states: the mean over `READINGS` answers to each prompt.

    One answer, even the likeliest, is a draw from what the policy deems possible. Along each of a few sampled answers, the
    numbers that its digits' probabilities expect are normalised, and these distributions averaged. The noise is a fixed Sobol
    sequence, so that a row's prediction is always the same, and does not depend on its neighbours.
    """
    sobol = torch.quasirandom.SobolEngine(2 * template.labels, scramble=True, seed=0)
    noise = sobol.draw(READINGS).view(READINGS, template.labels, 2)
    _, expected = fill_slots(model, template, batch, READINGS, noise=noise)
    return from_percent(expected).view(-1, READINGS, template.labels).mean(dim=1)


def digit_log_probs(
    model: SpeechLM,
    template: SlotTemplate,
    inputs: dict[str, Any],
    temperature: float = 1.0,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all ten digits where one is drawn, (B, 2 K, 10) float32, and these token positions, (2 K,).

    Args:
        inputs: `input_ids`, `attention_mask` (B, prompt + C) whose completions follow the template, and features.
        temperature: what logits are divided by.
        rows: (B,) numbers, the same for answers to the same prompt, which is then computed once, with its gradient; None
            computes every prompt with its answer.
    """
    sampled = template.sampled()
    positions_drawn = sampled.nonzero().squeeze(1)
    inputs = dict(inputs)
    # A token is predicted by the position before it.
    if rows is None or not model.model.shares_prompts():
        hidden = model.model(**inputs, use_cache=False).last_hidden_state
        hidden = hidden[:, hidden.shape[1] - len(sampled) + positions_drawn - 1]
    else:
        offsets = positions_drawn - len(template.pieces[0])
        hidden = _states_of_answers(model, template, inputs, rows)[:, offsets]
    logits = model.token_logits(hidden, template.digit_ids.to(hidden.device))
    return (logits / temperature).log_softmax(dim=-1), positions_drawn


def _states_of_answers(model: SpeechLM, template: SlotTemplate, inputs: dict[str, Any], rows: Tensor) -> Tensor:
    """Hidden states (B, C', D) from before the first digit to before the last one; answers to the same prompt, which begin
    alike, share the pass up to there."""
    ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    count, end = len(template.sampled()), len(template.pieces[-1]) + 1
    start, stop = ids.shape[1] - count + len(template.pieces[0]), ids.shape[1] - end
    first, which = distinct_prompts(rows)
    prompts = model.model(
        input_ids=ids[first, :start],
        attention_mask=mask[first, :start],
        use_cache=True,
        **{name: tensor[first] for name, tensor in inputs.items()},
    )
    cache = prompts.past_key_values
    for layer in cache.layers:
        # The cache's own `keys[which]` adds its gradients up, on CPUs, in an order that changes from run to run.
        layer.keys, layer.values = layer.keys.index_select(0, which), layer.values.index_select(0, which)
    answers = model.model(
        input_ids=ids[:, start:stop],
        attention_mask=mask[:, :stop],
        past_key_values=cache,
        use_cache=True,
    )
    last = prompts.last_hidden_state[:, -1:].index_select(0, which)
    return torch.cat([last, answers.last_hidden_state], dim=1)
