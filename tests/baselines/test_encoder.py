from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from shala_audio.baselines.encoder import train_encoder
from shala_audio.cli.main import app
from shala_audio.distribution import jsd
from shala_audio.errors import UserError
from shala_audio.io import read_json
from shala_audio.manifest import Row, write_manifest
from shala_audio.task import load_task
from shala_audio.votes import human_distributions
from tests.tiny import make_tiny_bert

TASK = load_task("chaosnli")


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp("encoder"), ("a", "man", "sings", "sleeps", "maybe"))


def rows(count: int = 96) -> list[Row]:
    """What the second text ends with says how people vote."""
    votes = {
        "sings": {"entailment": 4, "neutral": 1},
        "sleeps": {"contradiction": 5},
        "maybe": {"neutral": 3, "entailment": 2},
    }
    made = []
    for number in range(count):
        word = list(votes)[number % 3]
        text = {"premise": "a man", "hypothesis": f"a man {word}"}
        split = ("train", "train", "dev", "test")[number // 3 % 4]
        made.append(Row(str(number), "chaosnli", split, text=text, votes=votes[word]))
    return made


def test_it_learns_pairs_and_keeps_what_dev_chose(tiny_encoder):
    fitted = train_encoder(rows(480), str(tiny_encoder), TASK, rates=(1e-5, 3e-3))
    assert fitted.chosen["learning_rate"] == 3e-3 and 1 <= fitted.chosen["passes"] <= 5
    dev = [row for row in rows(480) if row.split == "dev"]
    assert [identity for identity, _ in fitted.predictions["dev"]] == [row.id for row in dev]
    said = np.stack([answer.probs for _, answer in fitted.predictions["dev"]])
    human = human_distributions(dev, TASK.label_names)
    assert jsd(human, said).mean() == pytest.approx(fitted.dev_jsd), "of the model that was kept"
    assert fitted.dev_jsd < 0.5 * jsd(human, human.mean(axis=0)).mean()
    again = train_encoder(rows(480), str(tiny_encoder), TASK, rates=(1e-5, 3e-3))
    assert again.dev_jsd == fitted.dev_jsd, "a seed gives one model"


def test_what_cannot_be_done_is_said(tiny_encoder, tmp_path):
    with pytest.raises(UserError, match="nowhere: no sequence classifier"):
        train_encoder(rows(), str(tmp_path / "nowhere"), TASK)
    lacking = [*rows(), Row("half", "chaosnli", "train", text={"premise": "man"}, votes={"neutral": 1})]
    with pytest.raises(UserError, match="row half: has no text field hypothesis"):
        train_encoder(lacking, str(tiny_encoder), TASK)


def test_long_texts_are_cut_and_counted_and_withheld_votes_predicted(tiny_encoder, caplog):
    """One post that was too long ended a recipe after its training; so did a test set whose votes are withheld."""
    withheld = [replace(row, votes={}) if row.split == "test" else row for row in rows(24)]
    long = {"premise": "man " * 20, "hypothesis": "a"}
    more = [
        Row("long", "chaosnli", "train", text=long, votes={"neutral": 1}),
        Row("asked", "chaosnli", "test", text=long),
    ]
    fitted = train_encoder([*withheld, *more], str(tiny_encoder), TASK, rates=(1e-3,))
    assert "1 of 13 train texts are longer than the encoder's" in caplog.text
    assert "1 of 7 test texts" in caplog.text and "dev texts" not in caplog.text
    assert len(fitted.predictions["test"]) == 7 and fitted.predictions["test"][-1][0] == "asked"


def test_the_command_writes_both_splits_and_a_record(tiny_encoder, tmp_path):
    write_manifest(tmp_path / "m.jsonl", rows(24))
    words = [
        "evaluate",
        "baseline",
        "encoder",
        tmp_path / "m.jsonl",
        "--model",
        tiny_encoder,
        "--out",
        tmp_path / "e" / "p.jsonl",
    ]
    run = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert run.exit_code == 0 and "chosen on dev" in run.stdout
    assert (tmp_path / "e" / "p_dev.jsonl").is_file()
    record = read_json(tmp_path / "e" / "training.json")
    assert record["method"] == "encoder" and set(record["chosen"]) == {"learning_rate", "passes"}
    run = CliRunner().invoke(app, [str(word) for word in words if word not in ("--model", tiny_encoder)])
    assert "needs --model, a text encoder" in str(run.exception)
