from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from benchmarks import bench, paper_terms, to_the_truth
from benchmarks.turns import Turns, take_turns
from shala_audio.distribution import LabelDistribution
from shala_audio.evaluation.predictions import write_predictions
from shala_audio.manifest import Audio, Row, write_manifest
from shala_audio.task import load_task

pytestmark = pytest.mark.slow


def quick(turns: Turns) -> None:
    while turns.wait():
        turns.done(8, flops_per_unit=1e6)


def slow(turns: Turns) -> None:
    while turns.wait():
        time.sleep(1.0)
        turns.done(8)


def broken(turns: Turns) -> None:
    turns.wait()


def test_a_comparison_gives_records_and_a_table():
    comparison = bench.Comparison("prompts", {bench.EXACT: quick}, "a slower one", slow)
    [record] = bench.compare(comparison, rounds=2, peak=1e9)
    assert {"work", "ours", "other", "ratio", "low", "high", "peak_mb_ours", "peak_mb_other"} <= record.keys()
    assert record["low"] <= record["ratio"] <= record["high"] and record["ratio"] > 1
    assert record["share_of_matmul_peak"] == pytest.approx(1e6 * record["ours"] / 1e9)
    assert record["peak_mb_ours"] > 50
    text = bench.table([record])
    assert "| SHALA direct, training |" in text and "a slower one" in text and record["date"] in text


def test_a_side_that_ends_is_named(capfd):
    with pytest.raises(SystemExit, match="broken: the process ended"):
        take_turns({"broken": broken}, 1)


def test_distances_to_the_truth_are_scipys_over_all_and_over_the_most_ambiguous_third(tmp_path):
    labels = load_task("mini").label_names
    rng = np.random.default_rng(0)
    for seed in (0, 1):
        truth, said = rng.dirichlet(np.ones(len(labels)), 30), rng.dirichlet(np.ones(len(labels)), 30)
        known = [{"true": dict(zip(labels, p, strict=True))} for p in truth.tolist()]
        rows = [
            Row(f"r{at}", "mini", "test", None, Audio(f"{at}.wav"), {}, {labels[0]: 1}, extra)
            for at, extra in enumerate(known)
        ]
        write_manifest(tmp_path / f"data{seed}" / "manifest.jsonl", rows)
        answers = LabelDistribution.of_rows(labels, said)
        folder = tmp_path / f"exp{seed}" / "mine"
        folder.mkdir(parents=True)
        write_predictions(folder / "predictions.jsonl", zip([row.id for row in rows], answers, strict=True))
    found = to_the_truth.measured([tmp_path / "exp0", tmp_path / "exp1"], [tmp_path / "data0", tmp_path / "data1"])
    distances, level = jensenshannon(truth, said, axis=1, base=2), entropy(truth, axis=1)
    expected = (distances.mean(), distances[np.argsort(level)[-10:]].mean())
    assert list(found) == ["mine"] and found["mine"][1] == pytest.approx(expected)
    assert (
        "| mine | " in to_the_truth.table(found, "system", "mine")
        and to_the_truth.as_csv(found, "system", [0, 1]).count("mine") == 2
    )


def test_the_papers_terms_are_those_of_the_recipes_tables(capsys):
    paper_terms.main()
    assert capsys.readouterr().out == (Path(paper_terms.__file__).parent / "paper_terms.csv").read_text()
    said = (
        (Path(paper_terms.__file__).parents[1] / "docs" / "results.md").read_text().split("## In the paper's terms")[1]
    )
    for line in ("| .725 | .293 | −59.6 | .113 | .566 |", "| .255 | .145 | −43.2 | .483 | .802 |"):
        assert line in said
