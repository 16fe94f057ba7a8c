from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import permutation_test, ttest_1samp

from shala_audio.errors import UserError
from shala_audio.evaluation.compare import compare
from shala_audio.evaluation.stats import paired_permutation, paired_test
from shala_audio.manifest import Row, write_manifest

LABELS = ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_p_is_scipys(shift):
    rng = np.random.default_rng(0)
    differences = rng.standard_normal(60) + shift
    expected = permutation_test(
        (differences, np.zeros(60)), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
        n_resamples=20_000, rng=1, vectorized=True,
    ).pvalue  # fmt: skip
    assert paired_permutation(differences, 20_000) == pytest.approx(expected, abs=0.015)


def test_p_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(1)
    found = [paired_permutation(rng.standard_normal(40), 400, seed) for seed in range(200)]
    assert 0.02 < np.mean(np.array(found) <= 0.1) < 0.2


def test_rows_of_one_speaker_are_flipped_together():
    """Half of the speakers are better by as much as the others are worse: many clips of each make no evidence."""
    speakers = np.repeat(np.arange(8), 30)
    gaps = np.where(speakers % 2, 0.1, -0.06) + 0.001 * np.random.default_rng(0).standard_normal(240)
    found = paired_test(gaps, speakers.astype(str).tolist())
    assert found.by_group and found.groups == 8 and found.rows == 240 and found.p > 0.3
    assert found.low < 0 < found.high and paired_permutation(gaps) < 0.01
    sums = np.bincount(speakers, weights=gaps)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    exact = np.mean(np.abs(sums @ signs) >= abs(sums.sum()) - 1e-9)
    assert found.p == pytest.approx(exact), "of all 256 ways to flip them"
    few = paired_test(gaps[:120], speakers[:120].astype(str).tolist())
    assert few.groups == 4 and few.by_group and few.p >= 2 / 2**4, "four signs can show nothing"


def test_intervals_of_few_groups_hold_what_they_promise():
    """Nine groups of one truth: the interval leaves it out in 1 of 20 cases; a bootstrap's percentiles would in 1 of 9."""
    rng = np.random.default_rng(5)
    groups = np.repeat(list("abcdefghi"), 4).tolist()
    outside = 0
    for _ in range(1000):
        gaps = np.repeat(rng.standard_normal(9), 4) + 0.1 * rng.standard_normal(36)
        found = paired_test(gaps, groups)
        outside += not found.low <= 0 <= found.high
    assert 0.03 < outside / 1000 < 0.075
    alone = paired_test(np.array([0.3, 0.1, 0.4]), list("abc"))
    expected = ttest_1samp([0.3, 0.1, 0.4], 0).confidence_interval()
    assert (alone.low, alone.high) == pytest.approx((expected.low, expected.high))


def test_groups_of_other_sizes_give_the_mean_of_the_rows():
    gaps, groups = np.array([0.1] * 50 + [-0.2, -0.1, -0.3, -0.2, 0.0, -0.1]), ["a"] * 50 + list("bcdefg")
    found = paired_test(gaps, groups)
    assert found.difference == pytest.approx(gaps.mean())
    assert found.low is None, "nearly all rows are of one group"


def write(path, probs) -> None:
    path.write_text("\n".join(json.dumps({"id": i, "probs": dict(zip(LABELS, p, strict=True))}) for i, p in probs))


def test_two_systems(tmp_path):
    rng = np.random.default_rng(2)
    rows, good, bad = [], [], []
    for index in range(80):
        truth = rng.dirichlet([1, 1, 1])
        votes = dict(zip(LABELS, rng.multinomial(20, truth).tolist(), strict=True))
        rows.append(Row(f"r{index}", "chaosnli", "test", text={"premise": f"p{index}"}, votes=votes))
        good.append((f"r{index}", truth))
        bad.append((f"r{index}", [1 / 3] * 3))
    write_manifest(tmp_path / "m.jsonl", rows)
    write(tmp_path / "good.jsonl", good)
    write(tmp_path / "bad.jsonl", bad[:70])
    found = compare(tmp_path / "good.jsonl", tmp_path / "bad.jsonl", tmp_path / "m.jsonl")
    assert found["n"] == 70 and found["only_first"] == 10 and found["only_second"] == 0
    assert found["jsd"]["difference"] < 0 and found["jsd"]["p"] < 0.01 and found["accuracy"]["p"] < 0.05
    assert found["jsd"]["difference"] == pytest.approx(found["jsd"]["first"] - found["jsd"]["second"])
    assert found["jsd"]["low"] < found["jsd"]["difference"] < found["jsd"]["high"] and found["splits"] == {"test": 70}
    same = compare(tmp_path / "good.jsonl", tmp_path / "good.jsonl", tmp_path / "m.jsonl")
    assert same["jsd"]["p"] == 1
    write(tmp_path / "other.jsonl", bad[75:])
    with pytest.raises(UserError, match="no row in common"):
        compare(tmp_path / "bad.jsonl", tmp_path / "other.jsonl", tmp_path / "m.jsonl")


def test_rows_are_paired(tmp_path):
    """A tiny gain on every row is certain only where each row is compared with itself."""
    rng = np.random.default_rng(3)
    rows, one, other = [], [], []
    for index in range(60):
        votes = dict(zip(LABELS, rng.multinomial(20, rng.dirichlet([1, 1, 1])).tolist(), strict=True))
        rows.append(Row(f"r{index}", "chaosnli", "test", text={"premise": f"p{index}"}, votes=votes))
        human = np.array([votes[label] for label in LABELS]) / 20
        said = rng.dirichlet([1, 1, 1])
        one.append((f"r{index}", 0.99 * said + 0.01 * human))
        other.append((f"r{index}", said))
    write_manifest(tmp_path / "m.jsonl", rows)
    write(tmp_path / "one.jsonl", one)
    write(tmp_path / "other.jsonl", other[::-1])
    found = compare(tmp_path / "one.jsonl", tmp_path / "other.jsonl", tmp_path / "m.jsonl")
    human = np.array([[row.votes[label] for label in LABELS] for row in rows]) / 20
    gaps = jensenshannon(human, np.array([p for _, p in one]), base=2, axis=1) - jensenshannon(
        human, np.array([p for _, p in other]), base=2, axis=1
    )
    assert found["jsd"]["difference"] == pytest.approx(gaps.mean()) and abs(gaps.mean()) < 0.01
    assert found["jsd"]["p"] == pytest.approx(paired_permutation(gaps)) and found["jsd"]["p"] < 0.001
    clear = np.sort(human, axis=1)[:, -1] > np.sort(human, axis=1)[:, -2]
    right = np.array([p for _, p in one]).argmax(axis=1) == human.argmax(axis=1)
    assert found["accuracy"]["first"] == pytest.approx(right[clear].mean())
