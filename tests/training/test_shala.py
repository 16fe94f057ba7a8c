from __future__ import annotations

import re
from zlib import crc32

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from transformers import TrainerCallback

from shala_audio.cli.train import parse
from shala_audio.errors import Stopped, UserError
from shala_audio.training.config import ShalaConfig
from shala_audio.training.data import build_dataset
from shala_audio.training.objective import js_divergence
from shala_audio.training.speech_trainer import learning_rate
from shala_audio.training.without_signal import WithoutSignal
from tests.tiny import tiny_model
from tests.training.helpers import config, shala_trainer, tiny_rows


def moved(model, before) -> dict[str, bool]:
    return {name: not torch.equal(p.detach(), before[name]) for name, p in model.named_parameters() if p.requires_grad}


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("lora_r", [0, 4])
@pytest.mark.parametrize("readout", ["slots", "verbalized", "label_token"])
def test_training_moves_ear_and_adapter_and_nothing_else(tiny_lm, tiny_encoder, tmp_path, readout, lora_r):
    model = tiny_model(tiny_lm, tiny_encoder, readout=readout, lora_r=lora_r)
    trainer = shala_trainer(model, tmp_path)
    if readout == "verbalized":
        # A random model never writes valid JSON: reward it for anything that differs within a group.
        trainer.reward_funcs = [lambda completions, **_: [crc32(text.encode()) % 97 / 97 for text in completions]]
    before = snapshot(model)
    trainer.train()
    changed = moved(model, before)
    assert any(changed[name] for name in changed if "projector.linear" in name), "the projector learns"
    assert any("lora_" in name and value for name, value in changed.items()) == bool(lora_r)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert all(torch.equal(dict(model.named_parameters())[name], before[name]) for name in frozen)


