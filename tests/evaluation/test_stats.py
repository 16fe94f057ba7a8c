from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy.stats import bootstrap, sem
from scipy.stats import t as student_t
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.evaluation.bounds import split_half_distance
from shala_audio.evaluation.compare import paired_test
from shala_audio.evaluation.metrics import all_measures
from shala_audio.evaluation.runs import merge
from shala_audio.evaluation.score import score, set_jsd_intervals
from shala_audio.evaluation.stats import cluster_ids, jackknife_interval, mean_interval
from shala_audio.io import write_json
from shala_audio.manifest import Row, write_manifest


def test_groups_of_one_row_give_students_interval():
    values = np.random.default_rng(0).random(20)
    low, high = jackknife_interval(values, np.arange(20))
    expected = student_t.interval(0.95, 19, loc=values.mean(), scale=sem(values))
    assert (low, high) == pytest.approx(expected)


def test_rows_that_share_nothing_have_the_bootstraps_interval():
    values = np.random.default_rng(0).random(200)
    found = mean_interval(values, [str(row) for row in range(200)])
    expected = bootstrap((values,), np.mean, method="percentile", random_state=0).confidence_interval
    assert "groups" not in found
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=0.004)


def test_a_single_row_tells_nothing_of_others():
    assert jackknife_interval(np.array([0.3]), np.array([0])) == (None, None)
    assert mean_interval(np.array([0.3]), ["a"]) == {"low": None, "high": None}
    found = all_measures(np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]]))
    assert found["jsd"]["value"] > 0 and found["jsd"]["low"] is found["jsd"]["high"] is None
    assert paired_test(np.array([0.1]), ["a"]).low is None
    assert split_half_distance(np.array([[6.0, 4.0]]))[0]["jsd"]["low"] is None
    thirds = all_measures(np.array([[1.0, 0.0], [0.8, 0.2], [0.5, 0.5]]), np.full((3, 2), 0.5), draws=20)["terciles"]
    assert [(third["n"], third["jsd"]["low"]) for third in thirds.values()] == [(1, None)] * 3


def test_the_interval_over_groups_holds_the_mean_as_often_as_it_says():
    """Ten speakers of 30 clips each, who differ from each other: rows drawn one by one would be far too sure."""
    rng = np.random.default_rng(0)
    names = np.repeat([f"s{speaker}" for speaker in range(10)], 30)
    hits = {"groups": 0, "rows": 0}
    for _ in range(300):
        values = np.repeat(rng.normal(0, 1, 10), 30) + rng.normal(0, 1, 300)
        cluster = cluster_ids(names.tolist())
        low, high = jackknife_interval(values, cluster)
        hits["groups"] += low <= 0 <= high
        low, high = jackknife_interval(values, np.arange(300))
        hits["rows"] += low <= 0 <= high
    assert hits["groups"] / 300 == pytest.approx(0.95, abs=0.03) and hits["rows"] / 300 < 0.6


@pytest.fixture
def files(tmp_path):
    """A manifest of 12 speakers with five rows each, and predictions that are nearer for some of them."""
    rng = np.random.default_rng(0)
    rows, lines = [], ["id,anger,disgust,fear,happy,neutral,sad"]
    names = lines[0].split(",")[1:]
    for index in range(60):
        votes = dict(zip(names, rng.multinomial(10, rng.dirichlet(np.ones(6))).tolist(), strict=True))
        rows.append(Row(f"r{index}", "crema_d", "test", f"s{index % 12}", text={"transcript": f"{index}"}, votes=votes))
        probs = rng.dirichlet(np.full(6, 0.2 + index % 12))
        lines.append(f"r{index}," + ",".join(f"{share:.9f}" for share in probs / probs.sum()))
    train = Row("t", "crema_d", "train", "s99", text={"transcript": "no"}, votes={"anger": 3, "fear": 2})
    write_manifest(tmp_path / "m.jsonl", [*rows, train])
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "p.csv", tmp_path / "m.jsonl"


