"""`verbalized`: the model writes a JSON object, label to whole per cent, and what it wrote is parsed.

This is the paper's way (arXiv 2606.05376). An answer that does not parse is worth nothing in training; in prediction it
counts as no opinion, the uniform distribution, and is reported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.models.readouts.base import Prediction, Readout, append_completions

if TYPE_CHECKING:
    from shala_audio.models.speech_lm import SpeechLM

_LABEL = r'[^"\\]{1,64}'
_NUMBER = r'("?)(\d{1,3}(?:\.\d{1,12})?)\s*%?\2'  # alone or in quotes
_PAIR = re.compile(rf'\s*"({_LABEL})"\s*:\s*{_NUMBER}\s*(,|\}})', re.ASCII)
# What begins and ends a thought in models of several families.
THOUGHTS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
    "<|START_THINKING|>": "<|END_THINKING|>",
}
_FENCE = re.compile(r"```[A-Za-z]*\n?(.*?)```", re.DOTALL)
LONGEST_ANSWER = 20_000  # characters


class Verbalized(Readout):
    """A written JSON object, greedy in prediction.

    Raises:
        UserError: no answer can hold one of the labels.
    """

    name = "verbalized"
    writes_freely = True

    def __init__(self, model: SpeechLM) -> None:
        super().__init__(model)
        if unsayable := [name for name in model.task.label_names if not can_be_stated(name)]:
            raise UserError(
                f"task {model.task.name}: readout verbalized cannot state label {unsayable[0]!r}; use label_token"
            )

    def question(self, question: str) -> str:
        return ask_for_json(question, self.model.task.label_names)

    def write(self, p: Floats) -> str:
        return write_answer(p.tolist(), self.model.task.label_names)

    def predict(self, batch: dict[str, Any]) -> Prediction:
        labels = self.model.task.label_names
        probs = parse_answers(self.answers(batch), labels)
        unparsed = np.isnan(probs[:, 0])
        probs[unparsed] = 1 / len(labels)
        return Prediction(probs, [{} for _ in probs], int(unparsed.sum()))

    @torch.no_grad()
    def answers(self, batch: dict[str, Any]) -> list[str]:
        """Greedy answers to left-padded prompts."""
        tokenizer = self.model.tokenizer
        tokens = self.model.generate(
            **batch,
            max_new_tokens=self.longest_completion(),
            do_sample=False,
        )
        completions = tokens[:, batch["input_ids"].shape[1] :]
        return tokenizer.batch_decode(completions, skip_special_tokens=True)

    def supervised_losses(self, batch: dict[str, Any], human: Tensor) -> tuple[Tensor, None]:
        """Mean cross-entropy of the answer's tokens and the end after it."""
        tokenizer = self.model.tokenizer
        answers = [self.write(people) for people in human.double().cpu().numpy()]
        tokens = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        completions, valid = pad_right([[*ids, tokenizer.eos_token_id] for ids in tokens], human.device)
        inputs = append_completions(batch, completions, valid)
        # Not by the model's own forward, which this is called by: autocast cannot be entered twice.
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state[:, -completions.shape[1] - 1 : -1]
        # Of tokens alone, and not of what fills up shorter answers: a vocabulary of logits is large.
        where = valid.bool()
        logits = self.model.logits(hidden[where]).float()
        losses = torch.zeros(valid.shape, device=logits.device)
        losses[where] = torch.nn.functional.cross_entropy(logits, completions[where], reduction="none")
        return losses.sum(dim=1) / valid.sum(dim=1), None

    def stated(self, completions: Sequence[Sequence[int]]) -> Floats:
        labels = self.model.task.label_names
        return parse_answers(self.model.tokenizer.batch_decode(completions, skip_special_tokens=True), labels)

    @cached_property
    def digit_ids(self) -> Tensor:
        """(10,) tokens of the digits.

        Raises:
            UserError: the tokenizer has not one for each, or puts several into one.
        """
        tokens = [self.model.tokenizer(str(digit), add_special_tokens=False)["input_ids"][-1:] for digit in range(10)]
        together = self.model.tokenizer("0123456789", add_special_tokens=False)["input_ids"]
        if together[-10:] != [token for one in tokens for token in one] or len({*together[-10:]}) != 10:
            raise UserError("advantage all_digits: this tokenizer has no token for each digit; use advantage group")
        return torch.tensor(together[-10:])

    def every_digit(self, completions: Sequence[Sequence[int]]) -> tuple[list[tuple[int, int]], Floats]:
        """Where the digits of valid answers stand, as (answer, place), P of them; and the distributions (P, 10, K) that the
        answers state with each of the ten digits there, NaN where with that they state none."""
        digits = self.digit_ids.tolist()
        valid = ~np.isnan(self.stated(completions)[:, 0])
        places = [
            (number, place)
            for number, tokens in enumerate(completions)
            for place, token in enumerate(tokens)
            if valid[number] and token in digits
        ]
        others = [
            [*completions[number][:place], digit, *completions[number][place + 1 :]]
            for number, place in places
            for digit in digits
        ]
        labels = len(self.model.task.labels)
        return places, self.stated(others).reshape(-1, 10, labels) if others else np.empty((0, 10, labels))

    def digit_log_probs(self, batch: dict[str, Any], places: Tensor, temperature: float) -> Tensor:
        """(P, 10) log-probabilities among the ten digits at places (B, C) of completions that end B rows."""
        hidden = self.model.model(**batch, use_cache=False).last_hidden_state[:, -places.shape[1] - 1 : -1]
        logits = self.model.token_logits(hidden[places], self.digit_ids.to(places.device))
        return (logits / temperature).log_softmax(dim=-1)

    def longest_completion(self) -> int:
        labels = self.model.task.label_names
        longest = ",\n".join(f'    "{label}": "100.0%"' for label in labels)  # as wide as people lay JSON out
        fenced = f"```json\n{{\n{longest}\n}}\n```"
        return len(self.model.tokenizer(fenced, add_special_tokens=False)["input_ids"]) + 8


