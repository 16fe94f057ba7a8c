from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from shala_audio.errors import Stopped, UserError
from shala_audio.inference.predictor import Predictor
from shala_audio.io import read_json
from shala_audio.manifest import read_manifest
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import Attribute, load_task
from shala_audio.training.run import _losses, train
from shala_audio.votes import human_distributions
from tests.tiny import tiny_config, tiny_model
from tests.training.helpers import config, tiny_rows


def test_dynamic_weights_start_from_what_the_model_predicts(settings, tmp_path):
    train(settings("warm", method="warm_start"))
    init = str(tmp_path / "warm")
    train(settings("dynamic", method="shala_dynamic", init=init, max_steps=3, ambiguity_lambda=0.9))
    records = [json.loads(line) for line in (tmp_path / "dynamic" / "log.jsonl").read_text().splitlines()]
    assert "running_loss/mean" in next(record for record in records if "loss" in record), (
        "rows are known before the first step"
    )
    record = read_json(tmp_path / "dynamic" / "training.json")
    assert record["settings"]["ambiguity"] == "dynamic" and record["settings"]["ambiguity_lambda"] == 0.9
    assert record["before"] and record["peak_mb"] > 0 and str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize("reward", ["jsd", "brier"])
def test_dynamic_weights_begin_in_the_unit_that_rollouts_go_on_in(tiny_lm, tmp_path, reward):
    model = tiny_model(tiny_lm, readout="slots")
    rows, _ = tiny_rows(model)
    found = _losses(model, rows, None, config(tmp_path, readout="slots", reward=reward))
    predicted = np.stack([answer.probs for _, answer in Predictor(model, "cpu").predict_rows(rows)])
    order = [identity for identity, _ in Predictor(model, "cpu").predict_rows(rows)]
    human = human_distributions(
        [next(row for row in rows if row.id == identity) for identity in order], model.task.label_names
    )
    jsd, brier = jensenshannon(human, predicted, axis=1, base=2), np.square(human - predicted).sum(axis=1) / 2
    expected = dict(zip(order, jsd if reward == "jsd" else brier, strict=True))
    assert found == pytest.approx([expected[row.id] for row in rows], abs=0.01), "answers are whole per cent"


@pytest.mark.parametrize("readout", ["slots", "verbalized"])
def test_a_model_goes_on_with_another_readout(settings, tmp_path, readout):
    """What label_token has learnt is where answers that are written begin."""
    train(settings("warm", method="warm_start"))
    start, out = tmp_path / "warm", tmp_path / readout
    train(settings(readout, method="sft_soft", init=str(start), readout=readout, max_steps=2, vote_resampling=True))
    assert read_json(out / "shala.json")["readout"] == readout
    assert read_json(out / "training.json")["readout"] == readout
    began = SpeechLM.from_pretrained(start, readout=readout)
    assert began.readout.name == readout
    learnt = dict(SpeechLM.from_pretrained(start).named_parameters())
    assert all(bool((learnt[name] == p).all()) for name, p in began.named_parameters() if p.requires_grad)
    train(settings("again", method="sft_soft", init=str(out), max_steps=2))
    assert read_json(tmp_path / "again" / "training.json")["readout"] == readout, "that of the start, if none is named"


def test_attributes_do_not_go_with_another_readout(settings, tiny_lm, tmp_path):
    task = replace(load_task("mini_text"), attributes=(Attribute("arousal", 1, 7),))
    SpeechLM.build(tiny_config(tiny_lm), task, "label_token", attributes=True).save_pretrained(tmp_path / "warm")
    with pytest.raises(UserError, match="attributes: readout label_token"):
        train(settings("run", method="sft_soft", init=str(tmp_path / "warm"), readout="slots"))


def test_a_head_that_no_loss_asks_for_stops_no_run(settings, tiny_lm, tmp_path):
    """Any run from a warm start with attributes ended after five steps, unless it learnt attributes too."""
    task = replace(load_task("mini_text"), attributes=(Attribute("arousal", 1, 7),))
    build = {"task": task, "readout": "label_token", "attributes": True}
    SpeechLM.build(tiny_config(tiny_lm), **build).save_pretrained(tmp_path / "warm")
    for method in ("shala", "grpo_jsd"):
        given = {"init": str(tmp_path / "warm"), "max_steps": 7, "num_generations": 4} if "grpo" in method else {}
        train(settings(method, method=method, **{"init": str(tmp_path / "warm"), "max_steps": 7, **given}))
        assert (tmp_path / method / "training.json").is_file()


def test_a_single_step_that_learns_nothing_is_no_model(settings, tmp_path):
    """The one step of a run is all warm-up."""
    with pytest.raises(Stopped, match="one step alone has a learning rate of 0"):
        train(settings("run", method="warm_start", max_steps=1, warmup_steps=0.06, lr_scheduler_type="linear"))
    assert not (tmp_path / "run" / "training.json").exists()


def test_rows_that_a_pass_of_rollouts_leaves_out_are_counted(settings, tmp_path, caplog):
    caplog.set_level("INFO")
    options = {"max_steps": 1, "per_device_train_batch_size": 12, "num_generations": 4}
    train(settings("run", method="shala", readout="slots", **options))
    rows = len(read_manifest(tmp_path / "manifest.jsonl", "train"))
    assert rows % 3, "or nothing is left out"
    assert f"{rows % 3} of {rows} rows, others each time, are left out of a pass: 3 go together" in caplog.text


def test_a_checkpoint_of_other_settings_is_not_resumed(settings, tmp_path):
    options = {"method": "warm_start", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    stopped = settings("run", **options)
    train(stopped)
    # As after an interruption: the checkpoint and the note of what the run was.
    folder = tmp_path / "run"
    shutil.copytree(folder, tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", folder / "checkpoint-2")
    with pytest.raises(UserError, match="a run with other learning_rate; remove"):
        train(settings("run", **options, resume=True, learning_rate=0.5))
    with pytest.raises(UserError, match="a run with other seed"):
        train(settings("run", **{**options, "seed": 1}, resume=True))
    with pytest.raises(UserError, match="checkpoint-2: of a run that was interrupted; --resume continues"):
        train(settings("run", **options))
    assert (folder / "checkpoint-2").exists(), "days of work are not thrown away for a forgotten flag"


def test_training_removes_what_an_older_model_left(settings, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("calibration_temperature.json", "predictions.jsonl", "score.json", "neighbours.safetensors"):
        (tmp_path / "run" / name).write_text("{}")
    train(settings("run", method="zero_shot"))
    assert not list((tmp_path / "run").glob("*calibration*")) and not (tmp_path / "run" / "score.json").exists()


def test_splitting_the_base_models_by_deepspeed_is_refused(settings):
    asked = settings("run", method="warm_start")
    asked.deepspeed_plugin = SimpleNamespace(zero_stage=3)
    with pytest.raises(UserError, match="use stage 2"):
        train(asked)


def test_a_finished_run_is_not_done_again_unless_something_changed(settings, tmp_path, caplog):
    caplog.set_level("INFO")
    train(settings("run", method="warm_start", resume=True))
    weights = tmp_path / "run" / "trained.safetensors"
    first = weights.stat().st_mtime_ns
    train(settings("run", method="warm_start", resume=True))
    assert "trained already" in caplog.text and weights.stat().st_mtime_ns == first
    train(settings("run", method="warm_start"))
    assert weights.stat().st_mtime_ns > first, "without --resume it is"
    second = weights.stat().st_mtime_ns
    train(settings("run", method="warm_start", resume=True, learning_rate=0.02))
    assert weights.stat().st_mtime_ns > second, "and with other settings"
