"""Every `shala-audio` command of the README, and those for a corpus without a recipe, with tiny models instead of the real ones."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import uvicorn
from typer.testing import CliRunner

from shala_audio import io as io_module
from shala_audio.cli.main import app
from shala_audio.inference import default
from shala_audio.manifest import Audio, Row, write_manifest
from tests.tiny import tiny_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LABELS = ("up", "down")


def commands() -> list[list[str]]:
    """Lines that are indented, as shell commands are; those that go on after a backslash are put together."""
    alone = (ROOT / "docs" / "own_corpus.md").read_text().split("## Without a recipe")[1].split("\n## ")[0]
    text = ((ROOT / "README.md").read_text() + alone).replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^ {4,}(shala-audio .*)$", text, re.MULTILINE)]


@pytest.fixture
def place(tiny_lm, tiny_encoder, tmp_path, monkeypatch):
    """A folder with all that the README's commands name."""
    rng = np.random.default_rng(0)

    def clip(name: str, seconds: float = 0.6) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(int(16_000 * seconds)), 16_000)

    tiny_model(tiny_lm, tiny_encoder).save_pretrained(tmp_path / "default" / "sound")
    tiny_model(tiny_lm).save_pretrained(tmp_path / "default" / "text")
    tiny_model(tiny_lm, tiny_encoder).save_pretrained(tmp_path / "MODEL")
    monkeypatch.setattr(default, "FOLDER", tmp_path / "default")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.setattr(io_module, "CONFIGS", tmp_path / "configs")
    for conf in (tmp_path / "configs" / "training").glob("*.yaml"):
        lines = [line for line in conf.read_text().splitlines() if "epochs" not in line and "max_steps" not in line]
        conf.write_text("\n".join([*lines, "max_steps: 1", "warmup_steps: 0", "per_device_train_batch_size: 8"]) + "\n")
    (tmp_path / "configs" / "models" / "speech.yaml").write_text(
        f"lm: {tiny_lm}\nencoder: {tiny_encoder}\nencoder_layers: [1, 2]\nframe_stack: 8\nprojector_width: 16\nlora_r: 4\n"
    )
    (tmp_path / "configs" / "tasks" / "mood.yaml").write_text(
        f"name: mood\nmodality: audio\nlabels: {list(LABELS)}\nprompt: '{{{{ audio }}}} How?'\nanswer: It sounds\n"
    )
    clip("clip.wav")
    shutil.copytree(ROOT / "shala_audio" / "assets" / "clips", tmp_path / "shala_audio" / "assets" / "clips")
    clip("talk.wav", 5)
    rows = []
    with open(tmp_path / "votes.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "who", "emotion", "speaker"])
        for number in range(24):
            clip(f"recordings/u{number}.wav")
            clip(f"DIR/u{number}.wav")
            clip(f"corpus/recordings/u{number}.wav")
            split = ("train", "train", "dev", "test")[number % 4]
            votes = {"up": 1 + number % 3, "down": 2}
            rows.append(Row(f"u{number}", "mood", split, f"s{number % 8}", Audio(f"u{number}.wav"), {}, votes))
            for who in range(3):
                writer.writerow([f"u{number}.wav", f"r{who}", LABELS[(number + who) % 2], f"s{number % 8}"])
    write_manifest(tmp_path / "manifest.jsonl", rows)
    shutil.copy(tmp_path / "votes.csv", tmp_path / "corpus")
    for recipe in ("TEMPLATE", "crema_d"):
        shutil.copytree(
            ROOT / "recipes" / recipe,
            tmp_path / "recipes" / recipe,
            ignore=shutil.ignore_patterns("exp", "data", "features"),
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_of_them_run(place, monkeypatch):
    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: served.append(sockets[0].getsockname()))
    ran = set()
    for words in commands():
        in_group = words[1] in ("data", "evaluate", "models", "recipe")
        command, first = (words[2], words[3]) if in_group else (words[1], words[2])
        if command in ("score", "compare", "report") and not first.startswith("exp/shala"):
            _results(place)
        result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert result.exit_code == 0, (words, result.output)
        ran.add(command)
    assert ran >= {"predict", "serve", "score", "compare", "report", "new", "votes", "validate", "features", "train"}
    assert served, "the page was ready to be served"
    assert (place / "exp" / "shala" / "predictions.jsonl").read_text().count("\n") == 6
    assert json.loads((place / "data" / "summary.json").read_text())["task"]


def _results(place: Path) -> None:
    """Predictions of two systems and scores of three runs, as `score`, `compare` and `report` are shown."""
    record = [json.dumps({"id": f"u{n}", "probs": {"up": 0.4, "down": 0.6}}) for n in range(3, 24, 4)]
    for name in ("predictions.jsonl", "ours.jsonl", *(f"exp/seed{seed}/predictions.jsonl" for seed in range(3))):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("\n".join(record) + "\n")
    (place / "theirs.csv").write_text("id,up,down\n" + "".join(f"u{n},0.5,0.5\n" for n in range(3, 24, 4)))
    for seed in range(3):
        folder = f"exp/seed{seed}"
        arguments = [
            "evaluate",
            "score",
            f"{folder}/predictions.jsonl",
            "manifest.jsonl",
            "--out",
            f"{folder}/score.json",
        ]
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
