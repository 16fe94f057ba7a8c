from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.errors import UserError
from shala_audio.evaluation.metrics import all_measures
from shala_audio.evaluation.report import as_csv, latex, markdown, what_they_were
from shala_audio.evaluation.runs import find_runs, gather, merge, table_rows
from shala_audio.io import write_json
from tests.evaluation.helpers import system

LABELS = ["a", "b_1", "c"]


def scored(seed: int, noise: float) -> dict:
    rng = np.random.default_rng(seed)
    human = rng.multinomial(5, rng.dirichlet(np.ones(3), size=60)) / 5
    predicted = human + noise * rng.random((60, 3)) + 0.01
    predicted /= predicted.sum(axis=1, keepdims=True)
    prior = np.tile(human.mean(axis=0), (60, 1))
    return {
        **all_measures(human, predicted, draws=50),
        "labels": LABELS,
        "prior": all_measures(human, prior, draws=50),
        "agreement_bound": {"kind": "fresh sample of the raters", **all_measures(human, human, draws=50)},
        "split_half": {"n": 60, "jsd": {"value": 0.2, "low": 0.1, "high": 0.3}},
    }


def distances(seed: int, noise: float) -> dict:
    measured = scored(seed, noise)["jsd"]["value"]
    rng = np.random.default_rng(seed)
    keys = [f"{seed}-{row}" for row in range(60)]
    columns = {
        column: dict(zip(keys, rng.normal(measured, 0.05, 60).tolist(), strict=True))
        for column in ("jsd", "agreement_bound", "split_half")
    }
    return {**columns, "group": dict(zip(keys, keys, strict=True))}


def training(method: str, seed: int) -> dict:
    return {
        "method": method, "readout": "slots", "seed": seed, "seconds": 60.0, "peak_mb": 1234, "precision": "fp32",
        "trained_parameters": 1000, "command": f"shala-audio train --seed {seed}", "lm": "tiny", "lm_sha256": "ab" * 32,
        "manifest_sha256": "cd" * 32, "versions": {"torch": "2"}, "encoder": "ear", "encoder_sha256": "ef" * 32,
        "revision": "0123456789ab",
    }  # fmt: skip


@pytest.fixture
def experiments(tmp_path):
    for seed in (0, 1):
        for method, noise in (("shala_static", 0.2), ("zero_shot", 2.0)):
            folder = tmp_path / f"seed{seed}" / method
            write_json(folder / "score.json", scored(seed, noise))
            write_json(folder / "distances.json", distances(seed, noise))
            write_json(folder / "training.json", training(method, seed))
            (folder / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5, "reward": 0.3}) + "\n")
        write_json(tmp_path / f"seed{seed}" / "shala_static" / "score_temperature.json", scored(seed, 0.1))
        write_json(tmp_path / f"seed{seed}" / "shala_static" / "distances_temperature.json", distances(seed, 0.1))
        write_json(tmp_path / f"seed{seed}" / "pack" / "score.json", scored(seed, 0.2))
        write_json(tmp_path / f"seed{seed}" / "prior" / "score.json", scored(seed, 3.0))
        write_json(tmp_path / f"seed{seed}" / "prior" / "distances.json", distances(seed, 3.0))
        write_json(tmp_path / f"seed{seed}" / "prior" / "training.json", {"method": "prior", "seed": seed})
    return tmp_path


