from __future__ import annotations

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from shala_audio.errors import Stopped, UserError
from shala_audio.models.readouts.base import append_completions
from shala_audio.models.readouts.verbalized import pad_right, write_answer
from shala_audio.training import adapter_pretraining
from shala_audio.training.adapter_pretraining import Kept, pretrain_adapter
from shala_audio.training.losses import js_divergence
from shala_audio.training.trainer import part_learning_rates
from tests.tiny import label_log_probs, tiny_model
from tests.training.helpers import config, shala_trainer, supervised_trainer


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized"])
@pytest.mark.parametrize("speech", [True, False])
def test_the_loss_falls(tiny_lm, tiny_encoder, tmp_path, readout, speech):
    model = tiny_model(tiny_lm, tiny_encoder if speech else None, readout=readout)
    trainer = supervised_trainer(model, tmp_path, max_steps=25)
    trainer.train()
    losses = [float(record["loss"]) for record in trainer.state.log_history if "loss" in record]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_slots_learn_what_people_say(tiny_lm, tmp_path):
    """Four texts learnt by heart: the digits state the human distributions."""
    model = tiny_model(tiny_lm, readout="slots", lora_r=16)
    trainer = supervised_trainer(model, tmp_path, count=4, max_steps=150, per_device_train_batch_size=4)
    trainer.train()
    model.eval()
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    said = torch.tensor(model.readout.predict(batch["prompt"]).probs)
    assert (said - batch["human"]).abs().mean() < 0.12


def test_verbalized_loss_is_the_models_own(tiny_lm, tmp_path):
    """Against cross-entropy computed from whole logits, one row at a time, without padding."""
    model = tiny_model(tiny_lm, readout="verbalized").eval()
    trainer = supervised_trainer(model, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    loss = model.readout.supervised_losses(batch["prompt"], batch["human"])[0].mean()
    means, lengths = [], set()
    for index, human in enumerate(batch["human"].tolist()):
        prompt = model.tokenizer(trainer.train_dataset[index]["prompt"], add_special_tokens=False)["input_ids"]
        answer = model.tokenizer(write_answer(human, model.task.label_names), add_special_tokens=False)["input_ids"]
        answer = [*answer, model.tokenizer.eos_token_id]
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        means.append(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)).item())
        lengths.add(len(answer))
    assert loss.item() == pytest.approx(sum(means) / len(means), rel=1e-5)
    assert len(lengths) > 1, "so that the mean over all tokens would be another"


def test_adapter_pretraining_learns_and_touches_nothing_else(tiny_lm, tiny_encoder, tmp_path):
    model = tiny_model(tiny_lm, tiny_encoder)
    trainer = supervised_trainer(model, tmp_path)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = pretrain_adapter(
        model,
        trainer.train_dataset,
        trainer.batcher,
        config(tmp_path, method="warm_start", adapter_epochs=30, adapter_learning_rate=1e-2),
    )
    assert losses[-1] < losses[0] - 0.1
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(".audio_adapter." in name for name in changed)


