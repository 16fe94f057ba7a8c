"""Two processes with half the rows each compute what one computes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from shala_audio.io import read_json
from tests.audio.test_audio_llm import make
from tests.tiny import make_tiny_encoder, make_tiny_lm
from tests.training.processes import RUNS, SHARDED

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a module in two processes, one CPU thread each, that meet at a port of their own: tests run side by side."""
    settings = ["--config_file", str(PROJECT / "configs" / "accelerate" / "cpu_2.yaml")]
    with socket.create_server(("127.0.0.1", 0)) as free:
        settings += ["--main_process_port", str(free.getsockname()[1])]
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *settings, "-m", *command],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of what two processes wrote, and one."""
    found = []
    for name in ("two", "one"):
        folder = tmp_path_factory.mktemp(name)
        make_tiny_lm(folder / "lm")
        make_tiny_encoder(folder / "encoder")
        make_tiny_lm(folder / "low")
        AutoModelForCausalLM.from_pretrained(folder / "low", dtype=torch.bfloat16).save_pretrained(folder / "low")
        make("Qwen2Audio", folder / "audio_llm")
        found.append(folder)
    two, one = found
    run = launch("tests.training.processes", str(two), "4")
    assert run.returncode == 0, run.stderr[-3000:]
    run = subprocess.run(
        [sys.executable, "-m", "tests.training.processes", str(one), "8"], cwd=PROJECT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return two, one


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one_does(folders, name):
    two, one = (read_json(folder / f"{name}.json") for folder in folders)
    assert len(one["losses"]) == 10
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two.get("running_loss") == pytest.approx(one.get("running_loss"), abs=1e-5)
    theirs, ours = (load_file(folder / f"{name}.safetensors") for folder in folders)
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, atol=3e-5, rtol=0)  # sums in another order


def test_two_processes_learn_from_rollouts_as_one_does(folders):
    """Each has the rewards, weights and advantages of its own prompts."""
    two, one = (read_json(folder / "slots.json") for folder in folders)
    assert two["spread"] == 0 and len(two["reward"]) == 5 and min(two["reward"]) > 0
    assert two["reward"] == pytest.approx(one["reward"], abs=1e-5)
    assert two["running_loss"] == pytest.approx(one["running_loss"], abs=1e-5) and len(set(one["running_loss"])) > 2
    theirs, ours = (load_file(folder / "slots.safetensors") for folder in folders)
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("kind", SHARDED)
def test_a_model_spread_over_processes_has_the_same_loss_gradient_and_dev_distance(folders, process, kind):
    difference = read_json(folders[0] / f"sharded_{process}.json")[kind]
    # The whole model computes what the rows share once, and products in bfloat16 are rounded.
    assert difference["loss"] < 1e-4 and difference["gradient"] < (1e-2 if "bfloat16" in kind else 1e-4)
    assert difference["dev jsd"] < (1e-3 if "bfloat16" in kind else 1e-5)


def test_a_users_error_is_said_once(tmp_path):
    run = launch("shala_audio", "train", "--output_dir", str(tmp_path), "--method", "shala")
    assert run.returncode != 0
    assert run.stderr.count("shala-audio: error: manifest") == 1