def ask_for_json(question: str, labels: Sequence[str]) -> str:
    """A question whose answer is to be a distribution in JSON."""
    return f"{question}\nAnswer in JSON with the per cent of people who would choose each of: {', '.join(labels)}."


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token lists to (B, C) tokens and (B, C) mask, padded with 0 on the right."""
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return tokens.to(device), mask.to(device)


def can_be_stated(label: str) -> bool:
    """Whether an answer can hold a label: at most 64 characters, no quote and no backslash.

    >>> can_be_stated("joy"), can_be_stated('say "joy"')
    (True, False)
    """
    return re.fullmatch(_LABEL, label) is not None


def write_answer(p: Sequence[float], labels: Sequence[str]) -> str:
    """The answer that states a distribution.

    >>> write_answer([0.25, 0.75], ["a", "b"])
    '{"a": 25, "b": 75}'
    """
    pairs = ", ".join(f'"{label}": {round(100 * share)}' for label, share in zip(labels, p, strict=True))
    return "{" + pairs + "}"


def parse_answers(answers: Sequence[str], labels: Sequence[str]) -> Floats:
    """The distributions (n, K) that answers state; a row of NaN where one states none."""
    parsed = [parse_answer(answer, labels) for answer in answers]
    return np.stack([np.full(len(labels), np.nan) if answer is None else answer for answer in parsed])


def parse_answer(answer: str, labels: Sequence[str]) -> Floats | None:
    """The distribution (K,) that an answer states, or None where it states none.

    Valid is: one object of label and number pairs, after it nothing but space; every label known and named once, in capitals
    or not, with space around it or not; labels that are not named count as 0; the sum is above 0. Numbers need not sum to 100:
    they are normalised. The object may stand in a code fence, with words around that, and after a thought that has ended.

    >>> parse_answer('{"a": 30, "b": 10}', ["a", "b"]).tolist()
    [0.75, 0.25]
    >>> parse_answer('{" a": "75%", "b": 25}', ["a", "b"]).tolist()
    [0.75, 0.25]
    >>> parse_answer('<think>Hm.</think> ```json\\n{"A": 30, "b": 10}\\n```', ["a", "b"]).tolist()
    [0.75, 0.25]
    >>> parse_answer('{"a": 30, "a": 10}', ["a", "b"]) is None
    True
    """
    for end in THOUGHTS.values():
        answer = answer.rpartition(end)[2]
    answer = answer.strip()
    if len(fenced := _FENCE.findall(answer)) == 1:
        answer = fenced[0].strip()
    if not answer.startswith("{") or len(answer) > LONGEST_ANSWER:
        return None
    folded = [label.strip().casefold() for label in labels]
    known = {low: label for low, label in zip(folded, labels, strict=True) if folded.count(low) == 1}
    known |= {label.strip(): label for label in labels}
    values: dict[str, float] = {}
    position, closed = 1, False
    while match := _PAIR.match(answer, position):
        said, _, number, end = match.groups()
        said = said.strip()
        label = known.get(said, known.get(said.casefold(), ""))
        if not label or label in values:
            return None
        values[label] = float(number)
        position = match.end()
        if closed := end == "}":
            break
    total = sum(values.values())
    if not closed or position != len(answer) or total <= 0:
        return None
    return np.array([values.get(label, 0.0) for label in labels]) / total
