from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts.base import append_completions
from shala_audio.models.readouts.slots import from_percent, to_digits
from shala_audio.models.readouts.verbalized import parse_answer
from tests.tiny import random_features, tiny_model


def make_batch(model, comments=("oh", "a longer comment")):
    builder = PromptBuilder(model)
    return builder.batch([builder.prompt({"comment": comment}, None) for comment in comments])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda x: sum(x) > 0.1))
def test_digits_state_the_distribution_to_a_per_cent(mass):
    p = torch.tensor([mass]) / sum(mass)
    digits = to_digits(p)
    stated = from_percent((10 * digits[..., 0] + digits[..., 1]).float())
    assert (stated - p).abs().max() <= 0.02 * len(mass)


def test_the_text_reads_as_an_answer(tiny_lm):
    model = tiny_model(tiny_lm, readout="slots")
    readout = model.readout
    text = model.tokenizer.decode(readout.completion(to_digits(torch.tensor([[0.5, 0.07, 0.43]])))[0])
    assert text == '{"anger": 50, "disgust": 07, "disapproval": 43}<|im_end|>'
    assert parse_answer(text.removesuffix("<|im_end|>"), model.task.label_names).tolist() == pytest.approx(
        [0.5, 0.07, 0.43]
    )
    assert readout.drawn.sum() == 6


def test_slots_follow_the_log_probabilities(tiny_lm):
    """The cached path and one whole forward pass agree on every digit's probability; noise chooses by its place in them."""
    model = tiny_model(tiny_lm, readout="slots").eval()
    readout = model.readout
    batch = make_batch(model)
    noise = torch.rand(3, 3, 2, generator=torch.Generator().manual_seed(0))
    digits, expected = readout.fill(batch, 3, noise=noise)
    rollouts = {name: value.repeat_interleave(3, dim=0) for name, value in batch.items()}
    with torch.no_grad():
        log_probs, _ = readout.digit_log_probs(append_completions(rollouts, readout.completion(digits)))
    below = (log_probs.exp().cumsum(dim=-1) <= noise.flatten(1).repeat(2, 1)[..., None]).sum(dim=-1)
    assert torch.equal(below.clamp(max=9), digits.flatten(1))
    mean = (log_probs.exp() * torch.arange(10.0)).sum(dim=-1).reshape(6, 3, 2)
    torch.testing.assert_close(expected, 10 * mean[..., 0] + mean[..., 1], atol=1e-3, rtol=1e-3)


def test_a_prediction_is_the_mean_of_answers_and_always_the_same(tiny_lm):
    model = tiny_model(tiny_lm, readout="slots").eval()
    readout = model.readout
    batch = make_batch(model)
    torch.manual_seed(1)
    first = readout.predict(batch).probs
    torch.manual_seed(2)
    assert np.array_equal(readout.predict(batch).probs, first)
    assert first.sum(axis=1).tolist() == pytest.approx([1, 1])
    _, expected = readout.fill(batch, 1000)
    endless = from_percent(expected).view(2, 1000, 3).mean(dim=1)
    assert np.abs(first - endless.numpy()).max() < 0.05, "a few well spread answers stand for many"


def test_rollouts_follow_their_own_probabilities(tiny_lm, tiny_encoder):
    model = tiny_model(tiny_lm, tiny_encoder, readout="slots").eval()
    readout = model.readout
    builder = PromptBuilder(model)
    features = random_features(2)
    batch = builder.batch([builder.prompt({}, clip.shape[1]) for clip in features], features)
    torch.manual_seed(0)
    digits, _ = readout.fill(batch, 400)
    assert digits.shape == (800, 3, 2)
    with torch.no_grad():
        completion = readout.completion(digits[[0, 400]])
        log_probs, _ = readout.digit_log_probs(append_completions(batch, completion))
    for row in range(2):
        share = torch.bincount(digits[400 * row : 400 * (row + 1), 0, 0], minlength=10) / 400
        assert (share - log_probs[row, 0].exp()).abs().max() < 0.09


def test_saying_nothing_is_uniform():
    assert from_percent(torch.zeros(1, 4)).tolist() == [[0.25] * 4]


@pytest.mark.parametrize("speech", [False, True])
def test_a_shared_prompt_changes_neither_values_nor_gradients(tiny_lm, tiny_encoder, speech):
    """Answers in any order, of prompts of different lengths, two of which read alike but sound different."""
    model = tiny_model(tiny_lm, tiny_encoder if speech else None, readout="slots")
    readout = model.readout
    builder = PromptBuilder(model)
    if speech:
        features = random_features(3, [9, 9, 20])
        batch = builder.batch([builder.prompt({}, clip.shape[1]) for clip in features], features)
    else:
        batch = builder.batch([builder.prompt({"comment": text}, None) for text in ("a", "b", "much longer")])
    rows = torch.tensor([2, 0, 1, 1, 2, 0, 2])
    digits = torch.randint(10, (7, 3, 2), generator=torch.Generator().manual_seed(0))
    answers = append_completions({name: value[rows] for name, value in batch.items()}, readout.completion(digits))
    weights = torch.randn(7, 6, 10, generator=torch.Generator().manual_seed(1))
    found = {}
    for name, shared in (("plain", None), ("shared", rows + 40)):
        model.zero_grad()
        log_probs, _ = readout.digit_log_probs(answers, rows=shared)
        (weights * log_probs).sum().backward()
        gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        found[name] = log_probs.detach(), gradients
    torch.testing.assert_close(found["shared"][0], found["plain"][0], atol=1e-5, rtol=1e-5)
    assert found["shared"][1].keys() == found["plain"][1].keys()
    for key, gradient in found["plain"][1].items():
        torch.testing.assert_close(found["shared"][1][key], gradient, atol=1e-4, rtol=1e-3, msg=key)
