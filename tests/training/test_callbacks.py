from __future__ import annotations

import json
from dataclasses import replace

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shala_audio.distribution import jsd
from shala_audio.errors import Stopped, UserError
from shala_audio.inference.predictor import Predictor
from shala_audio.manifest import Row, read_manifest
from shala_audio.training.callbacks import watched_rows
from shala_audio.training.config import DirectConfig
from shala_audio.training.run import train
from shala_audio.votes import human_distributions
from tests.tiny import tiny_model


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_evaluated_run_computes_what_another_does(settings, tmp_path):
    for name, watch in (("watched", 3), ("unwatched", 0)):
        train(settings(name, method="shala", max_steps=6, logging_steps=2, dev_evaluations=watch))
    watched, unwatched = (load_file(tmp_path / name / "trained.safetensors") for name in ("watched", "unwatched"))
    assert all((watched[key] == unwatched[key]).all() for key in unwatched)
    logged = [{k: v for k, v in line.items() if k != "step_time"} for line in lines(tmp_path / "watched" / "log.jsonl")]
    plain = [
        {k: v for k, v in line.items() if k != "step_time"} for line in lines(tmp_path / "unwatched" / "log.jsonl")
    ]
    drop = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    keep = [line for line in logged if "eval_jsd" not in line]
    assert [{k: v for k, v in line.items() if k not in drop} for line in keep] == [
        {k: v for k, v in line.items() if k not in drop} for line in plain
    ], "the averages that are logged of training are untouched"
    assert [line["step"] for line in logged if "eval_jsd" in line] == [2, 4, 6]


def test_the_last_point_is_the_distance_of_the_finished_model(settings, tmp_path):
    train(settings("run", method="warm_start", max_steps=4, report_to="tensorboard"))
    last = [line for line in lines(tmp_path / "run" / "log.jsonl") if "eval_jsd" in line][-1]
    rows = read_manifest(tmp_path / "manifest.jsonl", "dev")
    predictor = Predictor.from_pretrained(tmp_path / "run", device="cpu")
    found = dict(predictor.predict_rows(rows))
    human = human_distributions(rows, predictor.task.label_names)
    expected = jsd(human, [found[row.id].probs for row in rows]).mean()
    assert last["eval_jsd"] == pytest.approx(expected, abs=1e-4)
    assert last["eval_entropy"] > 0 and last["eval_human_entropy"] > 0
    samples = [sample for sample in lines(tmp_path / "run" / "samples.jsonl") if sample["step"] == 4]
    assert len(samples) == 4
    assert samples[0]["predicted"] == pytest.approx(found[samples[0]["id"]].to_dict(), abs=1e-3)
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert events.Scalars("eval/jsd")[-1].value == pytest.approx(expected, abs=1e-4)
    assert any("samples" in tag for tag in events.Tags()["tensors"])


def test_free_answers_are_shown_as_written(settings, tmp_path):
    options = {"max_steps": 1, "num_generations": 2, "per_device_train_batch_size": 4, "logging_steps": 1}
    with pytest.raises(Stopped, match="training changed no parameter: no batch taught anything"):
        train(settings("run", method="shala", readout="verbalized", dev_evaluations=1, **options))
    records = lines(tmp_path / "run" / "log.jsonl")
    assert any(record.get("valid") == 0 for record in records), "an untrained model writes nothing that parses"
    assert [record["eval_valid"] for record in records if "eval_valid" in record] == [0]
    assert all(isinstance(sample["answer"], str) for sample in lines(tmp_path / "run" / "samples.jsonl"))


def test_tensorboard_is_the_default_where_it_is_installed(tmp_path):
    assert "tensorboard" in DirectConfig(output_dir=str(tmp_path), method="warm_start").report_to
    with pytest.raises(UserError, match="dev_evaluations is -1"):
        DirectConfig(output_dir=str(tmp_path), dev_evaluations=-1)


def test_a_dev_row_that_cannot_be_asked_about_is_named_before_anything_is_learnt(tiny_lm):
    """It stopped a run a third of the way in; rows of another task did, too."""
    model, votes = tiny_model(tiny_lm), {"anger": 1}
    good = Row("good", "tiny_text", "dev", text={"comment": "so"}, votes=votes)
    other = Row("other", "mini", "dev", text={"transcript": "so"}, votes=votes)
    assert watched_rows([good, other, replace(good, id="silent", votes={})], model, None) == [good]
    with pytest.raises(UserError, match="row bad: .*needs a text field"):
        watched_rows([good, replace(good, id="bad", text={"transcript": "so"})], model, None)
