from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cityblock, euclidean, jensenshannon
from scipy.stats import bootstrap, spearmanr, wasserstein_distance
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from shala_audio.distribution import entropy
from shala_audio.evaluation.metrics import Measures, all_measures, distance_correlation

shapes = st.tuples(st.integers(1, 30), st.integers(2, 5))


def normalized(mass: np.ndarray) -> np.ndarray:
    return (mass + 1e-3) / (mass + 1e-3).sum(axis=1, keepdims=True)


@st.composite
def human_and_predicted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(shapes)
    votes = draw(arrays(np.int64, shape, elements=st.integers(0, 5)))
    predicted = draw(arrays(np.float64, shape, elements=st.floats(0, 1)))
    return normalized(votes.astype(float)), normalized(predicted)


def random_rows(rows: int = 400, labels: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    human = rng.multinomial(7, rng.dirichlet(np.ones(labels), size=rows)) / 7
    return human, normalized(human + 0.5 * rng.random((rows, labels)))


@settings(max_examples=100)
@given(human_and_predicted())
@pytest.mark.filterwarnings("ignore")
def test_hard_measures_are_scikit_learns(pair):
    human, predicted = pair
    measures = Measures(human, predicted)
    found = measures.values()
    first = np.sort(human, axis=1)
    clear = first[:, -1] - first[:, -2] > 1e-9
    assert measures.ties == (~clear).sum()
    if not clear.any():
        assert np.isnan(found["accuracy"])
        return
    truth, answer = human[clear].argmax(axis=1), predicted[clear].argmax(axis=1)
    present = np.unique(truth)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, answer))
    assert found["uar"] == pytest.approx(balanced_accuracy_score(truth, answer))
    for kind in ("macro", "weighted"):
        expected = f1_score(truth, answer, labels=present, average=kind, zero_division=0)
        assert found[f"{kind}_f1"] == pytest.approx(expected)


@settings(max_examples=50)
@given(human_and_predicted())
def test_jsd_is_scipys(pair):
    human, predicted = pair
    # SciPy takes the root of a rounding error below 0 where both are equal, and gets NaN: that distance is 0.
    found = Measures(human, predicted).values()
    assert found["jsd"] == pytest.approx(
        np.mean(np.nan_to_num(jensenshannon(human, predicted, base=2, axis=1))), abs=1e-7
    )
    assert found["jsd_nats"] == pytest.approx(np.mean(np.nan_to_num(jensenshannon(human, predicted, axis=1))), abs=1e-7)
    assert np.isfinite(found["kl"])


@settings(max_examples=50)
@given(human_and_predicted())
def test_finding_contested_rows_is_scikit_learns(pair):
    human, predicted = pair
    contested = human.max(axis=1) <= 0.5
    found = Measures(human, predicted).values()["contested_auroc"]
    if contested.all() or not contested.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(contested, entropy(predicted).round(12)))


def test_distances_by_hand():
    """Total variation and the Bhattacharyya coefficient, by SciPy's distances between the rows and between their roots."""
    human, predicted = random_rows()
    found = Measures(human, predicted).values()
    pairs = list(zip(human, predicted, strict=True))
    assert found["total_variation"] == pytest.approx(np.mean([cityblock(p, q) / 2 for p, q in pairs]))
    roots = [1 - euclidean(np.sqrt(p), np.sqrt(q)) ** 2 / 2 for p, q in pairs]  # of the Hellinger distance
    assert found["bhattacharyya"] == pytest.approx(np.mean(roots))
    assert found["total_variation"] != pytest.approx(found["bhattacharyya"], abs=0.1)


def test_lewidis_measures_are_the_organisers():
    """Cross-entropy as in their script, Manhattan and Wasserstein distances by SciPy, labels one step apart."""
    human, predicted = random_rows()
    found = Measures(human, predicted, ordered=True).values()
    labels = np.arange(human.shape[1])
    clipped = np.clip(predicted, 1e-12, 1.0 - 1e-12)
    assert found["cross_entropy"] == pytest.approx(
        np.mean([-np.sum(t * np.log(p + 1e-9)) for t, p in zip(human, clipped, strict=True)])
    )
    assert found["manhattan"] == pytest.approx(
        np.mean([cityblock(p, q) for p, q in zip(human, predicted, strict=True)])
    )
    moved = [wasserstein_distance(labels, labels, p, q) for p, q in zip(human, predicted, strict=True)]
    assert found["wasserstein"] == pytest.approx(np.mean(moved))
    assert "wasserstein" not in Measures(human, predicted).values(), "labels in no order have none"


@settings(max_examples=60)
@given(human_and_predicted())
@pytest.mark.filterwarnings("ignore")
def test_distance_correlation_is_that_of_the_definition(pair):
    """Székely, Rizzo and Bakirov 2007, from doubly centred matrices of distances."""
    human, predicted = pair
    centred = []
    entropies = entropy(human).round(10), entropy(predicted).round(10)
    for values in entropies:
        apart = np.abs(values[:, None] - values)
        centred.append(apart - apart.mean(axis=0) - apart.mean(axis=1)[:, None] + apart.mean())
    spreads = [(one * one).mean() for one in centred]
    found = distance_correlation(*entropies)
    in_all = all_measures(human, predicted, draws=0)["entropy_distance_correlation"]["value"]
    assert np.isnan(found) if in_all is None else found == pytest.approx(in_all, abs=1e-9)
    if min(spreads) < 1e-9:
        assert np.isnan(found) or min(spreads) > 1e-13
        return
    assert found == pytest.approx(
        np.sqrt(max((centred[0] * centred[1]).mean(), 0) / np.sqrt(np.prod(spreads))), abs=1e-5
    )


