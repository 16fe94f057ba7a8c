from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.errors import UserError
from shala_audio.evaluation.cross_validation import pool_folds
from shala_audio.evaluation.report import _choices
from shala_audio.evaluation.runs import Run, find_runs, gather
from shala_audio.evaluation.tuning import choose_run, without_choice
from shala_audio.io import read_json, write_json
from shala_audio.manifest import Row, write_manifest
from shala_audio.task import load_task
from tests.evaluation.test_cross_validation import make_folds

LABELS = load_task("chaosnli").label_names
# What a run says of every row, by its learning rate.
SAYS = {0.1: (0.2, 0.6, 0.2), 0.2: (0.1, 0.8, 0.1), 0.3: (0.3, 0.4, 0.3)}


def make_run(folder: Path, rate: float, rows=("a", "b"), seed: int = 0, says: float = 0) -> Path:
    folder.mkdir(parents=True)
    write_json(
        folder / "training.json",
        {
            "method": "sft_soft",
            "readout": "label_token",
            "seed": seed,
            "settings": {"learning_rate": rate, "num_train_epochs": 3.0},
        },
    )
    write_json(
        folder / "run.json", {"method": "sft_soft", "seed": seed, "learning_rate": rate, "num_train_epochs": 3.0}
    )
    write_json(folder / "shala.json", {"task": load_task("chaosnli").to_dict()})
    lines = [json.dumps({"id": i, "probs": dict(zip(LABELS, SAYS[says or rate], strict=True))}) for i in rows]
    (folder / "predictions_dev.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "trained.safetensors").write_text(str(rate))
    return folder


@pytest.fixture
def manifest(tmp_path):
    splits = {"a": "dev", "b": "dev", "t": "test"}
    rows = [Row(i, "chaosnli", split, text={"premise": "p"}, votes={"neutral": 3}) for i, split in splits.items()]
    write_manifest(tmp_path / "manifest.jsonl", rows)
    return tmp_path / "manifest.jsonl"


def test_the_run_closest_on_dev_is_kept_with_what_was_tried(tmp_path, manifest):
    from scipy.spatial.distance import jensenshannon

    runs = [make_run(tmp_path / str(rate), rate) for rate in SAYS]
    (tmp_path / "out").mkdir()
    for name in ("old", "trained.safetensors"):
        (tmp_path / "out" / name).write_text("of an earlier run")
    tried = choose_run(runs, manifest, tmp_path / "out")
    expected = [jensenshannon((0, 1, 0), says, base=2) for says in SAYS.values()]
    assert [settings for settings, _ in tried] == [{"learning_rate": rate} for rate in SAYS]
    assert [distance for _, distance in tried] == pytest.approx(expected)
    assert (tmp_path / "out" / "trained.safetensors").read_text() == "0.2"
    assert not (tmp_path / "out" / "old").exists() and not list(tmp_path.glob(".*"))
    record = read_json(tmp_path / "out" / "training.json")
    assert record["settings"]["learning_rate"] == 0.2 and record["tuned"]["rows"] == 2
    assert [one["jsd"] for one in record["tuned"]["tried"]] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda runs: runs.pop(), "two runs or more"),
        (lambda runs: write_json(runs[1] / "run.json", read_json(runs[0] / "run.json")), "same settings"),
        (lambda runs: write_json(runs[1] / "run.json", {"seed": 1}), "has another method, seed than another run"),
        (lambda runs: (runs[1] / "training.json").unlink(), "training.json: no such file"),
        (lambda runs: (runs[1] / "predictions_dev.jsonl").unlink(), "predictions_dev.jsonl: no such file"),
    ],
)
def test_what_cannot_be_compared_is_named(tmp_path, manifest, spoil, message):
    runs = [make_run(tmp_path / str(rate), rate) for rate in (0.1, 0.2)]
    spoil(runs)
    with pytest.raises(UserError, match=message):
        choose_run(runs, manifest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_the_same_dev_rows_are_taken(tmp_path, manifest):
    first = make_run(tmp_path / "one", 0.1)
    with pytest.raises(UserError, match="has rows of test; choose on dev alone"):
        choose_run([first, make_run(tmp_path / "two", 0.2, rows=("a", "t"))], manifest, tmp_path / "out")
    with pytest.raises(UserError, match="predicts 1 of the 2 dev rows with votes"):
        choose_run([first, make_run(tmp_path / "three", 0.2, rows=("a",))], manifest, tmp_path / "out")


def test_nothing_but_an_earlier_model_is_replaced(tmp_path, manifest):
    runs = [make_run(tmp_path / "exp" / str(rate), rate) for rate in (0.1, 0.2)]
    with pytest.raises(UserError, match="is there, and is no trained model"):
        choose_run(runs, manifest, tmp_path / "exp")
    with pytest.raises(UserError, match="holds a run to choose from"):
        choose_run(runs, manifest, runs[0])
    assert all((run / "trained.safetensors").is_file() for run in runs)


def test_the_report_lists_what_was_tried(tmp_path, manifest):
    runs = [make_run(tmp_path / str(rate), rate) for rate in (0.1, 0.2)]
    choose = [
        "evaluate",
        "choose",
        *map(str, runs),
        "--manifest",
        str(manifest),
        "--out",
        str(tmp_path / "exp" / "sft_soft"),
    ]
    done = CliRunner().invoke(app, choose, catch_exceptions=False)
    assert done.output.splitlines()[-1].endswith("sft_soft: learning_rate 0.2")
    training = read_json(tmp_path / "exp" / "sft_soft" / "training.json")
    for folds in (training["tuned"], [training["tuned"]] * 2):
        lines = _choices([Run("a", tmp_path, {}, {**training, "tuned": folds})])
        assert "learning_rate 0.1: 0.486; **learning_rate 0.2: 0.329**" in lines[-4], "as SciPy says above"
        assert len(lines) == (8 if folds is training["tuned"] else 9)
        assert without_choice({**training, "tuned": folds})["learning_rate"] == [0.1, 0.2]


def test_a_pool_keeps_every_folds_choice(tmp_path):
    folds = make_folds(tmp_path)
    records = [fold.experiment / "shala" / "training.json" for fold in folds]
    write_json(records[0], {**read_json(records[0]), "tuned": {"rows": 1}})
    with pytest.raises(UserError, match="chosen on dev in some folds and not in others"):
        pool_folds(folds, tmp_path / "out")
    write_json(records[1], {**read_json(records[1]), "tuned": {"rows": 2}})
    pool_folds(folds, tmp_path / "out")
    assert read_json(tmp_path / "out" / "shala" / "training.json")["tuned"] == [{"rows": 1}, {"rows": 2}]


def test_seeds_that_chose_differently_are_one_system(tmp_path, manifest):
    for seed, says in ((0, {0.1: 0.2, 0.3: 0.1}), (1, {0.1: 0.1, 0.3: 0.2})):
        runs = [make_run(tmp_path / f"{seed}-{rate}", rate, seed=seed, says=of) for rate, of in says.items()]
        out = tmp_path / f"exp{seed}" / "sft_soft"
        choose_run(runs, manifest, out)
        write_json(out / "score.json", {"n": 2, "jsd": {"value": 0.3 + seed}})
    chosen = [read_json(tmp_path / f"exp{seed}" / "sft_soft" / "training.json")["settings"] for seed in (0, 1)]
    assert [one["learning_rate"] for one in chosen] == [0.1, 0.3]
    (system,) = gather(find_runs([tmp_path / "exp0", tmp_path / "exp1"]))
    assert len(system.runs) == 2
