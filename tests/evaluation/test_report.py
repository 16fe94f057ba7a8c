from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test

from shala_audio.errors import UserError
from shala_audio.evaluation.compare import paired
from shala_audio.evaluation.report import against_others, find_reference, pairwise_tests
from shala_audio.evaluation.runs import Run, System, merge
from shala_audio.evaluation.stats import holm


def distances(seed: int, shift: float = 0.0, rows: int = 80, first: int = 0) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {f"row{first + index}": float(value) for index, value in enumerate(rng.uniform(0.2, 0.4, rows) + shift)}


def made(name: str, *runs: dict[str, float], tmp_path, calibration: str = "", groups: int = 0) -> System:
    scores = [{"n": len(run), "ties": 3, "jsd": {"value": float(np.mean(list(run.values())))}} for run in runs]
    rows = [
        {"jsd": run, "group": {key: str(index % groups) if groups else key for index, key in enumerate(run)}}
        for run in runs
    ]
    return System(
        name,
        [
            Run(name, tmp_path, score, {"seed": seed}, calibration, one)
            for seed, (score, one) in enumerate(zip(scores, rows, strict=True))
        ],
    )


ALONE = {f"row{index}": f"row{index}" for index in range(600)}  # every row a group of its own


def test_one_run_each_is_scipys_paired_test():
    ours, theirs = distances(0), {key: value + 0.01 for key, value in distances(1).items()}
    found = paired([ours], [theirs], ALONE)
    gaps = np.array([ours[key] - theirs[key] for key in ours])
    expected = permutation_test(
        (gaps, np.zeros(len(gaps))), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
        n_resamples=20_000, rng=1, vectorized=True,
    ).pvalue  # fmt: skip
    assert found.rows == 80 and found.difference == pytest.approx(gaps.mean())
    assert found.p == pytest.approx(expected, abs=0.015) and found.low < found.difference < found.high


def test_a_row_of_several_seeds_counts_once():
    """Three runs judged on the same rows are no three test sets."""
    runs = [distances(seed) for seed in range(3)]
    found = paired(runs, [distances(9)], ALONE)
    assert found.rows == 80
    gaps = [np.mean([run[key] for run in runs]) - value for key, value in distances(9).items()]
    assert found.difference == pytest.approx(np.mean(gaps))
    assert paired([distances(0)], [distances(1, first=500)], ALONE) is None, "no row in common"


def test_seeds_with_splits_of_their_own_add_up():
    runs = [distances(0), distances(1, first=80)]
    assert paired(runs, runs[::-1], ALONE).rows == 160


@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=12))
def test_holm_never_makes_a_difference_surer(p_values):
    corrected = holm(p_values)
    assert all(p <= after <= 1 for p, after in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()
    assert corrected[order[0]] == pytest.approx(min(1, len(p_values) * min(p_values)))


def test_shala_as_the_recipe_says_is_tested_against_all_others(tmp_path):
    systems = [
        made("zero_shot (label_token)", distances(1, 0.3), tmp_path=tmp_path),
        made("shala_unweighted (label_token)", distances(0), tmp_path=tmp_path),
        made("shala_exact (label_token)", distances(0), tmp_path=tmp_path),
        made("shala_exact (label_token) + temperature", distances(2), tmp_path=tmp_path, calibration="temperature"),
    ]
    ours = find_reference(systems)
    found = pairwise_tests(ours, systems)
    assert ours.name == "shala_exact (label_token)" and [other.name for other, _, _ in found] == [
        systems[0].name, systems[1].name, systems[3].name,
    ]  # fmt: skip
    assert found[0][1].difference < -0.2 and found[0][2] < 0.01 and found[1][1].p == found[1][2] == 1
    text = "\n".join(against_others(ours, systems))
    assert "| zero_shot (label_token) | 80 | – | -0.3" in text and "shala_exact (label_token) against" in text
    unknown = System("shala", [Run("shala", tmp_path, {}, {})])
    assert find_reference(systems[:1]) is None and against_others(unknown, [unknown, systems[0]]) == []
    assert find_reference(systems, "zero_shot") is systems[0] and find_reference(systems, systems[3].name) is systems[3]
    with pytest.raises(UserError, match="--reference is 'zero'"):
        find_reference(systems, "zero")
    with pytest.raises(UserError, match="--reference is 'linear'.*linear \\[a/linear\\]"):
        find_reference([made(f"linear [{place}/linear]", distances(0), tmp_path=tmp_path) for place in "ab"], "linear")


@pytest.mark.parametrize(
    ("groups", "cells", "said"),
    [
        (0, "| x | 80 | – |", "rows are independent"),
        (8, "| x | 80 | 8 |", "flipped together; G groups give"),
        (4, "| x | 80 | 4 |", "flipped together; G groups give"),
    ],
)
def test_a_table_says_what_was_flipped(tmp_path, groups, cells, said):
    systems = [
        made(name, distances(seed), tmp_path=tmp_path, groups=groups) for seed, name in enumerate(("shala", "x"))
    ]
    text = "\n".join(against_others(systems[0], systems))
    assert cells in text and said in text


def test_a_plus_in_a_folders_name_is_no_calibration(tmp_path):
    """Recipes join methods and rates with it."""
    named = made("shala_exact (label_token) [sft_soft+shala_exact_seed0/shala_exact]", distances(0), tmp_path=tmp_path)
    assert find_reference([made("zero_shot", distances(1), tmp_path=tmp_path), named]) is named


def test_merged_scores_count_rows_and_not_runs():
    def score(rows: dict[str, float], ceiling: float) -> dict:
        jsd = {"value": float(np.mean(list(rows.values()))), "low": 0.0, "high": 1.0}
        agreed = {"value": ceiling, "low": ceiling - 0.1, "high": ceiling + 0.1}
        human = {"n": 80, "ties": 3, "jsd": agreed, "terciles": {"low": {"n": 27, "jsd": agreed}}}
        return {"n": 80, "ties": 3, "jsd": jsd, "agreement_bound": human}

    def rows(jsd: dict[str, float], ceiling: float) -> dict:
        ceilings = {key: ceiling + 0.001 * index for index, key in enumerate(jsd)}
        return {"jsd": jsd, "agreement_bound": ceilings, "group": {key: key for key in jsd}}

    runs = [distances(seed) for seed in range(3)]
    same = merge([score(run, 0.2) for run in runs], [rows(run, 0.2) for run in runs])
    assert same["n"] == same["agreement_bound"]["n"] == 80 and same["ties"] == same["agreement_bound"]["ties"] == 3
    assert same["agreement_bound"]["jsd"] == {"value": 0.2, "low": 0.1, "high": pytest.approx(0.3)}, "the same in all"
    assert same["jsd"]["low"] < same["jsd"]["value"] < same["jsd"]["high"] and same["jsd"]["sd"] > 0
    runs = [distances(0), distances(1, first=80)]
    other = merge(
        [score(run, 0.2 + 0.1 * i) for i, run in enumerate(runs)], [rows(r, 0.2 + 0.1 * i) for i, r in enumerate(runs)]
    )
    assert other["n"] == other["agreement_bound"]["n"] == 160 and other["ties"] == 6
    assert other["agreement_bound"]["terciles"]["low"]["n"] == 54
    ceiling = other["agreement_bound"]["jsd"]
    assert ceiling["value"] == pytest.approx(0.25) and 0.25 < ceiling["low"] < 0.25 + 0.001 * 39.5 < ceiling["high"]
