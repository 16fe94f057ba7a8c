"""What a model says of a batch, whichever way it says it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from shala_audio.models.readouts.label_token import LabelTree, label_states, label_tree, tree_answers
from shala_audio.models.readouts.slots import SlotTemplate, slot_distributions, slot_template
from shala_audio.models.readouts.verbalized import parse_answer, write_answers
from shala_audio.models.speech_lm import SpeechLM


class Answers(NamedTuple):
    """Of B rows.

    Attributes:
        probs: (B, K) float64; every row sums to 1.
        attributes: of every row, by name; empty where the model states none.
        unparsed: how many `verbalized` answers state no distribution, and count as no opinion (uniform).
        states: (B, D) float32, the language model's last state of each prompt, where the readout has computed it.
    """

    probs: np.ndarray
    attributes: list[dict[str, float]]
    unparsed: int
    states: np.ndarray | None


def answer_form(model: SpeechLM) -> LabelTree | SlotTemplate | None:
    """What all answers of a model have in common: the tree of its label words, the text with slots, or nothing."""
    if model.readout == "label_token":
        return label_tree(model)
    return slot_template(model) if model.readout == "slots" else None


def read_out(model: SpeechLM, form: LabelTree | SlotTemplate | None, batch: dict[str, Any]) -> Answers:
    """The answers to a batch (B, L) of prompts, by the model's readout; `form` is its `answer_form`."""
    attributes: list[dict[str, float]] = [{} for _ in batch["input_ids"]]
    unparsed, states = 0, None
    if isinstance(form, LabelTree):
        hidden = label_states(model, form, batch)
        log_probs, stated = tree_answers(model, form, hidden)
        probs, states = log_probs.exp().cpu().double().numpy(), hidden[:, 0].float().cpu().numpy()
        if stated is not None:
            names = [attribute.name for attribute in model.task.attributes]
            attributes = [dict(zip(names, values, strict=True)) for values in stated.tolist()]
    elif isinstance(form, SlotTemplate):
        probs = slot_distributions(model, form, batch).cpu().double().numpy()
    else:
        parsed = [parse_answer(answer, model.task.label_names) for answer in write_answers(model, batch)]
        unparsed = sum(answer is None for answer in parsed)
        uniform = np.full(len(model.task.labels), 1 / len(model.task.labels))
        probs = np.stack([uniform if answer is None else answer for answer in parsed])
    return Answers(probs / probs.sum(axis=1, keepdims=True), attributes, unparsed, states)
