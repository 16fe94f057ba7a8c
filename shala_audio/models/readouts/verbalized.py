"""`verbalized`: the model writes a JSON object, label to whole per cent, and what it wrote is parsed.

This is the paper's way (arXiv 2606.05376). An answer that does not parse is worth nothing in training; in prediction it
counts as no opinion, the uniform distribution, and is reported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.models.speech_lm import SpeechLM

_LABEL = r'[^"\\]{1,64}'
_PAIR = re.compile(rf'\s*"({_LABEL})"\s*:\s*(\d{{1,3}}(?:\.\d{{1,6}})?)\s*%?\s*(,|\}})', re.ASCII)
LONGEST_ANSWER = 20_000  # characters


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


def parse_answer(answer: str, labels: Sequence[str]) -> Floats | None:
    """The distribution (K,) that an answer states, or None where it states none.

    Valid is: one object of label and number pairs, after it nothing but space; every label known and named once; labels
    that are not named count as 0; the sum is above 0. Numbers need not sum to 100: they are normalised.

    >>> parse_answer('{"a": 30, "b": 10}', ["a", "b"]).tolist()
    [0.75, 0.25]
    >>> parse_answer('{"a": 30, "a": 10}', ["a", "b"]) is None
    True
    """
    answer = answer.strip()
    if not answer.startswith("{") or len(answer) > LONGEST_ANSWER:
        return None
    values: dict[str, float] = {}
    position, closed = 1, False
    while match := _PAIR.match(answer, position):
        label, number, end = match.groups()
        if label not in labels or label in values:
            return None
        values[label] = float(number)
        position = match.end()
        if closed := end == "}":
            break
    total = sum(values.values())
    if not closed or position != len(answer) or total <= 0:
        return None
    return np.array([values.get(label, 0.0) for label in labels]) / total


def longest_answer(model: SpeechLM) -> int:
    """Tokens that the longest valid answer can need, and the end after it.

    Raises:
        UserError: no answer can hold one of the labels.
    """
    labels = model.task.label_names
    if unsayable := [name for name in labels if not can_be_stated(name)]:
        raise UserError(
            f"task {model.task.name}: readout verbalized cannot state label {unsayable[0]!r}; use label_token"
        )
    longest = "{" + ", ".join(f'"{label}": 100' for label in labels) + "}"
    return len(model.tokenizer(longest, add_special_tokens=False)["input_ids"]) + 8


@torch.no_grad()
def write_answers(model: SpeechLM, batch: dict[str, Any]) -> list[str]:
    """Greedy answers to left-padded prompts."""
    tokens = model.generate(
        **batch,
        max_new_tokens=longest_answer(model),
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=model.tokenizer.pad_token_id,
        eos_token_id=model.tokenizer.eos_token_id,
    )
    completions = tokens[:, batch["input_ids"].shape[1] :]
    return model.tokenizer.batch_decode(completions, skip_special_tokens=True)