def test_runs_that_differ_in_the_seed_are_one_system(experiments):
    systems = gather(find_runs([experiments / "seed0", experiments / "seed1"]))
    assert [found.name for found in systems] == [
        "constant prior",
        "zero_shot (slots)",
        "shala_static (slots)",
        "shala_static (slots) + temperature",
    ]
    for found in systems:
        values = [run.score["jsd"]["value"] for run in found.runs]
        merged = found.score["jsd"]
        assert (merged["value"], merged["sd"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert merged["low"] < merged["value"] < merged["high"]
        assert found.score["n"] == 120
        assert found.score["terciles"]["high"]["jsd"]["sd"] is not None
        halves = found.score["split_half"]
        assert halves["n"] == 120 and halves["jsd"]["low"] < halves["jsd"]["high"]
    names = [name for name, _ in table_rows(systems)]
    assert names[0] == "constant prior" and names[-2:] == [
        "human agreement bound: fresh sample of the raters",
        "raters: one half against the other",
    ]


def test_every_commit_is_named_once(experiments):
    """Of folds, a run's record names all of its commits; several runs of that kind named each of them anew."""
    for seed, joined in ((0, "aaaa, bbbb"), (1, "bbbb, aaaa")):
        record = {**training("shala_static", seed), "revision": joined}
        write_json(experiments / f"seed{seed}" / "shala_static" / "training.json", record)
    text = "\n".join(what_they_were(find_runs([experiments / "seed0", experiments / "seed1"])))
    assert [text.count(commit) for commit in ("0123456789ab", "aaaa", "bbbb")] == [1, 1, 1]


def test_one_run_keeps_its_interval(experiments):
    score = scored(0, 0.2)
    assert merge([score]) == score
    text = markdown(table_rows([system("x", score)]))
    assert f"[{score['jsd']['low']:.3f}, {score['jsd']['high']:.3f}]" in text and "| x | 60 |" in text


def test_runs_that_differ_in_more_than_the_seed_are_kept_apart(experiments):
    other = {**training("shala_static", 1), "settings": {"ambiguity_lambda": 0.9}}
    write_json(experiments / "seed1" / "shala_static" / "training.json", other)
    names = [found.name for found in gather(find_runs([experiments / "seed0", experiments / "seed1"]))]
    assert names.count("zero_shot (slots)") == 1
    assert {f"shala_static (slots) [seed{seed}/shala_static]" for seed in (0, 1)} < set(names)


def test_parts_of_a_corpus_are_kept_apart_and_seeds_are_not(experiments):
    """Split by speaker, seeds keep a row more or less of as many as were asked for."""
    for seed, rows in ((0, 298), (1, 299)):
        record = {**training("zero_shot", seed), "data": {"max_rows": 300, "part": None, "splits": {"train": rows}}}
        write_json(experiments / f"seed{seed}" / "zero_shot" / "training.json", record)
    folders = [experiments / "seed0", experiments / "seed1"]
    assert [found.name for found in gather(find_runs(folders))].count("zero_shot (slots)") == 1
    for other in ({"max_rows": None}, {"fold": 0}, {"secondary": 0.3}, {"caveat": "aggregated labels"}):
        changed = {**record, "data": {**record["data"], **other}}
        write_json(experiments / "seed1" / "zero_shot" / "training.json", changed)
        assert "zero_shot (slots)" not in [found.name for found in gather(find_runs(folders))], other


def test_runs_that_say_nothing_of_themselves_are_no_seeds_of_each_other(experiments):
    """Two systems of other people, each in a folder of the same name."""
    for index, name in enumerate(("bert", "gpt")):
        write_json(experiments / name / "run" / "score.json", scored(index, 0.3))
    names = [found.name for found in gather(find_runs([experiments / "bert", experiments / "gpt"]))]
    assert names == ["run [bert/run]", "run [gpt/run]"]


def test_a_file_of_measures_is_a_system(experiments):
    write_json(experiments / "mine.json", scored(0, 0.3))
    write_json(experiments / "mine_distances.json", distances(0, 0.3))
    (mine,) = find_runs([experiments / "mine.json"])
    assert mine.system == "mine" and mine.rows["jsd"]
    (named,) = find_runs([experiments / "seed0" / "zero_shot" / "score.json"])
    assert named == find_runs([experiments / "seed0" / "zero_shot"])[0]
    (calibrated,) = find_runs([experiments / "seed0" / "shala_static" / "score_temperature.json"])
    assert calibrated.calibration == "temperature"
    for end in ("", "_distances"):
        (experiments / f"mine_temperature_jsd{end}.json").write_bytes((experiments / f"mine{end}.json").read_bytes())
    (mine,) = find_runs([experiments / "mine_temperature_jsd.json"])
    assert mine.system == "mine + temperature_jsd" and mine.calibration == "temperature_jsd" and mine.rows["jsd"]
    with pytest.raises(UserError, match="holds no measures"):
        find_runs([experiments / "seed0" / "zero_shot" / "training.json"])
    arguments = [
        "evaluate",
        "report",
        str(experiments / "mine.json"),
        str(experiments / "seed0"),
        "--out",
        str(experiments / "R.md"),
    ]
    result = CliRunner().invoke(app, [*arguments, "--reference", "mine"], catch_exceptions=False)
    assert result.exit_code == 0 and "| mine against | rows |" in (experiments / "R.md").read_text()
    two = [
        "evaluate",
        "report",
        str(experiments / "mine.json"),
        str(experiments / "seed0" / "zero_shot"),
        "--out",
        str(experiments / "R.md"),
    ]
    assert "name one with --reference" in CliRunner().invoke(app, two).stderr


def test_a_run_that_is_there_twice_counts_once(experiments):
    (found,) = gather(find_runs([experiments / "seed0" / "zero_shot", experiments / "seed0" / "zero_shot"]))
    assert len(found.runs) == 1
    write_json(experiments / "seed1" / "zero_shot" / "training.json", training("zero_shot", 0))
    with pytest.raises(UserError, match="two runs with the same seed"):
        gather(find_runs([experiments / "seed0", experiments / "seed1"]))


def test_a_folder_without_scores_is_named(experiments):
    with pytest.raises(UserError, match=r"no score\.json"):
        find_runs([experiments])


def test_csv_and_latex_hold_the_numbers():
    score = scored(0, 0.2)
    rows = table_rows([system("my_system & co", score)])
    records = list(csv.DictReader(as_csv(rows).splitlines()))
    (found,) = [r for r in records if r["system"] == "my_system & co" and r["measure"] == "jsd"]
    assert float(found["value"]) == pytest.approx(score["jsd"]["value"], abs=1e-6)
    assert float(found["low"]) <= float(found["value"]) <= float(found["high"])
    assert any(r["measure"] == "jsd_high_tercile" for r in records)
    text = latex(rows)
    assert r"my\_system \& co" in text and text.count(r"\\") == len(rows) + 1


def test_without_matplotlib_no_old_picture_stays(experiments, monkeypatch):
    monkeypatch.setattr("shala_audio.evaluation.report.find_spec", lambda name: None)
    (experiments / "RESULTS_jsd.png").write_bytes(b"of an earlier table")
    out = experiments / "RESULTS.md"
    result = CliRunner().invoke(
        app, ["evaluate", "report", str(experiments / "seed0"), "--out", str(out)], catch_exceptions=False
    )
    assert "matplotlib is not installed" in result.stderr and ".png" not in out.read_text()
    assert not (experiments / "RESULTS_jsd.png").exists()


def test_the_report_has_everything(experiments):
    out = experiments / "RESULTS.md"
    arguments = ["evaluate", "report", str(experiments / "seed0"), str(experiments / "seed1"), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--title", "Tiny", "--note", "A caveat."], catch_exceptions=False)
    assert result.exit_code == 0
    assert "Tiny" in result.stdout and "constant prior" in result.stdout and "±" in result.stdout
    text = out.read_text()
    for part in (
        "# Tiny",
        "A caveat.",
        "constant prior",
        "±",
        "most contested third",
        "1,234",
        "Encoder ear, sha256 efef",
        "abababab",
        "| 1,000 | no | – | cdcdcdcd |",
        "torch 2",
        "code: 0123456789ab.",
    ):
        assert part in text, part
    assert "    shala-audio train --seed 1" in text
    assert "| shala_static (slots) against | rows |" in text and "2 seeds, each with test rows of its own" in text
    assert re.search(r"entropy \(\d+, \d+, \d+ rows\)", text)
    assert "The human agreement bound is as many votes, drawn anew" in text and "Not on the same rows" not in text
    for name in ("jsd", "terciles", "reliability", "entropy", "confusion", "training"):
        picture = experiments / f"RESULTS_{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.name in text
    assert out.with_suffix(".csv").is_file() and out.with_suffix(".tex").is_file()
