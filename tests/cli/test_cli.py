"""The commands as a user types them, in a process of their own where exit status and output count."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from shala_audio.cli import doctor, main
from shala_audio.cli.main import OLD_NAMES, app
from shala_audio.errors import UserError
from shala_audio.io import write_json
from shala_audio.manifest import Audio, Row, read_manifest, write_manifest
from shala_audio.task import Attribute, load_task
from tests.audio.broken import BROKEN, ODD
from tests.tiny import tiny_model


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "shala_audio.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def invoke(*arguments: str | Path) -> str:
    """In this process; a user's error is raised."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def experiment(tiny_lm, tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    tiny_model(tiny_lm, tiny_encoder).save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    for name in ("good one.wav", "gut_ü.flac"):
        soundfile.write(folder / name, 0.1 * rng.standard_normal(9000), 16_000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is not sound " * 30)
    return folder


def test_predict_formats(experiment):
    clips = [experiment / "good one.wav", experiment / "gut_ü.flac"]
    rows = [
        json.loads(line) for line in invoke("predict", experiment / "model", *clips, "--format", "jsonl").splitlines()
    ]
    assert [row["id"] for row in rows] == [str(clip) for clip in clips]
    for row in rows:
        assert list(row["probs"]) == ["anger", "disgust", "disapproval"]
        assert sum(row["probs"].values()) == pytest.approx(1) and row["entropy"] >= 0
    assert json.loads(invoke("predict", experiment / "model", *clips, "--format", "json")) == rows
    (header, *lines) = csv.reader(invoke("predict", experiment / "model", *clips, "--format", "csv").splitlines())
    assert header == ["id", "anger", "disgust", "disapproval", "entropy"] and len(lines) == 2
    table = invoke("predict", experiment / "model", *clips)
    assert "good one.wav" in table and "█" in table and "entropy" in table


def test_predict_a_timeline(experiment):
    clip = experiment / "good one.wav"
    output = invoke("predict", experiment / "model", clip, "--window", 0.3, "--hop", 0.2, "--format", "jsonl")
    rows = [json.loads(line) for line in output.splitlines()]
    assert rows[0]["start"] == 0 and rows[-1]["end"] == pytest.approx(9000 / 16_000)


@pytest.mark.parametrize("bad", ["missing.wav", "empty.wav", "text.wav"])
def test_a_bad_clip_is_named_and_the_others_are_kept_if_wanted(experiment, bad, tmp_path):
    clips = [experiment / "good one.wav", experiment / bad, experiment / "gut_ü.flac"]
    out = tmp_path / "p.jsonl"
    options = ("predict", experiment / "model", *clips, "--format", "jsonl", "--out", out)
    with pytest.raises(UserError, match=bad):
        invoke(*options)
    assert not out.exists()
    result = CliRunner().invoke(app, [*map(str, options), "--skip-errors"])
    assert result.exit_code == 2 and "1 skipped" in result.stderr and bad in result.stderr
    assert len(out.read_text().splitlines()) == 2


def test_a_bad_clip_of_a_manifest_is_named_and_the_other_rows_are_kept_if_wanted(experiment, tmp_path):
    names = ["good one.wav", "empty.wav", "gut_ü.flac"]
    rows = [Row(f"r{i}", "mini", "test", audio=Audio(name)) for i, name in enumerate(names)]
    rows.append(Row("silent", "mini", "test", text={"transcript": "so"}))
    write_manifest(tmp_path / "m.jsonl", rows)
    out = tmp_path / "p.jsonl"
    options = ("predict", experiment / "model", tmp_path / "m.jsonl", "--audio-root", experiment)
    options = (*options, "--format", "jsonl", "--out", out)
    with pytest.raises(UserError, match=r"empty\.wav"):
        invoke(*options)
    result = CliRunner().invoke(app, [*map(str, options), "--skip-errors"])
    assert result.exit_code == 2 and "2 skipped" in result.stderr
    assert "row r1: " in result.stderr and "error: row silent has no sound" in result.stderr
    assert sorted(json.loads(line)["id"] for line in out.read_text().splitlines()) == ["r0", "r2"]


def test_a_bad_clip_is_one_line_and_status_two(experiment):
    done = run("predict", experiment / "model", experiment / "text.wav", "--format", "jsonl")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("shala-audio: error: ") and "text.wav" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "nowhere", "--text", "a=b"), "nowhere"),
        (("predict", "nowhere", "--text", "ab", "--text", "c=d"), "name=value"),
        (("predict", "nowhere"), "nothing to predict"),
        (("prepare", "cremad", "--out", "x"), "no such corpus"),
        (("prepare", "crema_d", "--out", "x"), "--source"),
        (("prepare", "crema_d", "--out", "x", "--source", "nowhere"), "nowhere"),
        (("score", "p.jsonl", "nowhere.jsonl"), "nowhere.jsonl"),
        (("features", "nowhere.jsonl", "--model", "text", "--audio-root", ".", "--out", "x"), "no encoder"),
        (("train", "--config", "nowhere.yaml"), "nowhere.yaml"),
        (("train", "--output_dir", "x", "--learning_rates", "1"), "learning_rates"),
        (("train", "--output_dir", "x", "--method", "magic"), "magic"),
        (("train", "--output_dir", "x", "--method", "shala"), "manifest"),
        (("train", "--method", "shala"), "output_dir"),
        (("baseline", "linear", "nowhere.jsonl", "--out", "x"), "nowhere.jsonl"),
        (("report", "nowhere", "--out", "x.md"), "nowhere"),
        (("models", "pull", "gpt-17"), "gpt-17"),
    ],
)
def test_wrong_requests_are_users_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        invoke(*arguments)


