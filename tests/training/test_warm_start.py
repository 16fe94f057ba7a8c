from __future__ import annotations

import pytest
import torch

from shala_audio.models.readouts.verbalized import write_answer
from shala_audio.training.ear_warm_up import warm_up_ear
from shala_audio.training.warm_start import append_completions, pad_right
from tests.tiny import tiny_model
from tests.training.helpers import config, shala_trainer, warm_start_trainer


@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized"])
@pytest.mark.parametrize("speech", [True, False])
def test_the_loss_falls(tiny_lm, tiny_encoder, tmp_path, readout, speech):
    model = tiny_model(tiny_lm, tiny_encoder if speech else None, readout=readout)
    trainer = warm_start_trainer(model, tmp_path, max_steps=25)
    trainer.train()
    losses = [float(record["loss"]) for record in trainer.state.log_history if "loss" in record]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_slots_learn_what_people_say(tiny_lm, tmp_path):
    """Four texts learnt by heart: the digits state the human distributions."""
    from shala_audio.models.readouts.slots import slot_distributions

    model = tiny_model(tiny_lm, readout="slots", lora_r=16)
    trainer = warm_start_trainer(model, tmp_path, count=4, max_steps=150, per_device_train_batch_size=4)
    trainer.train()
    model.eval()
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    said = slot_distributions(model, trainer.template, batch["prompt"])
    assert (said - batch["human"]).abs().mean() < 0.12


def test_verbalized_loss_is_the_models_own(tiny_lm, tmp_path):
    """Against cross-entropy computed from whole logits, one row at a time, without padding."""
    model = tiny_model(tiny_lm, readout="verbalized").eval()
    trainer = warm_start_trainer(model, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    loss = trainer._verbalized_loss(model, batch["prompt"], batch["human"])
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


def test_the_ear_warm_up_learns_and_touches_nothing_else(tiny_lm, tiny_encoder, tmp_path):
    model = tiny_model(tiny_lm, tiny_encoder)
    trainer = warm_start_trainer(model, tmp_path)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = warm_up_ear(
        model, trainer.train_dataset, trainer.batcher, config(tmp_path, ear_epochs=30, ear_learning_rate=1e-2)
    )
    assert losses[-1] < losses[0] - 0.1
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(".ear." in name for name in changed)


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
    make = warm_start_trainer if method == "warm_start" else shala_trainer
    trainer = make(model, tmp_path, max_steps=1, bf16=True)
    seen = []
    model.model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu") and model.training))
    trainer.train()
    assert any(seen), "no forward pass of training ran under autocast"
    assert not torch.is_autocast_enabled("cpu"), "autocast goes on after the training"