def test_distance_correlation_of_many_different_values_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    x = rng.normal(size=701)
    y = np.round(x**2 + rng.normal(size=701), 1)
    centred = []
    for values in (x, y):
        apart = np.abs(values[:, None] - values)
        centred.append(apart - apart.mean(axis=0) - apart.mean(axis=1)[:, None] + apart.mean())
    expected = np.sqrt((centred[0] * centred[1]).mean() / np.sqrt(np.prod([(one * one).mean() for one in centred])))
    assert distance_correlation(x, y) == pytest.approx(expected)


def test_entropy_correlation_is_scipys():
    human, predicted = random_rows()
    expected = spearmanr(entropy(human).round(12), entropy(predicted)).statistic
    assert Measures(human, predicted).values()["entropy_correlation"] == pytest.approx(expected)
    constant = np.full_like(human, 0.25)
    assert np.isnan(Measures(human, constant).values()["entropy_correlation"])


@settings(max_examples=40)
@given(human_and_predicted(), st.randoms(use_true_random=False))
def test_counting_a_row_twice_is_having_it_twice(pair, random):
    """A bootstrap draw is a vector of counts: every measure must be what it is on the rows themselves, copied."""
    human, predicted = pair
    rows = [random.randrange(len(human)) for _ in range(len(human))]
    whole = Measures(human, predicted)
    counted = whole.values(np.bincount(rows, minlength=len(human)))
    copied = Measures(human[rows], predicted[rows]).values()
    for name, value in copied.items():
        if not name.startswith("tercile") and name != "entropy_error":  # their edges are those of all rows
            assert counted[name] == pytest.approx(value, nan_ok=True, abs=1e-9), name
    tercile = np.empty(len(human), dtype=int)
    tercile[whole.row] = whole.tercile
    distances = np.nan_to_num(jensenshannon(human, predicted, base=2, axis=1))
    for index, third in enumerate(("low", "middle", "high")):
        mine = np.array(rows)[tercile[rows] == index]
        expected = distances[mine].mean() if len(mine) else np.nan
        assert counted[f"tercile/{third}/jsd"] == pytest.approx(expected, nan_ok=True, abs=1e-7)


def test_intervals_are_scipys_percentile_bootstrap():
    human, predicted = random_rows(200)
    found = all_measures(human, predicted, draws=4000)
    distances = jensenshannon(human, predicted, base=2, axis=1)
    expected = bootstrap((distances,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert found["jsd"]["low"] == pytest.approx(expected.low, abs=0.003)
    assert found["jsd"]["high"] == pytest.approx(expected.high, abs=0.003)
    for name in ("accuracy", "macro_f1", "uar", "entropy_correlation", "contested_auroc"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"], name
    assert all_measures(human, predicted, draws=0)["jsd"] == {"value": found["jsd"]["value"], "low": None, "high": None}
    assert all_measures(human, predicted, draws=50) == all_measures(human, predicted, draws=50), "seeded"


def test_terciles_and_reliability():
    human, predicted = random_rows()
    found = all_measures(human, predicted, draws=0)
    level, distance = entropy(human), jensenshannon(human, predicted, base=2, axis=1)
    low, high = np.quantile(level, [1 / 3, 2 / 3])
    assert sum(third["n"] for third in found["terciles"].values()) == len(human)
    assert found["terciles"]["high"]["jsd"]["value"] == pytest.approx(distance[level > high].mean())
    assert found["terciles"]["low"]["jsd"]["value"] == pytest.approx(distance[level <= low].mean())
    for name, rows in (("low", level <= low), ("middle", (level > low) & (level <= high)), ("high", level > high)):
        alone = all_measures(human[rows], predicted[rows], draws=0)
        third = {key: value["value"] for key, value in found["terciles"][name].items() if key != "n"}
        assert third == pytest.approx({key: alone[key]["value"] for key in third}) and len(third) == 11
    bins = found["reliability"]
    assert sum(one["n"] for one in bins) == len(human) and len(bins) == 10
    assert [one["stated"] for one in bins] == sorted(one["stated"] for one in bins)
    expected = sum(one["n"] * abs(one["stated"] - one["human"]) for one in bins) / len(human)
    assert found["entropy_error"]["value"] == pytest.approx(expected)
    exact = all_measures(human, human, draws=0)
    assert exact["entropy_error"]["value"] == pytest.approx(0, abs=1e-9)
    assert np.sum(found["confusion"]) == len(human) - found["ties"]


def test_repeated_rows_are_drawn_together():
    human, predicted = random_rows(100)
    once = all_measures(human, predicted, draws=200)
    thrice = all_measures(np.tile(human, (3, 1)), np.tile(predicted, (3, 1)), draws=200, repeats=3)
    assert thrice["n"] == once["n"] == 100
    for name in ("jsd", "accuracy", "entropy_correlation", "contested_auroc"):
        assert thrice[name] == pytest.approx(once[name])


def test_multilabel_f1_and_mean_divergence_are_scikit_learns_and_scipys():
    from scipy.spatial.distance import jensenshannon
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(3)
    human, predicted = rng.dirichlet(np.full(6, 0.4), 200), rng.dirichlet(np.full(6, 0.6), 200)
    found = Measures(human, predicted).values()
    reference = f1_score(human > 1 / 6, predicted > 1 / 6, average="macro")
    assert found["multilabel_f1"] == pytest.approx(reference, abs=1e-9)
    assert found["js_divergence"] == pytest.approx(
        np.mean(jensenshannon(human, predicted, base=2, axis=1) ** 2), abs=1e-9
    )
    even = np.full((3, 4), 0.25)
    assert np.isnan(Measures(even, even).values()["multilabel_f1"]), "no label has more than a fourth"
