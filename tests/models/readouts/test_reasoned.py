from __future__ import annotations

import numpy as np
import pytest
import torch

from shala_audio.distribution import jsd
from shala_audio.errors import UserError
from shala_audio.inference.predictor import Predictor
from shala_audio.models.readouts.base import append_completions
from shala_audio.models.readouts.reasoned import THOUGHT
from shala_audio.training.grpo import GrpoTrainer
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


def test_thoughts_are_drawn_from_what_the_loss_takes_them_to_be_from(model):
    """Greedy ones are the likeliest tokens of the model's own forward; and what hub models say of generation has no part."""
    model.generation_config.update(repetition_penalty=1.5, top_p=0.5, top_k=2, temperature=0.3, eos_token_id=[1, 70])
    batch = batch_of(model)
    thoughts = model.readout._thoughts(batch)
    inputs = append_completions(batch, thoughts)
    with torch.no_grad():
        mask = inputs["attention_mask"]
        logits = model(
            input_ids=inputs["input_ids"], attention_mask=mask, position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0)
        ).logits.float()
    logits[..., [1, 70, *(model.generation_config.suppress_tokens or [])]] = -torch.inf
    own = logits[:, -THOUGHT - 1 : -1]
    assert torch.equal(own.argmax(dim=-1), thoughts)
    torch.manual_seed(0)
    drawn = model.readout._thoughts(batch, 64, 1.0)[:, 0].view(2, 64)
    for tokens, first in zip(drawn, own[:, 0].softmax(dim=-1), strict=True):
        assert (first[tokens] > 0).all() and len(tokens.unique()) > 8, "not the two likeliest alone"
    full, _ = model.readout.drawn_log_probs(append_completions(inputs, torch.tensor([model.readout.bridge] * 2)),
                                            THOUGHT + len(model.readout.bridge), 1.0, torch.arange(2))  # fmt: skip
    expected = own.log_softmax(dim=-1).gather(2, thoughts[..., None]).squeeze(2)
    torch.testing.assert_close(full[:, :THOUGHT], expected, atol=1e-4, rtol=1e-4)


def test_thoughts_are_the_same_where_activations_are_computed_again(model):
    batch = batch_of(model)
    expected = model.readout._thoughts(batch)
    model.gradient_checkpointing_enable()
    assert torch.equal(model.train().readout._thoughts(batch), expected) and model.training


def distance(model) -> float:
    rows, _ = tiny_rows(model)
    human = {row.id: np.array([row.votes.get(label, 0) for label in model.task.label_names]) for row in rows}
    found = dict(Predictor(model, "cpu").predict_rows(rows))
    return float(np.mean([jsd(votes / votes.sum(), found[key].probs) for key, votes in human.items()]))


def test_answers_learn_directly(model, tmp_path):
    before = distance(model)
    shala_trainer(model, tmp_path, max_steps=12, per_device_train_batch_size=16).train()
    assert distance(model) < before - 0.03


def test_thoughts_learn_by_what_they_earn(model, tmp_path, monkeypatch):
    """With the answers' own gradient left out: thoughts that lead nearer become likelier."""
    monkeypatch.setattr(GrpoTrainer, "_answer_loss", lambda *_: torch.zeros(()))
    trainer = shala_trainer(
        model, tmp_path, count=4, max_steps=15, per_device_train_batch_size=64, num_generations=16
    )  # the same four rows in every step
    trainer.train()
    rewards = [record["reward"] for record in trainer.state.log_history if "reward" in record]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.05


def test_a_baseline_has_no_gradient_of_shala(model, tmp_path):
    assert not shala_trainer(model, tmp_path, method="grpo_jsd").answers_learn
    assert shala_trainer(model, tmp_path).answers_learn


def test_autocast_is_off_after_a_step_in_bfloat16(model, tmp_path):
    """`generate` within the trainer's forward entered it twice, and left it on."""
    shala_trainer(model, tmp_path, max_steps=2, bf16=True).train()
    assert not torch.is_autocast_enabled("cpu")


def test_what_does_not_go_with_it_is_said(model, tmp_path):
    with pytest.raises(UserError, match="mask_truncated_completions"):
        shala_trainer(model, tmp_path, mask_truncated_completions=True)


def test_a_prediction_follows_the_greedy_thought(model):
    batch = batch_of(model)
    with torch.no_grad():
        whole = model.readout.predict(batch).probs
        thoughts = model.readout._thoughts(batch)
        bridge = torch.tensor(model.readout.bridge).expand(2, -1)
        assert model.readout.answers(batch) == model.tokenizer.batch_decode(thoughts)
        read, _ = model.readout.log_probs(append_completions(batch, torch.cat([thoughts, bridge], dim=1)))
    np.testing.assert_allclose(whole, read.double().exp().numpy(), atol=1e-5)