@pytest.mark.parametrize("lora_r", [0, 4])
@pytest.mark.parametrize("readout", ["slots", "verbalized"])
def test_sound_changes_the_loss_of_grpo(tiny_lm, tiny_encoder, tmp_path, readout, lora_r):
    """The same prompts, completions and advantages with other sound: other log-probabilities. TRL's loss runs the
    backbone and bypasses the model's own forward, so this is where sound could get lost."""
    model = tiny_model(tiny_lm, tiny_encoder, readout=readout, lora_r=lora_r)
    trainer = shala_trainer(model, tmp_path, max_steps=1)
    rows = [trainer.train_dataset[index // 4] for index in range(8)]
    inputs = trainer._generate_and_score_completions([dict(row) for row in rows])
    found = {}
    for name, features in (("own", inputs["audio_features"]), ("other", inputs["audio_features"].flip(-1))):
        trainer._audio = {"audio_features": features, "audio_lengths": inputs["audio_lengths"]}
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        count = inputs["completion_ids"].shape[1]
        found[name], _, _ = trainer._get_per_token_logps_and_entropies(model, ids, mask, count)
    assert not torch.allclose(found["own"], found["other"])
    inputs["advantages"] = torch.randn(8)
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(model, inputs)
    (gradient,) = torch.autograd.grad(loss, [model.model.ear.projector.linear_in.weight])
    assert gradient.abs().sum() > 0


def test_the_weight_multiplies_the_advantage(tiny_lm, tmp_path):
    """Not the reward: a weight on that would be divided out by the group's normalisation."""
    model = tiny_model(tiny_lm, readout="slots")
    trainer = shala_trainer(model, tmp_path, ambiguity="static", ambiguity_lambda=0.9)
    plain = shala_trainer(model, tmp_path, ambiguity="off")
    advantages = []
    for one in (trainer, plain):
        rows = [dict(one.train_dataset[index // 4 + 1]) for index in range(8)]
        torch.manual_seed(0)
        advantages.append(one._generate_and_score_completions(rows)["advantages"])
    weights = torch.tensor(trainer.weights.all(0.0)[[index // 4 + 1 for index in range(8)]], dtype=torch.float32)
    assert weights.unique().numel() == 2
    torch.testing.assert_close(advantages[0], advantages[1] * weights)


def test_rewards_are_those_of_the_digits(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm, readout="slots")
    trainer = shala_trainer(model, tmp_path)
    trainer.train()
    rewards = [record["rewards/jsd_to_humans/mean"] for record in trainer.state.log_history if "reward" in record]
    assert all(0 < reward <= 1 for reward in rewards), "every answer of slots is valid"
    # All zeros are uniform in prediction, and so they are when they are rewarded.
    texts = ['{"anger": 00, "disgust": 00, "disapproval": 00}', '{"anger": 99, "disgust": 00, "disapproval": 00}']
    inputs = [{"human": [0.6, 0.4, 0.0]}] * 2
    earned = trainer._calculate_rewards(inputs, ["?"] * 2, texts, [[1]] * 2)
    expected = [1 - jensenshannon([0.6, 0.4, 0.0], answer, base=2) for answer in ([1 / 3] * 3, [1.0, 0.0, 0.0])]
    assert earned[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_exact_loss_is_the_weighted_divergence(tiny_lm, tmp_path):
    from shala_audio.models.readouts.label_token import label_log_probs

    model = tiny_model(tiny_lm)
    trainer = shala_trainer(model, tmp_path)
    rows = [trainer.train_dataset[index] for index in range(8)]
    inputs = trainer._prepare_inputs(rows)
    log_q = label_log_probs(model, trainer.tree, inputs["prompt"])
    weights = torch.tensor(trainer.weights.all(0.0), dtype=torch.float32)
    expected = (weights * js_divergence(inputs["human"], log_q)).mean()
    trainer.current_gradient_accumulation_steps = 1
    torch.testing.assert_close(trainer._compute_loss(model, inputs), expected)


def test_exact_training_approaches_the_raters(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm)
    trainer = shala_trainer(model, tmp_path, max_steps=40)
    trainer.train()
    distances = [record["jsd"] for record in trainer.state.log_history if "jsd" in record]
    assert distances[-1] < 0.6 * distances[0]


def test_slots_training_raises_the_reward(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm, readout="slots")
    trainer = shala_trainer(model, tmp_path, max_steps=40, count=2, per_device_train_batch_size=32, num_generations=16)
    trainer.train()
    rewards = [record["reward"] for record in trainer.state.log_history if "reward" in record]
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.15


def test_accumulated_batches_give_the_same_losses(tiny_lm, tmp_path):
    """Batch 2 x accumulation 4 gives the weights of batch 8 after a step of the exact objective."""
    results = []
    for batch, steps in ((8, 1), (2, 4)):
        model = tiny_model(tiny_lm)
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, "num_generations": 2}
        shala_trainer(model, tmp_path, max_steps=1, optim="sgd", max_grad_norm=0, **options).train()
        results.append(snapshot(model))
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized"])
def test_resuming_is_exact(tiny_lm, tiny_encoder, tmp_path, readout):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = tiny_model(tiny_lm, tiny_encoder, readout=readout)
    shala_trainer(whole, tmp_path / "whole", **options).train()
    again = tiny_model(tiny_lm, tiny_encoder, readout=readout, seed=5)
    trainer = shala_trainer(again, tmp_path / "again", **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    own = dict(again.named_parameters())
    for name, parameter in whole.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, own[name]), name


def test_no_pickled_arguments_and_no_base_weights_in_a_checkpoint(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm)
    shala_trainer(model, tmp_path, save_strategy="steps", save_steps=1, max_steps=2).train()
    names = {path.name for path in (tmp_path / "checkpoint-1").iterdir()}
    assert {"shala.json", "trained.safetensors"} <= names
    assert not names & {"training_args.bin", "model.safetensors", "pytorch_model.bin"}


def test_the_exact_objective_takes_any_batch_size(tmp_path):
    for batch, steps in ((1, 1), (5, 1), (3, 2)):
        settings = config(tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=steps)
        assert settings.per_device_train_batch_size == batch
    with pytest.raises(ValueError, match="num_generations"):
        config(tmp_path, per_device_train_batch_size=5, readout="slots")


@pytest.mark.parametrize("readout", ["label_token", "slots"])
def test_resuming_dynamic_weights_and_draws_is_exact(tiny_lm, tmp_path, readout):
    """Three epochs of rows drawn by weights that follow what is unlearnt, interrupted in the middle of the second."""
    options = {
        "ambiguity": "dynamic", "ambiguity_sampling": True, "ambiguity_lambda": 0.9, "ambiguity_lambda_end": 0.4,
        "count": 16, "max_steps": 12 if readout == "slots" else 9, "save_strategy": "steps", "save_steps": 3,
        "save_total_limit": 9, "logging_steps": 2,
        "per_device_train_batch_size": 16 if readout == "slots" else 8,
        **({"num_iterations": 2} if readout == "slots" else {}),
    }  # fmt: skip
    first, second = ("checkpoint-4", "checkpoint-6") if readout == "slots" else ("checkpoint-3", "checkpoint-6")
    whole = tiny_model(tiny_lm, readout=readout)
    trainer = shala_trainer(whole, tmp_path / "whole", **options)
    trainer.train()
    again = tiny_model(tiny_lm, readout=readout, seed=5)
    resumed = shala_trainer(again, tmp_path / "again", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / first))
    assert resumed.weights.unlearnt.tolist() == trainer.weights.unlearnt.tolist()
    assert resumed.weights.seen.tolist() == trainer.weights.seen.tolist()
    for name, value in snapshot(whole).items():
        assert torch.equal(value, snapshot(again)[name]), name
    states = {
        path.name for path in (tmp_path / "whole" / second).iterdir() if path.suffix in (".pt", ".pth", ".safetensors")
    }
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trained.safetensors"} < states, "and the weights of rows"
    for name in states:
        at = [(tmp_path / folder / second / name).read_bytes() for folder in ("whole", "again")]
        assert at[0] == at[1], name
    logs = [[logged(record) for record in run.state.log_history if record["step"] > 4] for run in (trainer, resumed)]
    assert logs[0] == logs[1] and len(logs[0]) > 2


@pytest.mark.parametrize(
    ("readout", "options"),
    [
        ("slots", {"num_iterations": 2}),  # every answer trains twice
        ("slots", {"gradient_accumulation_steps": 3, "steps_per_generation": 3, "per_device_train_batch_size": 4}),
        ("label_token", {"per_device_train_batch_size": 4}),
    ],
)
def test_draws_take_lambda_as_it_is_in_the_middle_of_their_epoch(tiny_lm, tmp_path, readout, options, monkeypatch):
    """Of seven rows a pass of rollouts leaves out what does not fill a generation."""
    weights = {"ambiguity_sampling": True, "ambiguity_lambda": 0.9, "ambiguity_lambda_end": 0.1, "num_train_epochs": 3}
    trainer = shala_trainer(
        tiny_model(tiny_lm, readout=readout), tmp_path, count=7, **{"max_steps": -1, **weights, **options}
    )
    asked, ends = {}, []
    draws = trainer.weights.draws
    monkeypatch.setattr(trainer.weights, "draws", lambda epoch, at: asked.setdefault(epoch, at) and draws(epoch, at))

    class Ends(TrainerCallback):
        def on_epoch_end(self, args, state, control, **_):
            ends.append(state.global_step)

    trainer.add_callback(Ends())
    trainer.train()
    middles = [(begin + end) / 2 / ends[-1] for begin, end in zip([0, *ends], ends, strict=False)]
    assert len(ends) == 3 and [asked[epoch] for epoch in range(3)] == pytest.approx(middles)
    shown = [record for record in trainer.state.log_history if "weight/lambda" in record]
    assert [record["weight/lambda"] for record in shown] == pytest.approx(
        [0.9 - 0.8 * middles[sum(record["step"] > end for end in ends)] for record in shown]
    )
    assert [record["weight/mean"] for record in shown] == pytest.approx([1.0] * len(shown)), "of all rows, as drawn"


def test_rows_too_few_to_be_answered_at_once_are_refused(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm, readout="slots")
    with pytest.raises(UserError, match="2 prompts are answered at once, .* and there are 1 training rows; lower it"):
        shala_trainer(model, tmp_path, count=1, ambiguity="off")
    shala_trainer(model, tmp_path, count=1, ambiguity="off", per_device_train_batch_size=4)


def logged(record):
    return {name: value for name, value in record.items() if "time" not in name and "per_second" not in name}


def test_memory_does_not_grow_with_what_is_logged(tiny_lm, tmp_path, monkeypatch):
    monkeypatch.setattr("shala_audio.training.speech_trainer.LOGGED_KEPT", 3)
    trainer = shala_trainer(tiny_model(tiny_lm), tmp_path, max_steps=6)
    trainer.train()
    assert [record["step"] for record in trainer.state.log_history] == [5, 6, 6], "the last is the end's"


def test_dynamic_weights_learn_of_rewards(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm, readout="slots")
    trainer = shala_trainer(model, tmp_path, ambiguity="dynamic", max_steps=8, count=4)
    trainer.train()
    assert trainer.weights.seen.sum() == 8 * 2, "two prompts a step"
    assert ((trainer.weights.unlearnt > 0) & (trainer.weights.unlearnt < 1)).all()
    logged = [record for record in trainer.state.log_history if "weight/mean" in record]
    assert logged and {"weight/max", "weight/effective_share", "weight/lambda", "unlearnt/mean"} <= set(logged[-1])


def test_the_same_reward_for_all_is_said(tiny_lm, tmp_path, capsys):
    """A random model's text never parses: every rollout earns 0, and nothing can be learnt."""
    model = tiny_model(tiny_lm, readout="verbalized")
    trainer = shala_trainer(model, tmp_path, max_steps=2)
    trainer.train()
    assert trainer.without_signal.batches == 2
    said = capsys.readouterr().err
    assert "step 1: all rollouts of every prompt earned the same" in said and "longer warm start" in said
    assert trainer.state.log_history[0]["without_signal"] == 1


def test_patience_of_0_never_stops_a_run():
    watch = WithoutSignal(patience=0, advice="", aloud=False)
    groups = [torch.tensor([[0.1, 0.2]]), *[torch.ones(2, 4)] * 60]
    assert [watch.see(group, step) for step, group in enumerate(groups, 1)] == [False] + [True] * 60


def test_patience_survives_an_interruption(tmp_path):
    before, after = (WithoutSignal(patience=3, advice="", aloud=False) for _ in range(2))
    for step in (1, 2):
        before.see(torch.ones(2, 4), step)
    before.save(tmp_path)
    after.load(tmp_path)
    assert after.batches == 2
    with pytest.raises(Stopped, match="for 3 batches in a row"):
        after.see(torch.ones(2, 4), 3)


@pytest.mark.parametrize(
    ("rates", "expected"), [({}, (1, 1, 1)), ({"ear": 0.0}, (1, 0, 0)), ({"ear": 2.0, "encoder": 0.0}, (1, 2, 0))]
)
def test_parts_have_learning_rates_of_their_own(tmp_path, rates, expected):
    """Also a rate of 0, which keeps the ear, or the encoder's layers in it, as they are."""
    args = config(tmp_path, learning_rate=1.0, **{f"{part}_learning_rate": rate for part, rate in rates.items()})
    names = ("model.layers.0.weight", "model.ear.projector.weight", "model.ear.top.layers.0.weight")
    assert tuple(learning_rate(name, args) for name in names) == expected


@pytest.mark.parametrize(("rewards", "silent"), [([0.83] * 8, True), ([0.83] * 4 + [0.2, 0.3, 0.2, 0.3], False)])
def test_equal_rewards_are_seen_whatever_they_are(tiny_lm, tmp_path, rewards, silent):
    """Not by advantages that are exactly 0: a mean of equal numbers is off by a rounding error."""
    trainer = shala_trainer(tiny_model(tiny_lm, readout="slots"), tmp_path)
    trainer._watch(torch.tensor(rewards).view(2, 4))
    assert trainer.without_signal.batches == silent


def test_rollouts_in_evaluation_leave_training_alone(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm, readout="slots").eval()
    trainer = shala_trainer(model, tmp_path, ambiguity="dynamic")
    model.eval()
    rows = [dict(trainer.train_dataset[index // 4]) for index in range(8)]
    trainer._generate_and_score_completions(rows)
    assert not model.training and not trainer.weights.seen.any()


@pytest.mark.parametrize("reward", ["bhattacharyya", "brier", "majority"])
def test_other_rewards_train(tiny_lm, tmp_path, reward):
    model = tiny_model(tiny_lm, readout="slots")
    trainer = shala_trainer(model, tmp_path, reward=reward)
    trainer.train()
    name = {"bhattacharyya": "bhattacharyya", "brier": "brier", "majority": "majority"}[reward]
    assert all(0 <= r[f"rewards/{name}/mean"] <= 1 for r in trainer.state.log_history if "reward" in r)


def test_the_distance_itself_can_be_the_exact_loss(tiny_lm, tmp_path):
    from shala_audio.models.readouts.label_token import label_log_probs

    model = tiny_model(tiny_lm)
    trainer = shala_trainer(model, tmp_path, exact_loss="distance", ambiguity="off")
    inputs = trainer._prepare_inputs([trainer.train_dataset[index] for index in range(8)])
    q = label_log_probs(model, trainer.tree, inputs["prompt"]).exp().detach().numpy()
    trainer.current_gradient_accumulation_steps = 1
    expected = jensenshannon(inputs["human"].numpy(), q, base=2, axis=1).mean()
    assert trainer._compute_loss(model, inputs).item() == pytest.approx(expected, abs=1e-5)


def test_wrong_settings(tiny_lm, tiny_encoder, tmp_path):
    model = tiny_model(tiny_lm, tiny_encoder)
    with pytest.raises(UserError, match="beta"):
        shala_trainer(model, tmp_path, beta=0.1)
    with pytest.raises(UserError, match="static, dynamic, off"):
        shala_trainer(model, tmp_path, ambiguity="sometimes")
    with pytest.raises(UserError, match="reward is 'joy'"):
        shala_trainer(tiny_model(tiny_lm, readout="slots"), tmp_path, reward="joy")
    with pytest.raises(UserError, match="use one of divergence, distance, off"):
        config(tmp_path, exact_loss="square")
    with pytest.raises(UserError, match="method is 'magic'"):
        config(tmp_path, method="magic")
    with pytest.raises(UserError, match="shala_exact goes with readout label_token, not slots"):
        config(tmp_path, method="shala_exact", readout="slots")
    with pytest.raises(UserError, match="features"):
        build_dataset(tiny_rows(model)[0], model, None)
    assert config(tmp_path).use_cpu is not torch.accelerator.is_available()


@pytest.mark.parametrize("readout", ["label_token", "slots"])
def test_a_weight_that_would_cancel_out_is_refused(tiny_lm, tmp_path, readout):
    """One prompt a step: its weight scales the whole gradient, and Adam divides that out again."""
    model = tiny_model(tiny_lm, readout=readout)
    options = {"per_device_train_batch_size": 1 if readout == "label_token" else 4, "num_generations": 4}
    for more in ({}, {"optim": "lion_32bit"}, {"optim": "sgd"}):
        with pytest.raises(UserError, match="divides a factor"):
            shala_trainer(model, tmp_path, **options, **more)
    shala_trainer(model, tmp_path, **options, ambiguity="off")
    shala_trainer(model, tmp_path, **options, optim="sgd", max_grad_norm=0)
    if readout == "slots":  # TRL shuffles what is answered at once, so that the steps after it mix prompts
        shala_trainer(model, tmp_path, **options, steps_per_generation=2)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("sft_hard", {"target": "hard"}),
        ("grpo_majority", {"reward": "majority", "ambiguity": "off"}),
        ("grpo_jsd", {"reward": "jsd", "ambiguity": "off"}),
        ("shala_static", {"ambiguity": "static"}),
        ("shala_dynamic", {"ambiguity": "dynamic"}),
    ],
)
def test_one_flag_chooses_a_rival(tmp_path, capsys, method, settings):
    found = config(tmp_path, method=method, readout="slots", ambiguity="static", reward="brier")
    assert {name: getattr(found, name) for name in settings} == settings
    said = capsys.readouterr().err
    assert ("reward is" in said) == ("reward" in settings), "what is not as the user had it is said"


@pytest.mark.parametrize(
    ("readout", "setting"), [("label_token", {"reward": "brier"}), ("slots", {"exact_loss": "distance"})]
)
def test_a_setting_without_a_part_is_refused(tmp_path, capsys, readout, setting):
    """It would stand in the record, and in a table as another system, without having done anything."""
    with pytest.raises(UserError, match=f"{next(iter(setting))}: no part in method shala with readout {readout}"):
        config(tmp_path, readout=readout, **setting)
    from shala_audio.training.record import settings

    supervised = config(tmp_path, method="sft_soft", readout=readout, **setting)
    assert re.search(f"{next(iter(setting))}.*: no part in method sft_soft", capsys.readouterr().err)
    assert not set(setting) & set(settings(supervised))


@pytest.mark.parametrize(
    ("given", "idle"),
    [
        ({"ambiguity": "off", "ambiguity_lambda": 0.9}, ["ambiguity_lambda"]),
        ({"method": "shala_unweighted", "ambiguity_entropy": "dirichlet"}, ["ambiguity_entropy"]),
        ({"ambiguity": "static", "ambiguity_memory": 0.9}, ["ambiguity_memory"]),
        ({"ambiguity": "dynamic", "ambiguity_alpha": 0.9}, ["ambiguity_alpha"]),
        ({"ambiguity": "dynamic", "ambiguity_memory": 0.9}, []),
        ({"ambiguity_entropy": "dirichlet", "ambiguity_alpha": 0.9}, []),
    ],
)
def test_settings_of_weights_that_are_not_read_are_said_and_not_recorded(tmp_path, capsys, given, idle):
    from shala_audio.training.record import settings

    found = config(tmp_path, **given)
    assert found.idle == ["num_generations", *idle] and not set(idle) & set(settings(found))
    assert (f"{', '.join(idle)}: no part with ambiguity" in capsys.readouterr().err) == bool(idle)
    if not idle:
        assert set(given) - {"ambiguity"} <= set(settings(found))


def test_drawn_labels_read_the_settings_of_rollouts(tmp_path):
    from shala_audio.training.record import settings

    found = config(tmp_path, method="grpo_majority", num_generations=4, scale_rewards="none")
    assert found.idle == [] and found.num_generations == 4
    kept = {"exact_loss": "off", "reward": "majority", "num_generations": 4, "scale_rewards": "none"}
    assert kept.items() <= settings(found).items()
    weighted = config(tmp_path, method="shala_dynamic", exact_loss="off", reward="brier")
    assert weighted.ambiguity == "dynamic" and weighted.reward == "brier"
    with pytest.raises(UserError, match="epsilon: no part in method grpo_jsd with readout label_token"):
        config(tmp_path, method="grpo_jsd", epsilon=0.3)
    with pytest.raises(UserError, match="exact_loss: no part"):
        config(tmp_path, readout="slots", exact_loss="off")


def test_the_record_has_what_was_set_and_nothing_that_was_not(tmp_path):
    from shala_audio.training.record import settings

    given = {"per_device_train_batch_size": 4, "learning_rate": 1e-3}
    plain = ShalaConfig(output_dir=str(tmp_path), bf16=False, **given)
    assert settings(plain) == given
    drawn = ShalaConfig(output_dir=str(tmp_path), bf16=False, method="grpo_jsd", num_generations=2, **given)
    assert settings(drawn) == {**given, "num_generations": 2, "exact_loss": "off", "ambiguity": "off"}


def test_rollouts_have_no_part_in_the_exact_objective(tmp_path, capsys):
    assert config(tmp_path, readout="label_token", num_generations=4).idle == ["num_generations"]
    assert "num_generations: no part in method shala with readout label_token" in capsys.readouterr().err
    assert config(tmp_path, readout="slots", num_generations=4).idle == []
    with pytest.raises(UserError, match="invalid_reward: no part"):
        config(tmp_path, readout="slots", invalid_reward=0.5)


def test_an_idle_flag_is_refused(tmp_path):
    given = ["--method", "shala", "--ambiguity", "static", "--ambiguity_memory", "0.9", "--manifest", "m.jsonl"]
    with pytest.raises(UserError, match="--ambiguity_memory: has no part"):
        parse([*given, "--task", "mini", "--model", "speech_frozen", "--output_dir", str(tmp_path)])


def test_a_preset_is_whole(tmp_path):
    assert config(tmp_path, method="sft_soft", target="hard", readout="slots").target == "soft"
    assert config(tmp_path, method="shala_unweighted", ambiguity_sampling=True).ambiguity_sampling is False


@pytest.mark.parametrize("readout", ["label_token", "slots"])
def test_recomputing_activations_changes_nothing(tiny_lm, tiny_encoder, tmp_path, readout):
    """`gradient_checkpointing` keeps no cache, so nothing can be shared between rows, and the losses are the same."""
    norms = []
    for recompute in (False, True):
        model = tiny_model(tiny_lm, tiny_encoder, readout=readout)
        trainer = shala_trainer(model, tmp_path / str(recompute), max_steps=3, gradient_checkpointing=recompute)
        trainer.train()
        norms.append([entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry])
    assert norms[1] == pytest.approx(norms[0], rel=1e-4) and min(norms[0]) > 0


@pytest.mark.parametrize(
    ("readout", "speech", "message"),
    [
        ("slots", False, "readout verbalized"),
        ("verbalized", True, "text alone"),
        ("verbalized", False, "not installed"),
    ],
)
def test_vllm_is_refused_where_it_cannot_work(tiny_lm, tiny_encoder, tmp_path, readout, speech, message):
    model = tiny_model(tiny_lm, tiny_encoder if speech else None, readout=readout)
    with pytest.raises(UserError, match=message):
        shala_trainer(model, tmp_path, use_vllm=True)
