"""What every readout must do, whichever it is: the same checks of all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shala_audio.inference.predictor import Predictor
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts import READOUTS
from shala_audio.models.readouts.base import append_completions, distinct_prompts
from shala_audio.models.readouts.reasoned import Reasoned
from shala_audio.models.readouts.verbalized import pad_right
from tests.tiny import random_features, tiny_model

HUMAN = np.array([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7]])


@pytest.fixture(params=[(name, speech) for name in READOUTS for speech in (False, True)], ids=str)
def model(request, tiny_lm, tiny_encoder):
    name, speech = request.param
    return tiny_model(tiny_lm, tiny_encoder if speech else None, readout=name).eval()


def batch_of(model, clips=(9, 20), comments=("oh", "a longer comment")):
    builder = PromptBuilder(model)
    if not model.task.has_audio:
        return builder.batch([builder.prompt({"comment": comment}, None) for comment in comments])
    features = random_features(len(clips), list(clips))
    return builder.batch([builder.prompt({}, clip.shape[1]) for clip in features], features)


def drawn_from(model, group=3, temperature=0.7):
    """Inputs of a batch's answers, as a trainer has them, and the answers."""
    torch.manual_seed(0)
    batch = batch_of(model)
    with torch.no_grad():
        rollouts = model.readout.rollouts(batch, group, temperature)
    completions, valid = pad_right(rollouts.completions, torch.device("cpu"))
    inputs = append_completions(
        {name: value.repeat_interleave(group, dim=0) for name, value in batch.items()}, completions, valid
    )
    return rollouts, inputs, completions


def test_it_is_chosen_by_its_name(model):
    assert READOUTS[model.readout.name] is type(model.readout)


def test_predictions_are_distributions_and_always_the_same(model):
    with torch.no_grad():
        first, again = (model.readout.predict(batch_of(model)) for _ in range(2))
    assert first.probs.shape == (2, 3) and first.probs.sum(axis=1) == pytest.approx([1, 1]) and (first.probs >= 0).all()
    np.testing.assert_array_equal(first.probs, again.probs)
    assert len(first.attributes) == 2 and 0 <= first.unparsed <= 2


def test_a_prediction_does_not_depend_on_its_neighbours(model):
    predictor = Predictor(model, "cpu")
    texts = [{} if model.task.has_audio else {"comment": comment} for comment in ("oh", "a much longer comment", "no")]
    clips = random_features(3, [9, 33, 14]) if model.task.has_audio else [None] * 3
    together = predictor._answers(clips, texts)
    for clip, text, expected in zip(clips, texts, together, strict=True):
        (alone,) = predictor._answers([clip], [text])
        np.testing.assert_allclose(alone.probs, expected.probs, atol=1e-5)


def test_supervised_losses_are_one_a_row_and_reach_every_part(model):
    losses, attributes = model.train().readout.supervised_losses(
        batch_of(model), torch.tensor(HUMAN, dtype=torch.float32)
    )
    assert losses.shape == (2,) and (losses > 0).all() and attributes is None
    losses.mean().backward()
    for part, parameters in model.trained_parts().items():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters), part


def test_what_it_writes_it_reads(model):
    """To the per cent; a single label's word states that label alone. After a thought it depends on the prompt, too."""
    if isinstance(model.readout, Reasoned):
        with pytest.raises(NotImplementedError, match="from its prompt"):
            model.readout.stated([[1]])
        return
    for people in HUMAN:
        written = model.readout.write(people).removeprefix(model.readout.answer_start)
        tokens = [*model.tokenizer(written, add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]
        (stated,) = model.readout.stated([tokens])
        expected = np.eye(3)[people.argmax()] if model.readout.is_direct else people
        np.testing.assert_allclose(stated, expected, atol=0.011)


def test_what_states_nothing_is_nan(model):
    if model.readout.writes_freely:
        assert np.isnan(model.readout.stated([model.tokenizer("who knows")["input_ids"]])).all()


def test_rollouts_state_distributions_and_say_what_was_drawn(model):
    if model.readout.writes_freely:
        with pytest.raises(NotImplementedError):
            model.readout.rollouts({}, 1, 1.0)
        return
    rollouts, _, _ = drawn_from(model)
    assert len(rollouts.completions) == len(rollouts.drawn) == 6
    for tokens, drawn in zip(rollouts.completions, rollouts.drawn, strict=True):
        assert len(tokens) == len(drawn) and sum(drawn) > 0 and set(drawn) <= {0, 1}
        ends = isinstance(model.readout, Reasoned) or tokens[-1] == model.tokenizer.eos_token_id
        assert ends, "but before label words, which are read and not drawn"
    stated = model.readout.stated(rollouts.completions) if rollouts.stated is None else rollouts.stated
    np.testing.assert_allclose(stated.sum(axis=1), 1)
    assert len({tuple(row) for row in stated[:3]}) > 1 or len({tuple(row) for row in stated[3:]}) > 1, "answers differ"


def test_log_probabilities_stand_where_tokens_were_drawn_and_add_up(model):
    """Over all that could have been drawn at the first place, with the rest held, probabilities sum to 1."""
    if model.readout.writes_freely:
        return
    rollouts, inputs, completions = drawn_from(model)
    rows, count = torch.tensor([4, 4, 4, 9, 9, 9]), completions.shape[1]
    log_probs, entropies = model.readout.drawn_log_probs(inputs, count, 0.7, rows)
    drawn = torch.tensor([[*flags, *[0] * (count - len(flags))] for flags in rollouts.drawn], dtype=torch.bool)
    assert (log_probs[~drawn] == 0).all() and (log_probs[drawn] < 0).all() and (entropies[drawn] >= 0).all()
    assert log_probs.requires_grad and not entropies.requires_grad
    place = int(drawn[0].nonzero()[0])
    if model.readout.is_direct:
        answers, _ = pad_right(model.readout.words, torch.device("cpu"))
    else:
        tokens = getattr(model.readout, "digit_ids", torch.arange(model.lm_head.weight.shape[0]))
        answers = completions[:1].repeat(len(tokens), 1)
        answers[:, place] = tokens
    valid = torch.ones_like(answers)
    prompt = {name: value[:1].repeat_interleave(len(answers), dim=0) for name, value in batch_of(model).items()}
    every, _ = model.readout.drawn_log_probs(
        append_completions(prompt, answers, valid), answers.shape[1], 0.7, torch.zeros(len(answers), dtype=torch.long)
    )
    assert every[:, place].exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_answers_to_one_prompt_share_it_without_another_result(model):
    if model.readout.writes_freely:
        return
    _, inputs, completions = drawn_from(model)
    count = completions.shape[1]
    shared, _ = model.readout.drawn_log_probs(inputs, count, 0.7, torch.tensor([1, 1, 1, 0, 0, 0]))
    alone, _ = model.readout.drawn_log_probs(inputs, count, 0.7, torch.arange(6))
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-4)


def test_distinct_prompts_stand_first():
    first, which = distinct_prompts(torch.tensor([7, 2, 7, 7, 2, 5]))
    numbers = torch.tensor([7, 2, 7, 7, 2, 5])
    assert torch.equal(numbers[first][which], numbers) and sorted(first.tolist()) == [0, 1, 5]
