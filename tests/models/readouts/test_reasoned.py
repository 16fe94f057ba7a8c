from __future__ import annotations

import numpy as np
import pytest
import torch

from shala_audio.distribution import jsd
from shala_audio.inference.predictor import Predictor
from shala_audio.models.readouts.base import append_completions
from shala_audio.models.readouts.reasoned import THOUGHT
from tests.models.readouts.test_conformance import batch_of, drawn_from
from tests.tiny import tiny_model
from tests.training.helpers import shala_trainer, tiny_rows


@pytest.fixture
def model(tiny_lm):
    return tiny_model(tiny_lm, readout="reasoned").eval()


def test_what_an_answer_states_is_read_off_after_its_thought(model):
    rollouts, inputs, completions = drawn_from(model)
    with torch.no_grad():
        log_q, _ = model.readout.log_probs(inputs)
    np.testing.assert_allclose(rollouts.stated, log_q.double().exp().numpy(), atol=1e-5)
    text = model.tokenizer.decode(completions[0, THOUGHT:])
    assert completions.shape[1] == THOUGHT + len(model.readout.bridge) and text == f"\n{model.task.answer}"
    assert not (completions[:, :THOUGHT] == model.tokenizer.eos_token_id).any(), "a thought does not end the answer"


def test_a_thought_is_as_likely_as_the_models_own_forward_says(model):
    _, inputs, completions = drawn_from(model, temperature=1.0)
    with torch.no_grad():
        found, _ = model.readout.drawn_log_probs(inputs, completions.shape[1], 1.0, torch.arange(6))
        mask = inputs["attention_mask"]
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = model(input_ids=inputs["input_ids"], attention_mask=mask, position_ids=positions).logits.float()
    logits[..., model.tokenizer.eos_token_id] = -torch.inf
    logits[..., model.generation_config.suppress_tokens or []] = -torch.inf
    log_q = logits.log_softmax(dim=-1)[:, -completions.shape[1] - 1 : -1][:, :THOUGHT]
    expected = log_q.gather(2, completions[:, :THOUGHT, None]).squeeze(2)
    torch.testing.assert_close(found[:, :THOUGHT], expected, atol=1e-4, rtol=1e-4)


def test_answers_learn_directly_and_thoughts_by_what_they_earn(model, tmp_path):
    rows, _ = tiny_rows(model)
    human = {row.id: np.array([row.votes.get(label, 0) for label in model.task.label_names]) for row in rows}

    def distance() -> float:
        found = dict(Predictor(model, "cpu").predict_rows(rows))
        return float(np.mean([jsd(votes / votes.sum(), found[key].probs) for key, votes in human.items()]))

    before = distance()
    trainer = shala_trainer(model, tmp_path, max_steps=12, learning_rate=1e-2, per_device_train_batch_size=16)
    thoughts: list[torch.Tensor] = []
    scored = trainer._generate_and_score_completions

    def watched(inputs):
        output = scored(inputs)
        thoughts.append(output["advantages"])
        return output

    trainer._generate_and_score_completions = watched
    trainer.train()
    assert distance() < before - 0.03
    assert any((advantages != 0).any() for advantages in thoughts), "thoughts before different answers earn differently"


def test_the_likeliest_thought_is_no_part_of_the_prompt_that_another_row_has(model):
    batch = batch_of(model)
    with torch.no_grad():
        whole = model.readout.predict(batch).probs
        thoughts = model.readout._thoughts(batch, do_sample=False)
        bridge = torch.tensor(model.readout.bridge).expand(2, -1)
        read, _ = model.readout.log_probs(append_completions(batch, torch.cat([thoughts, bridge], dim=1)))
    np.testing.assert_allclose(whole, read.double().exp().numpy(), atol=1e-5)
