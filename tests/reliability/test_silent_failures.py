"""Runs that cannot learn stop, and say why."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from shala_audio.errors import Stopped, UserError
from shala_audio.manifest import read_manifest, write_manifest
from shala_audio.models.readouts import label_token
from shala_audio.task import Label
from shala_audio.training import rewards
from shala_audio.training.callbacks import GradientGuard
from shala_audio.training.run import train
from tests.cli.test_cli import invoke
from tests.tiny import TEXT_TASK, tiny_model
from tests.training.conftest import settings  # noqa: F401  (a fixture)
from tests.training.helpers import shala_trainer


@pytest.mark.parametrize("method", ["warm_start", "shala"])
def test_a_loss_that_is_no_number(settings, method, monkeypatch):  # noqa: F811
    steps = []
    log_probs = label_token.LabelToken.log_probs

    def spoilt(self, batch):
        steps.append(1)
        log_q, attributes = log_probs(self, batch)
        return log_q * (float("nan") if len(steps) == 3 else 1.0), attributes

    monkeypatch.setattr(label_token.LabelToken, "log_probs", spoilt)
    with pytest.raises(Stopped, match="step 3: the loss is nan; use a lower learning_rate"):
        train(settings("run", method=method, max_steps=6, dev_evaluations=0))


def test_a_gradient_that_is_no_number(tiny_lm, tmp_path):
    model = tiny_model(tiny_lm)
    trainer = shala_trainer(model, tmp_path)
    trainer.add_callback(GradientGuard(model.trained_parts()))
    next(p for name, p in model.named_parameters() if "lora_B" in name).register_hook(lambda g: g * float("inf"))
    with pytest.raises(Stopped, match="step 1: the gradient of the lm is NaN"):
        trainer.train()


@pytest.mark.parametrize(("part", "says"), [("audio_adapter", "the audio adapter"), ("lora", "the lm"), ("", "the")])
def test_no_gradient_at_a_part(tiny_lm, tiny_encoder, tmp_path, part, says):
    model = tiny_model(tiny_lm, tiny_encoder)
    trainer = shala_trainer(model, tmp_path, max_steps=9)
    trainer.add_callback(GradientGuard(model.trained_parts()))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and part in name:
            parameter.register_hook(torch.zeros_like)
    with pytest.raises(Stopped, match=rf"step 5: no gradient has reached {says} .*for 5 steps"):
        trainer.train()


def test_no_gradient_though_rewards_differ(tiny_lm, tmp_path):
    """Where rollouts have earned different rewards, a step without any gradient is a fault."""
    model = tiny_model(tiny_lm, readout="slots")
    trainer = shala_trainer(model, tmp_path, max_steps=9)
    trainer.add_callback(GradientGuard(model.trained_parts(), silent=lambda: trainer.nothing_to_learn))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(torch.zeros_like)
    with pytest.raises(Stopped, match="no gradient has reached the lm"):
        trainer.train()


def test_a_task_of_other_labels_than_the_model(settings, tmp_path):  # noqa: F811
    train(settings("first", method="zero_shot"))
    with pytest.raises(UserError, match="goemotions: has other labels than"):
        train(settings("second", method="shala", init=str(tmp_path / "first"), task="goemotions"))


def test_a_label_that_no_answer_can_hold(tiny_lm):
    task = replace(TEXT_TASK, labels=(Label('so "called"', "so"), Label("b", "b")))
    with pytest.raises(UserError, match="readout verbalized cannot state label"):
        tiny_model(tiny_lm, readout="verbalized", task=task)


def test_the_last_step_leaves_numbers(settings, monkeypatch):  # noqa: F811
    """No loss and no gradient comes after it that could show it."""
    step = torch.optim.AdamW.step

    def spoil(self, *arguments, **options):
        done = step(self, *arguments, **options)
        self.param_groups[0]["params"][0].data.fill_(float("nan"))
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(Stopped, match="is NaN or infinite after the last step"):
        train(settings("run", method="warm_start", max_steps=1, dev_evaluations=0))


def test_nothing_changed_at_all(settings):  # noqa: F811
    with pytest.raises(Stopped, match="training changed no parameter"):
        train(settings("run", method="shala", max_steps=3, learning_rate=0.0, weight_decay=0.0))


def test_all_rewards_equal(tiny_lm, tmp_path, monkeypatch):
    monkeypatch.setitem(rewards.REWARDS, "jsd", lambda human, stated: np.full(len(human), 0.25))
    options = {"ambiguity": "off", "max_steps": 9, "zero_variance_patience": 3}
    trainer = shala_trainer(tiny_model(tiny_lm, readout="slots"), tmp_path, **options)
    with pytest.raises(
        Stopped, match=r"step 3: all groups have had zero reward variance for 3 batches .*0.250 on average"
    ):
        trainer.train()


def changed(settings, tmp_path, change):  # noqa: F811
    rows = change(read_manifest(tmp_path / "manifest.jsonl"))
    write_manifest(tmp_path / "changed.jsonl", rows)
    return settings("run", method="warm_start", manifest=str(tmp_path / "changed.jsonl"))


def test_votes_for_a_label_that_the_model_does_not_have(settings, tmp_path):  # noqa: F811
    from dataclasses import replace

    with pytest.raises(UserError, match="bliss"):
        train(changed(settings, tmp_path, lambda rows: [replace(rows[0], votes={"bliss": 3}), *rows[1:]]))


def test_a_speaker_in_two_splits(settings, tmp_path):  # noqa: F811
    from dataclasses import replace

    def share(rows):
        test = next(index for index, row in enumerate(rows) if row.split == "test")
        speaker = next(row.speaker for row in rows if row.split == "train")
        return [replace(row, speaker=speaker) if index == test else row for index, row in enumerate(rows)]

    with pytest.raises(UserError, match=r"speaker \S+ is in \w+ and in \w+"):
        train(changed(settings, tmp_path, share))


def test_rows_of_test_are_not_learnt_from(settings, tmp_path):  # noqa: F811
    """Other votes on the test and dev rows change no weight."""
    from dataclasses import replace

    train(settings("plain", method="warm_start"))

    def lie(rows):
        return [row if row.split == "train" else replace(row, votes={"anger": 1}) for row in rows]

    train(changed(settings, tmp_path, lie))
    plain, lied = ((tmp_path / name / "trained.safetensors").read_bytes() for name in ("plain", "run"))
    assert plain == lied


def test_a_test_split_used_for_a_choice(settings, tmp_path):  # noqa: F811
    train(settings("run", method="warm_start"))
    manifest, out = tmp_path / "manifest.jsonl", tmp_path / "test.jsonl"
    invoke("predict", tmp_path / "run", manifest, "--split", "test", "--format", "jsonl", "--out", out)
    with pytest.raises(UserError, match="a calibration is fitted on dev alone"):
        invoke("evaluate", "calibrate", tmp_path / "run", out, manifest)
    assert json.loads(out.read_text().splitlines()[0])["probs"]


def test_a_stop_is_one_line_and_exit_status_1(monkeypatch, capsys):
    from shala_audio.cli import main

    def stop():
        raise Stopped("step 3: the loss is nan")

    monkeypatch.setattr(main, "app", stop)
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 1
    assert capsys.readouterr().err == "shala-audio: stopped: step 3: the loss is nan\n"


@pytest.mark.parametrize("readout", ["label_token", "slots"])
def test_batches_that_weigh_nothing_are_no_fault(settings, readout, caplog):  # noqa: F811
    """With λ = 1 rows that all raters agree about weigh 0, and where most rows are such, so do whole batches."""
    caplog.set_level("INFO")
    group = 1 if readout == "label_token" else 2
    config = settings("run", method="shala", readout=readout, ambiguity_lambda=1.0, max_steps=14, dev_evaluations=0,
                      per_device_train_batch_size=2 * group, **({} if group == 1 else {"num_generations": 2}))  # fmt: skip
    rows = read_manifest(config.manifest)
    train_rows = [row for row in rows if row.split == "train"]
    contested = train_rows[-1].id
    label, other = "anger", "calm"
    agreed = [replace(row, votes={label: 5}) if row.split == "train" and row.id != contested else row for row in rows]
    write_manifest(
        config.manifest,
        [replace(row, votes={label: 2, other: 2}) if row.id == contested else row for row in agreed],
    )
    train(config)
    assert f"{len(train_rows) - 1} of {len(train_rows)} rows weigh 0" in caplog.text
