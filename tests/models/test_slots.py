from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts.slots import digit_log_probs, fill_slots, from_percent, slot_template, to_digits
from shala_audio.models.readouts.verbalized import parse_answer
from shala_audio.training.warm_start import append_completions
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
    template = slot_template(model)
    text = model.tokenizer.decode(template.completion(to_digits(torch.tensor([[0.5, 0.07, 0.43]])))[0])
    assert text == '{"anger": 50, "disgust": 07, "disapproval": 43}<|im_end|>'
    assert parse_answer(text.removesuffix("<|im_end|>"), model.task.label_names).tolist() == pytest.approx(
        [0.5, 0.07, 0.43]
    )
    assert template.sampled().sum() == 6


def test_greedy_slots_follow_the_log_probabilities(tiny_lm):
    """The cached path and one whole forward pass agree on every digit's probability."""
    model = tiny_model(tiny_lm, readout="slots").eval()
    template = slot_template(model)
    batch = make_batch(model)
    digits, expected = fill_slots(model, template, batch, 1, None)
    with torch.no_grad():
        log_probs, _ = digit_log_probs(model, template, append_completions(batch, template.completion(digits)))
    assert torch.equal(log_probs.argmax(dim=-1), digits.flatten(1))
    mean = (log_probs.exp() * torch.arange(10.0)).sum(dim=-1).reshape(2, 3, 2)
    torch.testing.assert_close(expected, 10 * mean[..., 0] + mean[..., 1], atol=1e-3, rtol=1e-3)


def test_rollouts_follow_their_own_probabilities(tiny_lm, tiny_encoder):
    model = tiny_model(tiny_lm, tiny_encoder, readout="slots").eval()
    template = slot_template(model)
    builder = PromptBuilder(model)
    features = random_features(2)
    batch = builder.batch([builder.prompt({}, clip.shape[1]) for clip in features], features)
    torch.manual_seed(0)
    digits, _ = fill_slots(model, template, batch, 400, 1.0)
    assert digits.shape == (800, 3, 2)
    with torch.no_grad():
        completion = template.completion(digits[[0, 400]])
        log_probs, _ = digit_log_probs(model, template, append_completions(batch, completion))
    for row in range(2):
        share = torch.bincount(digits[400 * row : 400 * (row + 1), 0, 0], minlength=10) / 400
        assert (share - log_probs[row, 0].exp()).abs().max() < 0.09


def test_saying_nothing_is_uniform():
    assert from_percent(torch.zeros(1, 4)).tolist() == [[0.25] * 4]
