from __future__ import annotations

import json

import numpy as np
import pytest

from shala_audio.data.chaosnli import prepare
from shala_audio.data.rows import Row, write_manifest
from shala_audio.errors import UserError
from shala_audio.evaluation.score import score
from shala_audio.evaluation.tables import markdown

LABELS = ("entailment", "neutral", "contradiction")


def nli(identity: str, split: str, votes: dict, **extra) -> Row:
    return Row(identity, "chaosnli", split, text={"premise": "p", "hypothesis": "h"}, votes=votes, extra=extra)


@pytest.fixture
def manifest(tmp_path):
    rows = [
        nli("a", "train", {"entailment": 10}),
        nli("b", "train", {"neutral": 10}),
        nli("c", "test", {"entailment": 5, "neutral": 5}),
        nli("d", "test", {"contradiction": 4, "neutral": 1}),
        nli("e", "test", {}),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    return tmp_path / "m.jsonl"


def predictions(path, **probs):
    lines = [json.dumps({"id": i, "probs": dict(zip(LABELS, p, strict=True))}) for i, p in probs.items()]
    path.write_text("\n".join(lines))
    return path


def test_measures_and_prior(tmp_path, manifest):
    result = score(predictions(tmp_path / "p.jsonl", c=[0.5, 0.5, 0], d=[0, 0.2, 0.8]), manifest)
    assert result["n"] == 2 and result["jsd"]["value"] == pytest.approx(0, abs=1e-6)
    assert result["ties"] == 1 and result["accuracy"] == 1
    assert result["prior"]["jsd"]["value"] > 0.3, "the mean of the train rows: half entailment, half neutral"
    assert result["unpredicted"] == 0 and result["without_votes"] == 0
    assert score(predictions(tmp_path / "p.jsonl", c=[0.5, 0.5, 0]), manifest)["unpredicted"] == 1
    assert "constant prior" in markdown({"x": result})


def test_the_ceiling_is_the_true_distribution(tmp_path):
    true = dict(zip(LABELS, (0.5, 0.3, 0.2), strict=True))
    rows = [nli("a", "test", {"entailment": 5, "neutral": 3, "contradiction": 2}, true=true)]
    write_manifest(tmp_path / "m.jsonl", rows)
    result = score(predictions(tmp_path / "p.jsonl", a=[0.2, 0.3, 0.5]), tmp_path / "m.jsonl")
    assert result["ceiling"]["jsd"]["value"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "zz", "probs": {"entailment": 1, "neutral": 0, "contradiction": 0}}', "not in"),
        ('{"id": "e", "probs": {"entailment": 1, "neutral": 0, "contradiction": 0}}', "has votes to score"),
        ('{"id": "c", "probs": {"entailment": 1}}', "p.jsonl:1.*probs"),
        ('{"id": "c", "probs": {"entailment": 1, "neutral": 1, "contradiction": 0}}', "sum to 2"),
        ('{"id": "c", "probs": {"entailment": 1, "neutral": 0, "contradiction": 0, "x": 0}}', "labels x"),
        ("nonsense", "p.jsonl:1"),
        ("", "no prediction"),
    ],
)
def test_wrong_predictions_are_named(tmp_path, manifest, line, message):
    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        score(tmp_path / "p.jsonl", manifest)


@pytest.mark.parametrize(("seed", "expected"), [(0, 0.2454), (1, 0.2329), (2, 0.2478)])
def test_predictions_that_are_not_ours(corpora, tmp_path, seed, expected):
    """roberta-base, trained by others, on all of ChaosNLI-SNLI: SciPy's value to 1e-4."""
    path = corpora / "chaosnli" / "baseline_predictions.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    write_manifest(tmp_path / "m.jsonl", prepare(path.parent, seed=0).rows)
    with open(tmp_path / "p.jsonl", "w") as file:
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if (record["subset"], record["model"], record["seed"]) == ("snli", "roberta-base", seed):
                assert record["label_order"] == "e,n,c"
                probs = np.array(record["probs"]) / sum(record["probs"])
                named = dict(zip(LABELS, probs.tolist(), strict=True))
                file.write(json.dumps({"id": record["uid"], "probs": named}) + "\n")
    result = score(tmp_path / "p.jsonl", tmp_path / "m.jsonl")
    assert result["jsd_nats"] == pytest.approx(expected, abs=1e-4)