def test_adapter_pretraining_is_the_same_however_many_clips_fit(tiny_lm, tiny_encoder, tmp_path):
    """A smaller batch did not help where memory was full."""
    found = []
    for together in (32, 3):
        model = tiny_model(tiny_lm, tiny_encoder)
        trainer = supervised_trainer(model, tmp_path)
        settings = {"method": "warm_start", "adapter_epochs": 2, "adapter_learning_rate": 1e-2}
        settings |= {"per_device_train_batch_size": together}
        losses = pretrain_adapter(model, trainer.train_dataset, trainer.batcher, config(tmp_path, **settings))
        found.append((losses, [parameter.detach() for parameter in model.model.audio_adapter.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


def test_adapter_pretraining_stops_at_a_loss_that_is_no_number(tiny_lm, tiny_encoder, tmp_path):
    model = tiny_model(tiny_lm, tiny_encoder)
    trainer = supervised_trainer(model, tmp_path)
    model.model.audio_adapter.layer_logits.data.fill_(torch.nan)
    with pytest.raises(Stopped, match="adapter pretraining, step 1: the loss is nan"):
        pretrain_adapter(
            model, trainer.train_dataset, trainer.batcher, config(tmp_path, method="warm_start", adapter_epochs=1)
        )


def test_adapter_pretraining_goes_on_where_it_was_stopped(tiny_lm, tiny_encoder, tmp_path, monkeypatch):
    """It began anew, and took a quarter of an hour again."""
    monkeypatch.setattr(adapter_pretraining, "KEPT_EVERY", 2)
    settings = {"method": "warm_start", "adapter_epochs": 5, "adapter_learning_rate": 1e-2}
    kept = Kept(tmp_path, {"seed": 0})

    def learn() -> tuple[list[float], list[torch.Tensor]]:
        torch.manual_seed(0)
        model = tiny_model(tiny_lm, tiny_encoder)
        trainer = supervised_trainer(model, tmp_path)
        adapter = model.model.audio_adapter
        adapter.augment = True
        losses = pretrain_adapter(model, trainer.train_dataset, trainer.batcher, config(tmp_path, **settings), kept)
        return losses, [parameter.detach().clone() for parameter in adapter.parameters()]

    assert not kept.check(resume=False)
    whole_losses, whole = learn()
    kept.path.unlink()
    steps, visit = iter(range(100)), adapter_pretraining.pooled_logits

    def stopped(*arguments):
        if next(steps) == 3:
            raise KeyboardInterrupt
        return visit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(adapter_pretraining, "pooled_logits", stopped)
        with pytest.raises(KeyboardInterrupt):
            learn()
    assert kept.check(resume=True)
    with pytest.raises(UserError, match="--resume continues it"):
        kept.check(resume=False)
    with pytest.raises(UserError, match="of a run with other settings"):
        Kept(tmp_path, {"seed": 1}).check(resume=True)
    losses, found = learn()
    assert losses == pytest.approx(whole_losses) and all(map(torch.equal, found, whole))


def test_padding_on_the_right():
    tokens, mask = pad_right([[1, 2, 3], [4]], torch.device("cpu"))
    assert tokens.tolist() == [[1, 2, 3], [4, 0, 0]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    prompt = {"input_ids": torch.tensor([[7], [8]]), "attention_mask": torch.ones(2, 1, dtype=torch.long)}
    joined = append_completions(prompt, tokens, mask)
    assert joined["input_ids"].shape == (2, 4) and joined["attention_mask"][1].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized"])
@pytest.mark.parametrize("method", ["warm_start", "shala"])
def test_bf16_reaches_the_backbone(tiny_lm, tmp_path, readout, method, monkeypatch):
    """What computes the losses goes through the model's own forward, which is where `Trainer` puts autocast."""
    monkeypatch.setattr("shala_audio.training.config.bf16_slowdown", lambda: 0.5)
    model = tiny_model(tiny_lm, readout=readout)
    make = supervised_trainer if method == "warm_start" else shala_trainer
    trainer = make(model, tmp_path, max_steps=1, bf16=True)
    seen = []
    model.model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu") and model.training))
    trainer.train()
    assert any(seen), "no forward pass of training ran under autocast"
    assert not torch.is_autocast_enabled("cpu"), "autocast goes on after the training"


def test_the_direct_loss_is_the_weighted_divergence(tiny_lm, tmp_path):

    model = tiny_model(tiny_lm)
    trainer = shala_trainer(model, tmp_path)
    rows = [trainer.train_dataset[index] for index in range(8)]
    inputs = trainer._prepare_inputs(trainer.batcher(rows))
    log_q = label_log_probs(model, inputs["prompt"])
    weights = torch.tensor(trainer.weights.all(), dtype=torch.float32)
    expected = (weights * js_divergence(inputs["human"], log_q)).mean()
    torch.testing.assert_close(trainer.compute_loss(model, inputs), expected)


def test_the_direct_objective_approaches_the_raters(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm)
    trainer = shala_trainer(model, tmp_path, max_steps=40)
    trainer.train()
    distances = [record["jsd"] for record in trainer.state.log_history if "jsd" in record]
    assert distances[-1] < 0.6 * distances[0]


def test_accumulated_batches_give_the_same_losses(tiny_lm, tmp_path):
    """Batch 2 x accumulation 4 gives the weights of batch 8 after a step of the direct objective."""
    results = []
    for batch, steps in ((8, 1), (2, 4)):
        model = tiny_model(tiny_lm)
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
        shala_trainer(model, tmp_path, max_steps=1, optim="sgd", max_grad_norm=0, **options).train()
        results.append(snapshot(model))
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], atol=2e-4, rtol=2e-3)


def test_the_direct_objective_takes_any_batch_size(tmp_path):
    for batch, steps in ((1, 2), (5, 1), (3, 2)):
        settings = config(tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=steps)
        assert settings.per_device_train_batch_size == batch
    with pytest.raises(ValueError, match="num_generations"):
        config(tmp_path, per_device_train_batch_size=5, readout="slots")


def test_the_distance_itself_can_be_the_loss(tiny_lm, tmp_path):

    model = tiny_model(tiny_lm)
    trainer = shala_trainer(model, tmp_path, direct_loss="distance", ambiguity="off")
    inputs = trainer._prepare_inputs(trainer.batcher([trainer.train_dataset[index] for index in range(8)]))
    q = label_log_probs(model, inputs["prompt"]).exp().detach().numpy()
    expected = jensenshannon(inputs["human"].numpy(), q, base=2, axis=1).mean()
    assert trainer.compute_loss(model, inputs).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [({}, (1, 1, 1)), ({"adapter": 0.0}, (1, 0, 0)), ({"adapter": 2.0, "encoder": 0.0}, (1, 2, 0))],
)
def test_parts_have_learning_rates_of_their_own(tmp_path, rates, expected):
    """Also a rate of 0, which keeps the audio adapter, or the encoder's layers in it, as they are."""
    args = config(tmp_path, learning_rate=1.0, **{f"{part}_learning_rate": rate for part, rate in rates.items()})
    found = part_learning_rates(args)
    assert (found["lm"], found["audio adapter"], found["encoder"]) == expected


def test_memory_does_not_grow_with_what_is_logged(tiny_lm, tmp_path, monkeypatch):
    monkeypatch.setattr("shala_audio.training.trainer.LOGGED_KEPT", 3)
    trainer = shala_trainer(tiny_model(tiny_lm), tmp_path, max_steps=6)
    trainer.train()
    assert [record["step"] for record in trainer.state.log_history] == [5, 6, 6], "the last is the end's"


def test_a_micro_batch_that_is_not_full_counts_by_its_rows(tiny_lm, tmp_path):
    """Five rows in batches of 2, 2 and 1 are one step of five; the last row counted as much as two others together."""
    results = []
    for batch, steps in ((5, 1), (2, 3)):
        model = tiny_model(tiny_lm)
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
        trainer = shala_trainer(model, tmp_path, count=5, max_steps=1, optim="sgd", max_grad_norm=0, **options)
        trainer.train()
        trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        results.append((trained, trainer.state.log_history[0]["loss"]))
    (whole, loss), (parts, parts_loss) = results
    assert parts_loss == pytest.approx(loss, abs=1e-5)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-4)


def test_autocast_needs_the_models_forward(tiny_lm):
    """Why `SpeechLM.forward` takes `compute`: what is computed beside it is not under autocast. (That DDP and FSDP need it
    too is shown by `test_processes`.)"""
    from accelerate.utils import convert_outputs_to_fp32

    model = tiny_model(tiny_lm)
    batch = {"input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    seen = []
    model.model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))  # as accelerate does
    model.readout.log_probs(batch)
    model(compute=lambda: model.readout.log_probs(batch))
    assert not any(seen[: len(seen) // 2]) and all(seen[len(seen) // 2 :])