def test_the_process_exits_with_two_and_one_line(tmp_path):
    done = run("evaluate", "score", tmp_path / "p.jsonl", tmp_path / "m.jsonl")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        f"shala-audio: error: {tmp_path / 'm.jsonl'}: no such manifest; `shala-audio data prepare` makes one"
    ]
    assert run("no-such-command").returncode == 2


def test_version_and_doctor():
    assert invoke("--version").startswith("shala-audio 0.")
    output = invoke("doctor")
    assert "can be imported" in output and "BROKEN" not in output


@pytest.mark.parametrize(
    ("built_for", "there", "found", "said"),
    [
        (None, False, 0, "no GPU; the CPU is used"),
        ("13.0", False, 0, "no GPU; the CPU is used"),
        (None, True, 0, "is built for CPUs"),
        ("13.0", True, 0, "is the driver new enough?"),
        ("13.0", True, 1, "GPU Tesla T4, 16 GiB"),
    ],
)
def test_doctor_tells_what_is_computed_on(monkeypatch, built_for, there, found, said):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: bool(found))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(found))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    card = SimpleNamespace(name="Tesla T4", total_memory=16 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(doctor.Path, "exists", lambda path: there)
    (line,) = doctor.accelerators()
    assert said in line and ("float32" in line) is bool(found)


def test_a_gpu_that_is_too_small_is_one_line(monkeypatch, capsys):
    words = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 15.77 GiB of which ..."

    def full() -> None:
        raise torch.OutOfMemoryError(words)

    monkeypatch.setattr(main, "app", full)
    with pytest.raises(SystemExit) as stop:
        main.main()
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.count("\n") == 1
    assert said.startswith("shala-audio: stopped: CUDA out of memory. Tried to allocate 20.00 MiB: take fewer rows")


def test_prepare_validate_and_models_list(tmp_path, monkeypatch):
    monkeypatch.setenv("SHALA_CACHE", str(tmp_path / "cache"))
    assert "not pulled" in invoke("models", "list").replace("\n", " ")
    manifest = invoke("data", "prepare", "mini", "--out", tmp_path, "--max-rows", 24).strip().splitlines()[-1]
    assert "24 rows, 0 faults" in invoke("data", "validate", manifest, "--audio-root", tmp_path)
    (tmp_path / "audio" / "mini_00003.wav").write_bytes(b"")
    lines = Path(manifest).read_text().splitlines()
    Path(manifest).write_text("\n".join([*lines, lines[0], "{"]))
    result = CliRunner().invoke(app, ["data", "validate", manifest, "--audio-root", str(tmp_path)])
    assert result.exit_code == 2 and "3 faults" in result.stdout
    good = tmp_path / "good.jsonl"
    assert "23 rows; 3 left out" in invoke("data", "validate", manifest, "--audio-root", tmp_path, "--good", good)
    assert "23 rows, 0 faults" in invoke("data", "validate", good, "--audio-root", tmp_path)


def test_validate_names_every_broken_file(tmp_path):
    rows = []
    for name, (make, _) in (BROKEN | ODD).items():
        make(tmp_path / name)
        rows.append(Row(name, "crema_d", "predict", audio=Audio(name)))
    write_manifest(tmp_path / "m.jsonl", rows)
    done = run("validate", tmp_path / "m.jsonl", "--audio-root", tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == f"{len(rows)} rows, {len(BROKEN)} faults, 2 notes\n"
    for number, (name, (_, message)) in enumerate(BROKEN.items(), start=1):
        (line,) = [line for line in lines if f":{number}: " in line]
        assert re.search(f"{name}: .*({message})", line), line
    assert sum(line.startswith("note: ") for line in lines) == 2


def test_manifests_are_predicted_row_by_row(experiment, tmp_path):
    """Long sound comes in windows, a row without features is named, and what has no meaning is refused."""
    soundfile.write(tmp_path / "long.wav", np.tile([0.1, -0.2, 0.3, -0.1], 130_000), 16_000)
    manifest = tmp_path / "m.jsonl"
    write_manifest(manifest, [Row("long", "tiny_speech", "test", audio=Audio("long.wav"))])
    options = ("predict", experiment / "model", manifest, "--format", "jsonl")
    (line,) = invoke(*options, "--audio-root", tmp_path).splitlines()
    assert json.loads(line)["id"] == "long"
    for more in (("--window", "1"), ("--window", "1", "--text", "transcript=so")):
        with pytest.raises(UserError, match="--window makes a timeline of sound files"):
            invoke("predict", experiment / "model", *([manifest] if len(more) == 2 else []), *more)
    with pytest.raises(UserError, match="--transcribe: of whole sound files, without --window"):
        invoke("predict", experiment / "model", tmp_path / "long.wav", "--window", "1", "--transcribe")


@pytest.mark.parametrize("name", BROKEN)
def test_predict_names_the_broken_file(experiment, tmp_path, name):
    BROKEN[name][0](tmp_path / name)
    reason = "holds no sound file" if name == "a folder.wav" else BROKEN[name][1]  # folders are gone through
    with pytest.raises(UserError, match=f"{name}: .*({reason})"):
        invoke("predict", experiment / "model", tmp_path / name)


def test_baseline_score_report(tmp_path):
    invoke("data", "prepare", "mini_text", "--out", tmp_path, "--max-rows", 60)
    manifest, system = tmp_path / "manifest.jsonl", tmp_path / "prior"
    invoke("evaluate", "baseline", "prior", manifest, "--out", system / "predictions.jsonl")
    write_json(tmp_path / "trained" / "training.json", {"method": "shala"})
    with pytest.raises(UserError, match="has the record of shala; name another folder"):
        invoke("evaluate", "baseline", "prior", manifest, "--out", tmp_path / "trained" / "prior.jsonl")
    invoke("evaluate", "score", system / "predictions.jsonl", manifest, "--out", system / "score.json")
    result = json.loads((system / "score.json").read_text())
    assert (
        result["jsd"] == result["prior"]["jsd"] and result["agreement_bound"]["jsd"]["value"] < result["jsd"]["value"]
    )
    invoke("evaluate", "report", system, "--data", tmp_path, "--out", tmp_path / "R.md")
    text = (tmp_path / "R.md").read_text()
    assert (
        "| constant prior |" in text and "agreement bound" in text and "Synthetic" in text and str(tmp_path) not in text
    )
    assert (tmp_path / "R_jsd.png").stat().st_size > 1000


def test_calibrate_and_compare(tmp_path):
    """On predictions that are too sure of themselves; the raters' number is large enough to see it."""
    invoke("data", "prepare", "mini_text", "--out", tmp_path, "--max-rows", 200)
    manifest = tmp_path / "manifest.jsonl"
    rows = read_manifest(manifest)
    for split in ("dev", "test"):
        with open(tmp_path / f"{split}.jsonl", "w") as file:
            for row in rows:
                sure = np.array(list(row.extra["true"].values())) ** 4 + 1e-6
                probs = dict(zip(row.extra["true"], (sure / sure.sum()).tolist(), strict=True))
                if row.split == split:
                    file.write(json.dumps({"id": row.id, "probs": probs}) + "\n")
    write_json(tmp_path / "shala.json", {"task": load_task("mini_text").to_dict()})
    test = tmp_path / "test.jsonl"
    for kind, better in (("temperature", "T.jsonl"), ("temperature_jsd", "T.csv"), ("dirichlet", "matrix.jsonl")):
        better = tmp_path / better
        options = ("--kind", kind, "--apply", test, "--out", better)
        assert "fitted on" in invoke("evaluate", "calibrate", tmp_path, tmp_path / "dev.jsonl", manifest, *options)
        assert (tmp_path / f"calibration_{kind}.json").is_file()
        table = invoke("evaluate", "compare", better, test, manifest)
        assert "jsd" in table and "-0." in table, "the calibrated ones are closer"
    with pytest.raises(UserError, match="fitted on dev alone"):
        invoke("evaluate", "calibrate", tmp_path, test, manifest)
    with pytest.raises(UserError, match="no such folder"):
        invoke("evaluate", "calibrate", tmp_path / "nowhere", tmp_path / "dev.jsonl", manifest)
    with pytest.raises(UserError, match="--task crema_d: has other labels"):
        invoke("evaluate", "calibrate", tmp_path, tmp_path / "dev.jsonl", manifest, "--task", "crema_d")


def test_attributes_go_along_with_what_is_calibrated(tmp_path):
    task = replace(load_task("mini_text"), attributes=(Attribute("arousal", 1.0, 7.0),))
    write_json(tmp_path / "shala.json", {"task": task.to_dict()})
    invoke("data", "prepare", "mini_text", "--out", tmp_path, "--max-rows", 200)
    manifest = tmp_path / "manifest.jsonl"
    for split in ("dev", "test"):
        with open(tmp_path / f"{split}.jsonl", "w") as file:
            for number, row in enumerate(read_manifest(manifest, split)):
                stated = {"attributes": {"arousal": number / 10}} if number else {}
                file.write(json.dumps({"id": row.id, "probs": row.extra["true"], **stated}) + "\n")
    options = ("--apply", tmp_path / "test.jsonl", "--out", tmp_path / "T.jsonl")
    invoke("evaluate", "calibrate", tmp_path, tmp_path / "dev.jsonl", manifest, *options)
    found = [json.loads(line).get("attributes", {}) for line in (tmp_path / "T.jsonl").read_text().splitlines()]
    assert found[0] == {} and [one["arousal"] for one in found[1:]] == [n / 10 for n in range(1, len(found))]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("predict", "nowhere", "a.wav", "--split", "test"), "--split: of a manifest"),
        (("predict", "nowhere", "a.wav", "--features", "f"), "--features: of a manifest"),
        (
            ("prepare", "crema_d", "--part", "mnli", "--source", ".", "--out", "o"),
            "--part: of chaosnli and lewidi alone",
        ),
        (("baseline", "prior", "m.jsonl", "--features", "f", "--out", "o/p.jsonl"), "--features: no part in"),
    ],
)
def test_options_that_would_not_be_read_are_refused(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "m.jsonl", [Row("a", "mini_text", "train", text={"comment": "so"}, votes={"anger": 1})])
    with pytest.raises(UserError, match=says):
        invoke(*given)


