"""Training that is killed and gone on with; `kill_resume.py` does it to every stage, many times."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from shala_audio.cli import main
from shala_audio.corpora.mini import prepare
from shala_audio.corpora.prepare import write_prepared
from shala_audio.io import read_json
from shala_audio.task import load_task
from tests.reliability.kill_resume import torn, trained

pytestmark = pytest.mark.slow


def test_a_killed_training_ends_as_an_undisturbed_one(tiny_lm, tmp_path):
    write_prepared(prepare(tmp_path, 0, rows=60, text=True), load_task("mini_text"), tmp_path, 0)
    (tmp_path / "model.yaml").write_text(f"lm: {tiny_lm}\nlora_r: 4\nsystem_prompt: ''\n")
    command = [sys.executable, "-m", "shala_audio", "train", "--method", "shala_dynamic", "--task", "mini_text"]
    command += ["--model", str(tmp_path / "model.yaml"), "--manifest", str(tmp_path / "manifest.jsonl"), "--resume"]
    command += ["--max_steps", "120", "--save_strategy", "steps", "--save_steps", "4", "--logging_steps", "1"]
    command += ["--report_to", "none", "--bf16", "false", "--watch_dev", "3", "--output_dir"]
    whole = subprocess.run([*command, str(tmp_path / "whole")], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "killed"
    for steps in (5, 30):  # that it has taken when it is killed
        with subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            log = out / "log.jsonl"
            while process.poll() is None and not (log.is_file() and log.read_text().count('"loss"') >= steps):
                time.sleep(0.02)
            assert process.poll() is None, "it was killed while it trained"
            os.kill(process.pid, signal.SIGKILL)
        assert list(out.glob("checkpoint-*"))
        assert torn(out) == []
    done = subprocess.run([*command, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_json(out / "training.json")["resumed"] and done.stdout.count("'loss'") < 120 - 20, (
        "it did not begin anew"
    )
    assert trained(out) == trained(tmp_path / "whole")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "out/trained.safetensors"),
        OSError(errno.EROFS, "Read-only file system", "out"),
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied", "out"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed"),
    ],
)
def test_a_full_disk_is_one_line(error, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("shala-audio: stopped: ")
        and said.count("\n") == 1
        and "what was written before is whole" in said
    )
