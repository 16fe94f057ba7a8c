"""Many inputs: folders of sound, and manifests that several jobs or processes share."""

from __future__ import annotations

import json
import os
from itertools import chain, islice

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.cli.resuming import Progress
from shala_audio.errors import UserError
from shala_audio.inference.predictor import Predictor
from shala_audio.manifest import Row, write_manifest
from tests.cli.test_cli import invoke
from tests.tiny import ASKED_TASK, LABELS, tiny_model
from tests.training.test_processes import launch


@pytest.fixture(scope="module")
def texts(tiny_lm, tmp_path_factory):
    """A text model, and a manifest of 41 test rows and one other."""
    folder = tmp_path_factory.mktemp("texts")
    tiny_model(tiny_lm).save_pretrained(folder / "model")
    rows = [Row(f"r{i}", "tiny_text", "test", text={"comment": "so " * (1 + i * 7 % 11)}) for i in range(41)]
    write_manifest(folder / "m.jsonl", [*rows, Row("other", "tiny_text", "dev", text={"comment": "no"})])
    return folder


def probabilities(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: list(line["probs"].values()) for line in lines}


@pytest.fixture(scope="module")
def alone(texts):
    """What one job says of the test rows."""
    options = ("--split", "test", "--format", "jsonl", "--out", texts / "alone.jsonl")
    invoke("predict", texts / "model", texts / "m.jsonl", *options)
    found = probabilities(texts / "alone.jsonl")
    assert set(found) == {f"r{i}" for i in range(41)}
    return found


def test_jobs_share_a_manifest_and_their_parts_are_merged(texts, alone, tmp_path):
    parts = [tmp_path / f"{number}.jsonl" for number in (1, 2, 3)]
    given = ("--manifest", texts / "m.jsonl", "--split", "test", "--out", tmp_path / "all.jsonl")
    for number, part in enumerate(parts, start=1):
        options = ("--split", "test", "--format", "jsonl", "--shard", f"{number}/3", "--batch-size", 4, "--out", part)
        invoke("predict", texts / "model", texts / "m.jsonl", *options)
    with pytest.raises(UserError, match="14 rows are not predicted"):
        invoke("evaluate", "merge", *parts[1:], *given)
    with pytest.raises(UserError, match="predicted twice"):
        invoke("evaluate", "merge", *parts, parts[0], *given)
    with pytest.raises(UserError, match="no such file"):
        invoke("evaluate", "merge", tmp_path / "none.jsonl", *given)
    assert not (tmp_path / "all.jsonl").exists()
    invoke("evaluate", "merge", *parts, *given)
    for name, probs in probabilities(tmp_path / "all.jsonl").items():
        assert probs == pytest.approx(alone[name], abs=1e-5)


@pytest.mark.slow
def test_processes_share_a_manifest(texts, alone):
    out = texts / "launched.jsonl"
    options = ("--split", "test", "--format", "jsonl", "--out", str(out))
    done = launch("shala_audio", "predict", str(texts / "model"), str(texts / "m.jsonl"), *options)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, probs in probabilities(out).items():
        assert probs == pytest.approx(alone[name], abs=1e-5)
    assert not list(texts.glob("launched.jsonl.*")), "the parts are removed"