def test_a_baseline_is_temperature_scaled_and_reported_apart(tmp_path):
    invoke("data", "prepare", "mini_text", "--out", tmp_path, "--max-rows", 200)
    manifest, system = tmp_path / "manifest.jsonl", tmp_path / "prior"
    test, better = system / "predictions.jsonl", system / "predictions_temperature_jsd.jsonl"
    invoke("evaluate", "baseline", "prior", manifest, "--out", test)
    options = ("--kind", "temperature_jsd", "--apply", test, "--out", better)
    invoke("evaluate", "calibrate", system, system / "predictions_dev.jsonl", manifest, *options)
    for predictions, score in ((test, "score.json"), (better, "score_temperature_jsd.json")):
        invoke("evaluate", "score", predictions, manifest, "--out", system / score)
    invoke("evaluate", "report", system, "--out", tmp_path / "R.md")
    _, *rest = (tmp_path / "R.md").read_text().split("| system |")
    tables = [part.split("\n\n")[0] for part in rest]
    assert ["temperature_jsd" in table for table in tables] == [False, False, True]
    assert (
        "constant prior + temperature_jsd" in tables[2] and "+ temperature_jsd,40," in (tmp_path / "R.csv").read_text()
    )


def test_train_help_lists_the_methods():
    output = invoke("train", "--help")
    assert "shala_dynamic" in output and "grpo_majority     GRPO" in output


