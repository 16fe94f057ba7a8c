from __future__ import annotations

import json

import pytest

from shala_audio.errors import UserError
from shala_audio.evaluation.cross_validation import Fold, pool_folds
from shala_audio.io import read_json, write_json
from shala_audio.manifest import Row, read_manifest, write_manifest

PROBS = {"entailment": 0.5, "neutral": 0.3, "contradiction": 0.2}


def make_folds(folder, tests=(("a", "b"), ("c", "d")), systems=("shala", "prior")) -> list[Fold]:
    everything = sorted({name for fold in tests for name in fold})
    folds = []
    for index, test in enumerate(tests):
        rows = [
            Row(i, "chaosnli", "test" if i in test else "train", text={"premise": "p"}, votes={"neutral": 3})
            for i in everything
        ]
        manifest = folder / f"data{index}" / "manifest.jsonl"
        write_manifest(manifest, rows)
        for system in systems:
            out = folder / f"fold{index}" / system
            out.mkdir(parents=True)
            lines = [json.dumps({"id": i, "probs": PROBS}) for i in test]
            (out / "predictions.jsonl").write_text("\n".join(lines) + "\n")
            (out / "predictions_dev.jsonl").write_text("")
        write_json(
            folder / f"fold{index}" / "shala" / "training.json",
            {"seconds": 10 + index, "peak_mb": 5 - index, "before": [f"warm {index}"], "command": f"train {index}"},
        )
        if "prior" in systems:
            write_json(folder / f"fold{index}" / "prior" / "training.json", {"method": "prior", "seed": 0})
        folds.append(Fold(folder / f"fold{index}", manifest))
    return folds


def test_every_row_is_predicted_once(tmp_path):
    assert pool_folds(make_folds(tmp_path), tmp_path / "out") == ["prior", "shala"]
    lines = (tmp_path / "out" / "shala" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a", "b", "c", "d"]
    assert {row.split for row in read_manifest(tmp_path / "out" / "manifest.jsonl")} == {"test"}
    assert read_json(tmp_path / "out" / "shala" / "training.json") == {
        "seconds": 21, "peak_mb": 5, "folds": 2, "before": ["warm 0", "train 0", "warm 1"], "command": "train 1"
    }  # fmt: skip
    assert read_json(tmp_path / "out" / "prior" / "training.json") == {"method": "prior", "seed": 0, "folds": 2}
    assert not (tmp_path / "out" / "shala" / "predictions_dev.jsonl").exists()


def test_the_folds_temperatures_are_kept(tmp_path):
    folds = make_folds(tmp_path)
    for fold, t in zip(folds, (0.5, 0.8), strict=True):
        kept = {"weight": [[1 / t, 0], [0, 1 / t]], "rows": 12}
        write_json(fold.experiment / "shala" / "calibration_temperature_jsd.json", kept)
    pool_folds(folds, tmp_path / "out")
    assert read_json(tmp_path / "out" / "shala" / "training.json")["temperatures"] == [[0.5, 12], [0.8, 12]]


def test_a_row_twice_or_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="row b is in the test split of another fold too"):
        pool_folds(make_folds(tmp_path / "one", tests=(("a", "b"), ("b", "c"))), tmp_path / "out")
    folds = make_folds(tmp_path / "two")
    (folds[1].experiment / "shala" / "predictions.jsonl").write_text(json.dumps({"id": "c", "probs": PROBS}))
    with pytest.raises(UserError, match="1 rows are not predicted, or not wanted, such as d"):
        pool_folds(folds, tmp_path / "out")
    folds = make_folds(tmp_path / "three", systems=())
    with pytest.raises(UserError, match="no system has predictions"):
        pool_folds(folds, tmp_path / "out")
    folds = make_folds(tmp_path / "four")
    (folds[0].experiment / "prior" / "predictions.jsonl").unlink()
    with pytest.raises(UserError, match="fold0: has no predictions of prior, which another fold has"):
        pool_folds(folds, tmp_path / "out")
    folds = make_folds(tmp_path / "five")
    (folds[1].experiment / "shala" / "predictions_temperature.jsonl").write_text("")
    with pytest.raises(UserError, match=r"predictions_temperature.jsonl: no such file"):
        pool_folds(folds, tmp_path / "out")
