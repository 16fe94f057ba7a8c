from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from shala_audio.distribution import jsd
from shala_audio.errors import Stopped, UserError
from shala_audio.models.readouts.label_token import label_log_probs
from shala_audio.training.drawn_labels import advantages, draw_labels, label_rewards, policy_loss
from tests.tiny import tiny_model
from tests.training.helpers import config, shala_trainer

HUMAN = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.45, 0.45]])
GRPO = {"method": "grpo_majority", "num_generations": 4}


def test_a_label_earns_what_an_answer_that_states_it_alone_does():
    assert label_rewards("majority", HUMAN).tolist() == [[1, 0, 0], [0, 1, 1]]
    expected = 1 - jsd(HUMAN.double().numpy()[:, None], np.eye(3)[None])
    np.testing.assert_allclose(label_rewards("jsd", HUMAN).numpy(), expected, atol=1e-6)


def test_labels_are_drawn_as_often_as_the_model_says():
    torch.manual_seed(0)
    log_q = torch.tensor([[0.6, 0.3, 0.1], [0.0, 0.5, 0.5]]).log()
    drawn = draw_labels(log_q, 20_000)
    shares = torch.stack([(drawn == label).float().mean(dim=1) for label in range(3)], dim=1)
    torch.testing.assert_close(shares, log_q.exp(), atol=0.02, rtol=0)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_those_of_stock_trl(tiny_lm, tmp_path, scale):
    earned = torch.tensor([[0.1, 0.9, 0.4, 0.4], [1.0, 0.0, 0.0, 0.0]])
    rows = Dataset.from_list([{"prompt": "How do people feel?"}, {"prompt": "And now?"}])
    given = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=2, max_steps=1,
        use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, scale_rewards=scale,
    )  # fmt: skip
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_lm), [lambda completions, **_: earned.flatten().tolist()], given, rows,
        processing_class=AutoTokenizer.from_pretrained(tiny_lm, padding_side="left"),
    )  # fmt: skip
    found = trainer._generate_and_score_completions([dict(rows[index // 4]) for index in range(8)])
    torch.testing.assert_close(advantages(earned, scale).flatten(), found["advantages"])


def test_the_loss_has_the_gradient_of_stock_trl(tiny_lm, tmp_path):
    """TRL's own `_compute_loss`, given one-token answers with these log-probabilities and advantages."""
    trainer = shala_trainer(tiny_model(tiny_lm), tmp_path, **GRPO)
    trainer.current_gradient_accumulation_steps, trainer.loss_type = 1, "grpo"
    logits = torch.randn(2, 3, requires_grad=True)
    drawn, advantage = torch.tensor([[0, 1, 1, 2], [2, 2, 0, 1]]), torch.randn(2, 4)
    (ours,) = torch.autograd.grad(policy_loss(logits.log_softmax(-1), drawn, advantage).mean(), logits)

    log_q = logits.log_softmax(-1).gather(1, drawn).reshape(8, 1)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (log_q, torch.zeros(8, 1), None)
    ids = torch.zeros(8, 1, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": ids + 1, "completion_ids": ids, "completion_mask": ids + 1,
        "advantages": advantage.flatten(), "num_items_in_batch": torch.tensor(8),
    }  # fmt: skip
    (theirs,) = torch.autograd.grad(GRPOTrainer._compute_loss(trainer, trainer.model, inputs), logits)
    torch.testing.assert_close(ours, theirs)


def test_rewarding_the_plurality_label_finds_it_and_forgets_the_rest(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm)
    trainer = shala_trainer(model, tmp_path, max_steps=60, **GRPO)
    trainer.train()
    log = [record for record in trainer.state.log_history if "reward" in record]
    assert log[-1]["reward"] > log[0]["reward"] + 0.3
    assert log[-1]["stated_entropy"] < 0.5 * log[0]["stated_entropy"], "one label, whatever the raters' division"


def test_the_weight_multiplies_the_advantage_of_drawn_labels(tiny_lm, tmp_path):
    losses = []
    for options in ({"method": "shala_static", "ambiguity_lambda": 0.9}, {"method": "shala_unweighted"}):
        trainer = shala_trainer(tiny_model(tiny_lm), tmp_path, exact_loss="off", num_generations=4, **options)
        inputs = trainer._prepare_inputs([trainer.train_dataset[0], trainer.train_dataset[1]])
        trainer.current_gradient_accumulation_steps = 1
        parts = []
        for row in range(2):  # a batch of one row each, from the same draws
            torch.manual_seed(3)
            one = {
                **inputs,
                "human": inputs["human"][row : row + 1],
                "row": inputs["row"][row : row + 1],
                "prompt": {name: tensor[row : row + 1] for name, tensor in inputs["prompt"].items()},
            }
            loss = trainer._compute_loss(trainer.model, one)
            (gradient,) = torch.autograd.grad(loss, [next(p for p in trainer.model.parameters() if p.requires_grad)])
            parts.append(gradient.norm().item())
        losses.append(parts)
        weights = trainer.weights.all(0.0)[:2]
        if options["method"] == "shala_static":
            expected = weights
    assert min(losses[1]) > 0
    for row in range(2):
        assert losses[0][row] == pytest.approx(losses[1][row] * expected[row], rel=1e-4)


def test_resuming_drawn_labels_is_exact(tiny_lm, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, **GRPO}
    whole, again = tiny_model(tiny_lm), tiny_model(tiny_lm, seed=5)
    shala_trainer(whole, tmp_path / "whole", **options).train()
    trainer = shala_trainer(again, tmp_path / "again", **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    own = dict(again.named_parameters())
    for name, parameter in whole.named_parameters():
        assert torch.equal(own[name], parameter), name


def test_draws_that_all_earn_the_same_stop_a_run(tiny_lm, tmp_path, capsys, monkeypatch):
    trainer = shala_trainer(tiny_model(tiny_lm), tmp_path, patience_without_signal=3, max_steps=5, **GRPO)
    monkeypatch.setattr("shala_audio.training.label_loss.label_rewards", lambda reward, human: torch.ones_like(human))
    with pytest.raises(Stopped, match="all rollouts of every prompt have earned the same for 3"):
        trainer.train()
    assert "all rollouts of every prompt earned the same" in capsys.readouterr().err


def test_silence_is_watched_once_a_step(tiny_lm, tmp_path):
    """Not once for every batch that a step accumulates: one prompt alone is silent often."""
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 2}
    trainer = shala_trainer(tiny_model(tiny_lm), tmp_path, **options, **GRPO)
    seen = []
    trainer._watch = lambda groups: seen.append(tuple(groups.shape))
    trainer.train()
    assert seen == [(8, 4)] * 2


def test_a_model_that_says_no_number_stops_the_run(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm)
    next(p for name, p in model.named_parameters() if "lora_B" in name).data.fill_(float("nan"))
    with pytest.raises(Stopped, match="step 1: the loss is nan"):
        shala_trainer(model, tmp_path, **GRPO).train()


def test_dynamic_weights_follow_the_models_distance(tiny_lm, tmp_path):
    """Not what single labels earn: on a row that people are divided about, none earns much."""
    model = tiny_model(tiny_lm)
    trainer = shala_trainer(model, tmp_path, method="shala_dynamic", exact_loss="off", num_generations=4)
    inputs = trainer._prepare_inputs([trainer.train_dataset[index] for index in range(8)])
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(model, inputs)
    q = label_log_probs(model, trainer.tree, inputs["prompt"]).detach().double().exp().numpy()
    np.testing.assert_allclose(trainer.weights.unlearnt, jsd(inputs["human"].double().numpy(), q), atol=1e-5)


def test_wrong_settings_of_drawn_labels(tiny_lm, tmp_path):
    for group in (0, 1):
        with pytest.raises(UserError, match=f"num_generations is {group}.*2 or more"):
            config(tmp_path, method="grpo_jsd", num_generations=group)
    with pytest.raises(UserError, match="scale_rewards is 'bacth'; did you mean batch"):
        shala_trainer(tiny_model(tiny_lm), tmp_path, method="grpo_jsd", num_generations=4, scale_rewards="bacth")
    with pytest.raises(UserError, match="exact_loss is off, which leaves out what method shala_exact is"):
        config(tmp_path, method="shala_exact", exact_loss="off")
    with pytest.raises(UserError, match="entropy_coef: no part in method grpo_majority with readout label_token"):
        config(tmp_path, method="grpo_majority", entropy_coef=0.1)
    shared = config(tmp_path, method="shala_exact", scale_rewards="none")  # in a file for all methods
    assert shared.idle == ["num_generations", "scale_rewards"]