def test_train_by_yaml_and_flags(tiny_lm, tmp_path):
    """Text, warm start then SHALA then predict, all through the command line."""
    invoke("data", "prepare", "mini_text", "--out", tmp_path, "--max-rows", 40)
    model = tmp_path / "model.yaml"
    model.write_text(f"lm: {tiny_lm}\nlora_r: 4\nsystem_prompt: ''\n")
    settings = tmp_path / "warm.yaml"
    settings.write_text(
        "task: mini_text\nmethod: warm_start\nmax_steps: 3\nper_device_train_batch_size: 8\nbf16: false\n"
    )
    manifest = ("--manifest", tmp_path / "manifest.jsonl")
    invoke(
        "train", "--config", settings, "--model", model, *manifest, "--output_dir", tmp_path / "warm", "--max_steps", 2
    )
    record = json.loads((tmp_path / "warm" / "training.json").read_text())
    assert record["method"] == "warm_start" and record["seed"] == 42
    shala = ("--method", "shala", "--max_steps", 2, "--per_device_train_batch_size", 8, "--bf16", "false")
    invoke("train", "--init", tmp_path / "warm", *manifest, "--output_dir", tmp_path / "shala", *shala)
    log = [json.loads(line) for line in (tmp_path / "shala" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 2
    out = tmp_path / "p.jsonl"
    invoke("predict", tmp_path / "shala", manifest[1], "--split", "test", "--format", "jsonl", "--out", out)
    assert invoke("evaluate", "score", out, manifest[1], "--format", "json").startswith("{")
    assert "entropy_correlation" in invoke("evaluate", "score", out, manifest[1]), "a table on the terminal"
    settings.write_text("learning_rates: 3\n")
    with pytest.raises(UserError, match=r"warm.yaml.*learning_rates"):
        invoke("train", "--config", settings, "--output_dir", tmp_path / "x")


def test_every_command_shows_an_example():
    from typer.main import get_command

    commands = dict(get_command(app).commands)
    for group in ("data", "evaluate", "models", "recipe"):
        commands |= {f"{group} {name}": command for name, command in commands.pop(group).commands.items()}
    for name, command in commands.items():
        text = invoke("train", "--help") if name == "train" else command.help
        assert f"shala-audio {name}" in text, name


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ("train", "--learning_rte", "3", "--output_dir", "x"),
            "learning_rte: no such setting; did you mean learning_rate?",
        ),
        (("train", "--method", "shalla", "--output_dir", "x"), "'shalla'; did you mean shala? Use one of zero_shot, "),
        (("predict", "default", "a.wav", "--format", "jsno"), "'jsno'; did you mean json?"),
        (("prepare", "crema", "--out", "x"), "did you mean crema_d?"),
        (
            ("train", "--method", "shala_dynamic", "--ambiguity", "static", "--output_dir", "x"),
            "method shala_dynamic means ambiguity dynamic",
        ),
        (
            ("train", "--method", "grpo_jsd", "--reward", "brier", "--output_dir", "x"),
            "--reward brier: method grpo_jsd means reward jsd",
        ),
        (("baseline", "liner", "x", "--out", "y"), "did you mean linear?"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest_right_one(command, says):
    with pytest.raises(UserError) as error:
        invoke(*command)
    assert says in str(error.value)


def test_old_names_of_commands_work_and_say_their_new_ones(tmp_path):
    result = CliRunner().invoke(app, ["prepare", "mini_text", "--out", str(tmp_path), "--max-rows", "20"])
    assert result.exit_code == 0 and "`shala-audio prepare` is now `shala-audio data prepare`" in result.stderr
    assert set(OLD_NAMES) == {"prepare", "votes", "validate", "convert", "score", "compare", "calibrate", "report",
                              "baseline", "choose", "pool", "merge", "push", "neighbours", "new-recipe"}  # fmt: skip


def test_a_channel_is_chosen_and_odd_ones_are_noted(experiment, tmp_path):
    sound = (0.3 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
    soundfile.write(tmp_path / "phase.wav", np.stack([sound, -sound * 0.999], axis=1), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", sound, 16_000, subtype="FLOAT")
    clip = tmp_path / "phase.wav"
    told = CliRunner().invoke(app, ["predict", str(experiment / "model"), str(clip)], catch_exceptions=False)
    assert f"note: {clip}: the channels cancel out" in told.stderr
    answers = [
        json.loads(invoke("predict", experiment / "model", path, "--format", "jsonl", *channel).splitlines()[-1])[
            "probs"
        ]
        for path, channel in ((clip, ("--channel", "0")), (tmp_path / "mono.wav", ()))
    ]
    assert answers[0] == pytest.approx(answers[1], abs=1e-6)
    with pytest.raises(UserError, match=r"phase\.wav: channel 2: use 0 to 1"):
        invoke("predict", experiment / "model", clip, "--channel", "2")
    with pytest.raises(UserError, match="--channel: of sound files"):
        invoke("predict", experiment / "model", tmp_path / "m.jsonl", "--channel", "0")