@pytest.mark.slow
def test_a_share_may_be_empty_and_a_bad_row_of_one_process_is_named(texts, tmp_path):
    out = tmp_path / "dev.jsonl"
    options = ("--split", "dev", "--format", "jsonl", "--out", str(out))
    done = launch("shala_audio", "predict", str(texts / "model"), str(texts / "m.jsonl"), *options)
    assert done.returncode == 0 and list(probabilities(out)) == ["other"], done.stderr[-2000:]
    rows = [
        Row("good", "tiny_text", "test", text={"comment": "so"}),
        Row("bad", "tiny_text", "test", text={"words": ""}),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    options = ("--format", "jsonl", "--out", str(tmp_path / "p.jsonl"))
    done = launch("shala_audio", "predict", str(texts / "model"), str(tmp_path / "m.jsonl"), *options)
    assert done.returncode != 0 and "error: process 2 of 2: " in done.stderr
    assert not (tmp_path / "p.jsonl").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_that_is_none_is_refused(texts, shard):
    with pytest.raises(UserError, match="write it as 1/4"):
        invoke("predict", texts / "model", texts / "m.jsonl", "--shard", shard)


def test_a_folder_is_gone_through(tiny_lm, tiny_encoder, tmp_path):
    tiny_model(tiny_lm, tiny_encoder).save_pretrained(tmp_path / "model")
    sounds = tmp_path / "sounds"
    (sounds / "b" / "deep").mkdir(parents=True)
    (sounds / "notes.txt").write_text("not sound")
    rng = np.random.default_rng(0)
    for name in ("z.wav", "b/a.FLAC", "b/deep/c.ogg"):
        soundfile.write(sounds / name, 0.1 * rng.standard_normal(9000), 16_000)
    (sounds / "b" / "loop").symlink_to(sounds)
    command = ["predict", str(tmp_path / "model"), str(sounds), "--format", "jsonl"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    names = [json.loads(line)["id"].removeprefix(f"{sounds}/") for line in result.stdout.splitlines()]
    assert names == ["z.wav", "b/a.FLAC", "b/deep/c.ogg"] and "1 files that are not sound" in result.stderr
    assert "1 links to folders are not followed" in result.stderr
    (sounds / os.fsdecode(b"caf\xe9.wav")).write_bytes((sounds / "z.wav").read_bytes())  # as an old system named it
    result = CliRunner().invoke(app, [*command, "--skip-errors"])
    assert result.exit_code == 2 and "this name is not UTF-8" in result.stderr and result.stdout.count('"id"') == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no sound file"):
        invoke("predict", tmp_path / "model", tmp_path / "empty")


class Killed(BaseException):
    """What ends a job between two batches."""


def killed_after(monkeypatch, batches):
    whole = Predictor.predict_batches

    def cut(self, *given, **options):
        yield from islice(whole(self, *given, **options), batches)
        raise Killed

    monkeypatch.setattr(Predictor, "predict_batches", cut)


def test_a_killed_job_goes_on_after_its_last_whole_batch(texts, tmp_path, monkeypatch):
    given = ("predict", texts / "model", texts / "m.jsonl", "--split", "test", "--batch-size", 4, "--format", "jsonl")
    invoke(*given, "--out", tmp_path / "whole.jsonl")
    assert not list(tmp_path.glob(".*")), "nothing else is left"
    out, begun = tmp_path / "p.jsonl", tmp_path / ".p.jsonl.begun"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_after(patched, 3)
        invoke(*given, "--resume", "--out", out)
    assert not out.exists() and begun.read_text().count("\n") == 4
    with open(begun, "ab") as file:
        file.write(b'[0, [{"id": "r4", "prob')  # the batch that it was writing
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_after(patched, 2)
        invoke(*given, "--resume", "--out", out)
    assert begun.read_text().count("\n") == 6
    invoke(*given, "--resume", "--out", out)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes() and not begun.exists()


def test_what_was_begun_is_not_begun_anew_by_mistake(texts, tmp_path, monkeypatch):
    out = tmp_path / "p.jsonl"
    given = ("predict", texts / "model", texts / "m.jsonl", "--split", "test", "--format", "jsonl", "--out", out)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_after(patched, 1)
        invoke(*given)
    with pytest.raises(UserError, match="p.jsonl.begun: holds 16 of these predictions.* add --resume"):
        invoke(*given)
    before = (tmp_path / ".p.jsonl.begun").read_text().splitlines()[1]
    first = [record["id"] for record in json.loads(before)[1]]
    invoke(*given, "--batch-size", 8, "--resume")  # another batch size goes on all the same
    assert len(probabilities(out)) == 41
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()][:16] == first


def test_what_is_of_other_work_is_begun_anew(texts, alone, tmp_path, monkeypatch):
    out = tmp_path / "p.jsonl"
    given = ("predict", texts / "model", texts / "m.jsonl", "--format", "jsonl", "--out", out)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_after(patched, 1)
        invoke(*given, "--split", "dev")
    invoke(*given, "--split", "test", "--resume")
    assert probabilities(out).keys() == alone.keys(), "the row of dev is not among them"
    with pytest.raises(UserError, match="--resume is for one manifest"):
        invoke("predict", texts / "model", "--text", "comment=so", "--resume")


def test_answers_that_did_not_parse_are_counted_over_a_kill(tmp_path):
    out = tmp_path / "p.jsonl"
    begun = Progress(out, {"of": "a"}, resume=False)
    with pytest.raises(Killed):
        begun.finish(chain([[{"id": "1"}, {"id": "2"}]], raising()), lambda: 2)
    again = Progress(out, {"of": "a"}, resume=True)
    assert (again.unparsed, again.done) == (2, {"1", "2"})
    again.finish([[{"id": "3"}]], lambda: 1)
    assert Progress(out, {"of": "a"}, resume=True).unparsed == 3
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["1", "2", "3"]


def raising():
    raise Killed
    yield


def test_a_text_about_which_labels_are_asked_gets_the_rate_of_each(tiny_lm, tmp_path):
    tiny_model(tiny_lm, task=ASKED_TASK).save_pretrained(tmp_path)
    names = [label.name for label in LABELS]
    found = json.loads(invoke("predict", tmp_path, "--text", "Well done.", "--format", "jsonl"))
    assert found["id"] == "text" and list(found["rates"]) == names
    head, line = invoke("predict", tmp_path, "--text", "Well done.", "--format", "csv").splitlines()
    assert head == ",".join(["id", *names])
    assert list(map(float, line.split(",")[1:])) == pytest.approx(list(found["rates"].values()))
    shown = invoke("predict", tmp_path, "--text", "Well done.")
    assert "one may choose several" in shown and all(name in shown for name in names)
    one = invoke("predict", tmp_path, "--text", "comment=Well done.", "--text", "label=angry", "--format", "jsonl")
    assert json.loads(one)["probs"]["yes"] == pytest.approx(found["rates"]["anger"], abs=1e-5)
