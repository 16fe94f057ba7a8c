from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from shala_audio.errors import UserError
from shala_audio.files import read_json
from shala_audio.training.run import train


def test_dynamic_weights_start_from_what_the_model_says(settings, tmp_path):
    train(settings("warm", method="warm_start"))
    init = str(tmp_path / "warm")
    train(settings("dynamic", method="shala_dynamic", init=init, max_steps=3, ambiguity_lambda=0.9))
    records = [json.loads(line) for line in (tmp_path / "dynamic" / "log.jsonl").read_text().splitlines()]
    assert "unlearnt/mean" in next(record for record in records if "loss" in record), (
        "rows are known before the first step"
    )
    record = read_json(tmp_path / "dynamic" / "training.json")
    assert record["settings"]["ambiguity"] == "dynamic" and record["settings"]["ambiguity_lambda"] == 0.9
    assert record["before"] and record["peak_mb"] > 0 and str(tmp_path) not in json.dumps(record)


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(settings, tmp_path):
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
    with pytest.raises(UserError, match="checkpoint-2: of a run that was interrupted; --resume goes on"):
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


def test_a_finished_run_is_not_done_again_unless_something_changed(settings, tmp_path, capsys):
    train(settings("run", method="warm_start", resume=True))
    weights = tmp_path / "run" / "trained.safetensors"
    first = weights.stat().st_mtime_ns
    train(settings("run", method="warm_start", resume=True))
    assert "trained already" in capsys.readouterr().out and weights.stat().st_mtime_ns == first
    train(settings("run", method="warm_start"))
    assert weights.stat().st_mtime_ns > first, "without --resume it is"
    second = weights.stat().st_mtime_ns
    train(settings("run", method="warm_start", resume=True, learning_rate=0.02))
    assert weights.stat().st_mtime_ns > second, "and with other settings"