def test_a_score_has_its_intervals_over_speakers(files):
    found = score(*files, draws=50)
    by_row = found["rows"]
    for column, measures in (
        ("jsd", found),
        *((name, found[name]) for name in ("prior", "agreement_bound", "split_half")),
    ):
        values = by_row[column]
        groups = [by_row["group"][key] for key in values]
        expected = jackknife_interval(np.array(list(values.values())), cluster_ids(groups))
        assert measures["jsd"]["groups"] == 12
        assert (measures["jsd"]["low"], measures["jsd"]["high"]) == expected
        assert measures["jsd"]["low"] < measures["jsd"]["value"] < measures["jsd"]["high"]
    assert found["jsd_nats"]["low"] == pytest.approx(found["jsd"]["low"] * np.sqrt(np.log(2)))
    assert found["accuracy"]["groups"] == 12 and found["accuracy"]["low"] < found["accuracy"]["value"]
    again = {**found, "jsd": dict(found["jsd"])}
    set_jsd_intervals(again, [by_row])
    assert again["jsd"] == found["jsd"]
    assert score(*files, draws=0)["jsd"]["low"] is None


def test_several_runs_have_their_interval_over_the_speakers_of_all(files):
    """Two seeds, each with test rows of its own, whose speakers are partly the same."""
    whole = score(*files, draws=50)
    keys = list(whole["rows"]["jsd"])
    scores, by_rows = [], []
    for mine in (keys[:40], keys[20:]):
        rows = {
            column: {key: value for key, value in found.items() if key in mine}
            for column, found in whole["rows"].items()
        }
        mean = float(np.mean(list(rows["jsd"].values())))
        scores.append({"n": len(mine), "jsd": {"value": mean, "low": 0.0, "high": 1.0}})
        by_rows.append(rows)
    merged = merge(scores, by_rows)
    groups = [whole["rows"]["group"][key] for key in keys]
    expected = jackknife_interval(np.array([whole["rows"]["jsd"][key] for key in keys]), cluster_ids(groups))
    assert merged["n"] == 60 and merged["jsd"]["groups"] == 12
    assert (merged["jsd"]["low"], merged["jsd"]["high"]) == pytest.approx(expected)
    assert scores[0]["jsd"] == {"value": scores[0]["jsd"]["value"], "low": 0.0, "high": 1.0}, "left as they were"


def test_a_report_says_what_its_interval_is_over(files, tmp_path):
    found = score(*files, draws=50)
    rows = found.pop("rows")
    for name in ("score.json", "distances.json"):
        write_json(tmp_path / "exp" / "mine" / name, found if name == "score.json" else rows)
    done = CliRunner().invoke(app, ["evaluate", "report", str(tmp_path / "exp"), "--out", str(tmp_path / "R.md")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "R.md").read_text()
    assert "95 % interval over 12 groups of rows (speakers or premises)" in text
    groups = {row["measure"]: row["groups"] for row in csv.DictReader((tmp_path / "R.csv").open())}
    assert (groups["jsd"], groups["jsd_nats"], groups["accuracy"]) == ("12", "12", "12")


@pytest.mark.parametrize("sizes", [(20,) * 2, (20,) * 3, (20,) * 5, (20,) * 8, (5, 10, 40), (5, 5, 10, 20, 40, 60)])
def test_few_clusters_reject_a_true_mean_as_rarely_as_they_say(sizes):
    """Below six clusters rows counted as independent, so that less evidence gave narrower intervals. Of 1,000 simulations with
    2 to 8 clusters, about 5 % of intervals may miss the true mean; and the permutation test may never be surer than its signs."""
    rng = np.random.default_rng(0)
    names = [f"s{speaker}" for speaker, size in enumerate(sizes) for _ in range(size)]
    misses = certain = 0
    for _ in range(1000):
        values = np.repeat(rng.normal(0, 1, len(sizes)), sizes) + rng.normal(0, 1, sum(sizes))
        found = mean_interval(values, names)
        misses += not found["low"] <= 0 <= found["high"]
        certain += paired_test(values, names).p < 0.05
    assert misses / 1000 < 0.075 and certain / 1000 < 0.075
    assert paired_test(values, names).p >= 2 / 2 ** len(sizes)


def test_a_single_cluster_has_no_interval_and_shows_nothing():
    found = paired_test(np.full(9, 0.3), ["one"] * 9)
    assert (found.low, found.high, found.p) == (None, None, 1.0)
    assert mean_interval(np.full(9, 0.3), ["one"] * 9) == {"low": None, "high": None, "groups": 1}
