from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.spatial.distance import jensenshannon
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from shala_audio.distribution import jsd
from shala_audio.errors import Stopped, UserError
from shala_audio.models.readouts.verbalized import pad_right, parse_answer
from shala_audio.training.callbacks import ZeroVarianceGroups
from shala_audio.training.config import GrpoConfig
from shala_audio.training.rewards import every_digit
from tests.tiny import tiny_model
from tests.training.helpers import config, shala_trainer, tiny_rows


def moved(model, before) -> dict[str, bool]:
    return {name: not torch.equal(p.detach(), before[name]) for name, p in model.named_parameters() if p.requires_grad}


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("lora_r", [0, 4])
@pytest.mark.parametrize("readout", ["slots", "verbalized", "label_token", "reasoned"])
def test_training_moves_audio_adapter_and_lora_and_nothing_else(tiny_lm, tiny_encoder, tmp_path, readout, lora_r):
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
    (gradient,) = torch.autograd.grad(loss, [model.model.audio_adapter.projector.linear_in.weight])
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
    weights = torch.tensor(trainer.weights.all()[[index // 4 + 1 for index in range(8)]], dtype=torch.float32)
    assert weights.unique().numel() == 2
    torch.testing.assert_close(advantages[0], advantages[1] * weights)


def test_rewards_are_those_of_the_digits(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm, readout="slots")
    trainer = shala_trainer(model, tmp_path)
    trainer.train()
    rewards = [record["rewards/jsd_to_raters/mean"] for record in trainer.state.log_history if "reward" in record]
    assert all(0 < reward <= 1 for reward in rewards), "every answer of slots is valid"
    # All zeros are uniform in prediction, and so they are when they are rewarded.
    digits = torch.tensor([[[0, 0]] * 3, [[9, 9], [0, 0], [0, 0]]])
    completions = model.readout.completion(digits).tolist()
    inputs = [{"human": [0.6, 0.4, 0.0]}] * 2
    earned = trainer._calculate_rewards(inputs, ["?"] * 2, [""] * 2, completions)
    expected = [1 - jensenshannon([0.6, 0.4, 0.0], answer, base=2) for answer in ([1 / 3] * 3, [1.0, 0.0, 0.0])]
    assert earned[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_slots_training_raises_the_reward(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm, readout="slots")
    trainer = shala_trainer(model, tmp_path, max_steps=40, count=2, per_device_train_batch_size=32, num_generations=16)
    trainer.train()
    rewards = [record["reward"] for record in trainer.state.log_history if "reward" in record]
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.15


@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized", "reasoned"])
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


def test_rows_too_few_to_be_answered_at_once_are_refused(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm, readout="slots")
    with pytest.raises(UserError, match="2 prompts are answered at once, .* and there are 1 training rows; lower it"):
        shala_trainer(model, tmp_path, count=1, ambiguity="off")
    shala_trainer(model, tmp_path, count=1, ambiguity="off", per_device_train_batch_size=4)


def logged(record):
    return {name: value for name, value in record.items() if "time" not in name and "per_second" not in name}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_dynamic_weights_learn_of_rewards(tiny_lm, tmp_path, accumulation):
    """Under accumulation they stayed as they began."""
    model = tiny_model(tiny_lm, readout="slots")
    given = {"gradient_accumulation_steps": accumulation, "max_steps": 8 // accumulation, "count": 4}
    trainer = shala_trainer(model, tmp_path, ambiguity="dynamic", **given)
    trainer.train()
    assert trainer.weights.seen.sum() == 8 * 2, "two prompts a batch"
    assert not trainer._seen
    assert ((trainer.weights.running_loss > 0) & (trainer.weights.running_loss < 1)).all()
    logged = [record for record in trainer.state.log_history if "weight/mean" in record]
    assert logged and {"weight/max", "weight/effective_share", "running_loss/mean"} <= set(logged[-1])


def test_the_same_reward_for_all_is_said(tiny_lm, tmp_path, caplog):
    """A random model's text never parses: every rollout earns 0, and nothing can be learnt."""
    model = tiny_model(tiny_lm, readout="verbalized")
    trainer = shala_trainer(model, tmp_path, max_steps=2)
    trainer.train()
    assert trainer.zero_variance.batches == 2
    assert "step 1: all groups have zero reward variance" in caplog.text and "longer warm start" in caplog.text
    assert trainer.state.log_history[0]["frac_reward_zero_std"] == 1


@pytest.mark.parametrize(("rewards", "silent"), [([0.83] * 8, True), ([0.83] * 4 + [0.2, 0.3, 0.2, 0.3], False)])
def test_equal_rewards_are_seen_whatever_they_are(tiny_lm, tmp_path, rewards, silent):
    """Not by advantages that are exactly 0: a mean of equal numbers is off by a rounding error."""
    trainer = shala_trainer(tiny_model(tiny_lm, readout="slots"), tmp_path)
    assert trainer.zero_variance.see(torch.tensor(rewards).view(2, 4), 1) == silent


def test_rollouts_in_evaluation_leave_training_alone(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm, readout="slots").eval()
    trainer = shala_trainer(model, tmp_path, ambiguity="dynamic")
    model.eval()
    rows = [dict(trainer.train_dataset[index // 4]) for index in range(8)]
    trainer._generate_and_score_completions(rows)
    assert not model.training and not trainer.weights.seen.any()


@pytest.mark.parametrize("readout", ["label_token", "slots"])
def test_a_weight_that_would_cancel_out_is_refused(tiny_lm, tmp_path, readout):
    """One prompt a step: its weight scales the whole gradient, and Adam divides that out again."""
    model = tiny_model(tiny_lm, readout=readout)
    options = {"per_device_train_batch_size": 1 if readout == "label_token" else 4}
    for more in ({}, {"optim": "lion_32bit"}, {"optim": "sgd"}):
        with pytest.raises(UserError, match="divides a factor"):
            shala_trainer(model, tmp_path, **options, **more)
    shala_trainer(model, tmp_path, **options, ambiguity="off")
    shala_trainer(model, tmp_path, **options, optim="sgd", max_grad_norm=0)
    if readout == "slots":  # TRL shuffles what is answered at once, so that the steps after it mix prompts
        shala_trainer(model, tmp_path, **options, steps_per_generation=2)


@pytest.mark.parametrize("readout", ["label_token", "slots", "reasoned"])
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


def test_zero_variance_patience_of_0_never_stops_a_run():
    watch = ZeroVarianceGroups(patience=0, aloud=False)
    groups = [torch.tensor([[0.1, 0.2]]), *[torch.ones(2, 4)] * 60]
    assert [watch.see(group, step) for step, group in enumerate(groups, 1)] == [False] + [True] * 60


def test_zero_variance_patience_survives_an_interruption(tmp_path):
    before, after = (ZeroVarianceGroups(patience=3, aloud=False) for _ in range(2))
    for step in (1, 2):
        before.see(torch.ones(2, 4), step)
    before.save(tmp_path)
    after.load(tmp_path)
    assert after.batches == 2
    with pytest.raises(Stopped, match="for 3 batches in a row"):
        after.see(torch.ones(2, 4), 3)


@pytest.mark.parametrize("reward", ["brier", "majority"])
def test_other_rewards_train(tiny_lm, tmp_path, reward):
    trainer = shala_trainer(tiny_model(tiny_lm, readout="slots"), tmp_path, reward=reward)
    trainer.train()
    assert all(0 <= r[f"rewards/{reward}_to_raters/mean"] <= 1 for r in trainer.state.log_history if "reward" in r)


@pytest.mark.parametrize("readout", ["slots", "label_token"])
def test_the_policy_that_learns_is_the_one_that_was_sampled(tiny_lm, tiny_encoder, tmp_path, readout):
    """SpecAugment and dropout in the loss, and not in sampling, made GRPO off-policy, with a ratio that was set to 1
    unseen: the answers' log-probabilities in the loss must be those that they were drawn with."""
    model = tiny_model(tiny_lm, tiny_encoder, readout=readout)
    model.model.audio_adapter.augment = True
    for layer in model.model.decoder.layers:
        layer.self_attn.attention_dropout = 0.5
    method = "shala" if readout == "slots" else "grpo_jsd"
    trainer = shala_trainer(model, tmp_path, method=method, max_steps=1, num_iterations=2)
    sampled, learnt = [], []
    log_probs = trainer._get_per_token_logps_and_entropies

    def kept(*arguments, **options):
        found = log_probs(*arguments, **options)
        (learnt if torch.is_grad_enabled() else sampled).append(found[0].detach())
        return found

    trainer._get_per_token_logps_and_entropies = kept  # without gradient: TRL's, of the policy that has sampled
    trainer.train()
    assert len(sampled) == len(learnt) == 1
    order = [sampled[0].sum(dim=1).argsort(), learnt[0].sum(dim=1).argsort()]  # TRL shuffles what it has drawn
    torch.testing.assert_close(sampled[0][order[0]], learnt[0][order[1]])
    model.train()
    torch.manual_seed(0)
    inputs = {name: value for name, value in trainer._buffered_inputs[0].items() if name.startswith("audio")}
    heard = [model.model.audio_adapter(inputs["audio_features"].float(), inputs["audio_lengths"])[0] for _ in range(2)]
    assert not torch.equal(*heard), "or the test could not fail: training mode is random"


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_those_of_stock_trl(tiny_lm, tmp_path, scale):
    earned = torch.tensor([[0.1, 0.9, 0.4, 0.4], [1.0, 0.0, 0.0, 0.0]])
    rows = Dataset.from_list([{"prompt": "How do people feel?"}, {"prompt": "And now?"}])
    given = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=2, max_steps=1,
        use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, scale_rewards=scale,
    )  # fmt: skip
    stock = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_lm), [lambda completions, **_: earned.flatten().tolist()], given, rows,
        processing_class=AutoTokenizer.from_pretrained(tiny_lm, padding_side="left"),
    )  # fmt: skip
    expected = stock._generate_and_score_completions([dict(rows[index // 4]) for index in range(8)])["advantages"]
    ours = shala_trainer(tiny_model(tiny_lm), tmp_path, method="grpo_jsd", scale_rewards=scale)
    ours.reward_funcs = [lambda completions, **_: earned.flatten().tolist()]
    found = ours._generate_and_score_completions([dict(ours.train_dataset[index // 4]) for index in range(8)])
    torch.testing.assert_close(found["advantages"], expected)


def test_rewarding_the_plurality_label_finds_it_and_forgets_the_rest(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm)
    batch = {"per_device_train_batch_size": 32}
    trainer = shala_trainer(model, tmp_path, method="grpo_majority", max_steps=60, **batch)
    trainer.train()
    log = [record for record in trainer.state.log_history if "reward" in record]
    assert log[-1]["reward"] > log[0]["reward"] + 0.3
    assert log[-1]["entropy"] < 0.5 * log[0]["entropy"], "one label, whatever the raters' division"


@pytest.mark.parametrize("readout", ["label_token", "slots"])
def test_resuming_dynamic_weights_is_exact(tiny_lm, tmp_path, readout):
    options = {
        "method": "shala_dynamic", "ambiguity_lambda": 0.9, "count": 16, "max_steps": 12, "save_strategy": "steps",
        "save_steps": 3, "save_total_limit": 9, "logging_steps": 2, "per_device_train_batch_size": 16,
        **({"num_iterations": 2} if readout == "slots" else {}),
    }  # fmt: skip
    first, second = ("checkpoint-4", "checkpoint-6") if readout == "slots" else ("checkpoint-3", "checkpoint-6")
    whole = tiny_model(tiny_lm, readout=readout)
    trainer = shala_trainer(whole, tmp_path / "whole", **options)
    trainer.train()
    again = tiny_model(tiny_lm, readout=readout, seed=5)
    resumed = shala_trainer(again, tmp_path / "again", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / first))
    assert resumed.weights.running_loss.tolist() == trainer.weights.running_loss.tolist()
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


def test_wrong_settings(tiny_lm, tmp_path):
    with pytest.raises(UserError, match="beta"):
        config(tmp_path, readout="slots", beta=0.1)
    with pytest.raises(UserError, match="reward is 'joy'"):
        config(tmp_path, readout="slots", reward="joy")
    with pytest.raises(UserError, match="scale_rewards is 'bacth'; did you mean batch"):
        config(tmp_path, method="grpo_jsd", scale_rewards="bacth")
    with pytest.raises(UserError, match="static, dynamic, off"):
        shala_trainer(tiny_model(tiny_lm, readout="slots"), tmp_path, ambiguity="sometimes")
    assert isinstance(config(tmp_path, readout="slots"), GrpoConfig)


def test_all_digits_are_learnt_from_without_a_spread_between_answers(tiny_lm, tmp_path):
    """The gradient is that of the expected reward at each place, written out; and the reward goes up."""
    model = tiny_model(tiny_lm, readout="slots")
    trainer = shala_trainer(
        model, tmp_path, advantage="all_digits", ambiguity="static", max_steps=40, learning_rate=5e-3
    )
    rows = [dict(trainer.train_dataset[index // 4]) for index in range(8)]
    inputs = trainer._generate_and_score_completions(rows)
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(model, inputs)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    probs = model.readout.digit_log_probs({"input_ids": ids, "attention_mask": mask})[0].exp()
    weights = torch.tensor(trainer.weights.all()[[index // 4 for index in range(8)]], dtype=torch.float32)
    human = np.array([row["human"] for row in rows])
    rewards = torch.tensor(every_digit("jsd", human, model.readout.digits(inputs["completion_ids"].tolist())))
    expected = -(weights[:, None, None] * probs * rewards.float()).sum() / 8
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    trainer.train()
    earned = [entry["expected_reward"] for entry in trainer.state.log_history if "expected_reward" in entry]
    assert np.mean(earned[-5:]) > np.mean(earned[:5]) + 0.02


def test_every_digit_of_a_written_answer_is_judged(tiny_lm, tmp_path, monkeypatch):
    """The gradient is that of GRPO outside the digits, and of the expected reward at each digit, written out."""
    written = ['{"anger": 70, "disgust": 5}', '{"disapproval": 9}', "no idea, 5", '{"anger": 10, "disapproval": 90}']
    model = tiny_model(tiny_lm, readout="verbalized")
    options = {"ambiguity": "static", "num_generations": 2, "per_device_train_batch_size": 4}
    trainer = shala_trainer(model, tmp_path, advantage="all_digits", **options)
    tokens = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in written]
    tokens, mask = pad_right([[*row, model.tokenizer.eos_token_id] for row in tokens], torch.device("cpu"))
    tokens = tokens.masked_fill(mask == 0, model.tokenizer.eos_token_id)
    monkeypatch.setattr(model, "generate", lambda input_ids, **_: torch.cat([input_ids, tokens], dim=1))
    rows = [dict(trainer.train_dataset[index // 2]) for index in range(4)]
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._generate_and_score_completions(rows)
    places = inputs["digit_places"]
    decoded = [
        [model.tokenizer.decode(int(token)) for token in row[where]] for row, where in zip(tokens, places, strict=True)
    ]
    assert decoded == [["7", "0", "5"], [], [], ["1", "0", "9", "0"]], "where the reward depends on them"
    assert not inputs["advantages"][places].any() and inputs["advantages"][1:3].any(), "the rest is GRPO's"
    loss = trainer._compute_loss(model, inputs)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=seen).logits[:, -tokens.shape[1] - 1 : -1]
    digit_ids = [model.tokenizer(str(digit), add_special_tokens=False)["input_ids"][0] for digit in range(10)]
    weights = trainer.weights.all()[[row["row"] for row in rows]]
    expected = 0.0
    for number, place in places.nonzero().tolist():
        probs = logits[number, place, digit_ids].softmax(dim=-1)
        for digit in range(10):
            other = tokens[number].clone()
            other[place] = digit_ids[digit]
            stated = parse_answer(model.tokenizer.decode(other, skip_special_tokens=True), model.task.label_names)
            reward = 0.0 if stated is None else 1 - jsd(np.array(rows[number]["human"]), stated)
            expected = expected - weights[number] * probs[digit] * reward / 4
    del inputs["every_digit"]
    rest = trainer._compute_loss(model, inputs)
    assert (loss - rest).item() == pytest.approx(expected.item(), rel=1e-4)
    parameter = next(p for name, p in model.named_parameters() if "lora_B" in name)
    gradient, wanted = (
        torch.autograd.grad(value, parameter, retain_graph=True)[0] for value in (loss - rest, expected)
    )
    torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-3)


def test_runs_whose_answers_never_parse_are_stopped_with_all_digits_too(tiny_lm, tmp_path):
    """A random model writes no JSON."""
    model = tiny_model(tiny_lm, readout="verbalized")
    trainer = shala_trainer(model, tmp_path, advantage="all_digits", max_steps=6, zero_variance_patience=3)
    with pytest.raises(Stopped, match="step 3"):
        trainer.train()


def test_of_two_valid_answers_the_shorter_one_earns_more(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm, readout="verbalized")
    trainer = shala_trainer(model, tmp_path, brevity_reward=0.2, invalid_reward=-0.5)
    texts = ['{"anger": 100}', '{"anger": 100, "disgust": 0, "disapproval": 0}', "no idea"]
    tokens = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    rows = [{"human": [1.0, 0.0, 0.0], "prompt": ""}] * 3
    found = trainer._calculate_rewards(rows, [""] * 3, texts, tokens)[:, 0].tolist()
    longest = trainer.args.max_completion_length
    expected = [0.8 + 0.2 * (1 - len(ids) / longest) for ids in tokens[:2]]
    assert found == pytest.approx([*expected, -0.5]) and found[0] > found[1]
    assert trainer._rewards.tolist() == pytest.approx([1.0, 1.0, -0.5]), "of which dynamic weights are made"
    with pytest.raises(UserError, match="brevity_reward is 0.6; use 0 to 0.5"):
        config(tmp_path, readout="verbalized", brevity_reward=0.6)


def test_digits_that_share_tokens_are_refused(tiny_lm, tmp_path, monkeypatch):
    model = tiny_model(tiny_lm, readout="verbalized")
    monkeypatch.setattr(model, "tokenizer", lambda text, **_: {"input_ids": [len(text)]})
    with pytest.raises(UserError, match="has no token for each digit"):
        _ = model.readout.digit_ids


def test_rows_whose_answers_all_earn_alike_are_replaced(tiny_lm, tmp_path):
    """An even vote earns the same whichever label is drawn; such rows give way to others, once in a step each."""
    even = {"anger": 1, "disgust": 1, "disapproval": 1}
    trained: dict[bool, list[list[int]]] = {}
    for dynamic in (False, True):
        model = tiny_model(tiny_lm)
        rows, _ = tiny_rows(model, 32)
        rows = [replace(row, votes=even) if number % 2 else row for number, row in enumerate(rows)]
        options = {"method": "grpo_jsd", "max_steps": 6, "num_generations": 8, "per_device_train_batch_size": 32}
        trainer = shala_trainer(model, tmp_path / str(dynamic), rows=rows, dynamic_sampling=dynamic, **options)
        seen = trained.setdefault(dynamic, [])
        scored = trainer._generate_and_score_completions

        def watched(inputs, scored=scored, seen=seen):
            output = scored(inputs)
            seen.append(output["row"].tolist())
            return output

        trainer._generate_and_score_completions = watched
        trainer.train()
        for step in seen:
            assert len(step) == 32 and len(set(step)) == 4, "as many prompts as before, each once"
            assert all(step.count(row) == 8 for row in step)
    alike = [np.mean([row % 2 for step in trained[dynamic] for row in step]) for dynamic in (False, True)]
    assert alike[0] > 0.3 and alike[1] < 0.6 * alike[0], "half of the others are even, too"
    log = [record for record in trainer.state.log_history if "replaced" in record]
    assert log and max(record["replaced"] for record in log) > 0


def test_dynamic_sampling_is_refused_where_it_cannot_be(tiny_lm, tmp_path):
    for readout, more in (("verbalized", {}), ("slots", {"advantage": "all_digits"})):
        with pytest.raises(UserError, match="dynamic_sampling: is for readouts"):
            shala_trainer(tiny_model(tiny_lm, readout=readout), tmp_path, dynamic_sampling=True, **more)


def test_padding_that_would_shift_the_digits_is_refused(tiny_lm, tmp_path):
    """`slots` counted its places from the end of the padding."""
    with pytest.raises(UserError, match="pad_to_multiple_of: does not go with readout slots"):
        shala_trainer(tiny_model(tiny_lm, readout="slots"), tmp_path, pad_to_multiple_of=8)


@pytest.mark.parametrize("readout", ["slots", "reasoned"])
def test_no_more_answers_are_drawn_at_once_than_are_learnt_from(tiny_lm, tmp_path, readout, monkeypatch):
    """All of a step's were, whose keys and values fill a GPU that its parts would fit."""
    model = tiny_model(tiny_lm, readout=readout)
    options = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 3, "num_generations": 4, "max_steps": 1}
    trainer = shala_trainer(model, tmp_path, count=12, **options)
    drawn, rollouts = [], model.readout.rollouts

    def watched(batch, group, temperature):
        found = rollouts(batch, group, temperature)
        drawn.append(found.completions)
        return found

    monkeypatch.setattr(model.readout, "rollouts", watched)
    prompts = [row["prompt"] for row in trainer.train_dataset.to_list()[:6] for _ in range(4)]
    trainer._audio = {}
    found = trainer.rollouts(prompts)
    assert [len(part) for part in drawn] == [8, 8, 8]
    assert found["completion_ids"] == [one for part in drawn for one in part] and len(found["env_mask"]) == 24
    assert trainer._stated is None if readout == "slots" else trainer._stated.shape == (24, 3)
