from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multinomial

from shala_audio.distribution import normalized_entropy
from shala_audio.errors import UserError
from shala_audio.training.ambiguity import AmbiguitySettings, AmbiguityWeights
from shala_audio.votes import entropy_estimate

votes = st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), min_size=2, max_size=20)
VOTES = np.array([[5.0, 0, 0], [3, 2, 0], [2, 2, 1], [0, 5, 0]])


def weights_of(counts=VOTES, **options) -> AmbiguityWeights:
    return AmbiguityWeights(np.asarray(counts, dtype=float), AmbiguitySettings(**options))


@settings(max_examples=100)
@given(votes, st.floats(0.01, 0.99))
def test_static_weights_have_mean_one_and_follow_entropy(counts, lambda_):
    human = np.array(counts, dtype=float) / np.sum(counts, axis=1, keepdims=True)
    entropy = normalized_entropy(human)
    if np.ptp(entropy) < 1e-9:
        return
    weights = weights_of(counts, lambda_=lambda_).all()
    assert weights.mean() == pytest.approx(1) and (weights >= 0).all()
    assert (np.diff(weights[np.argsort(entropy)]) >= -1e-9).all()
    raw = (1 - lambda_) + lambda_ * entropy
    assert weights == pytest.approx(raw / raw.mean())


def test_dynamic_weights_follow_the_running_loss():
    weights = weights_of(kind="dynamic", lambda_=0.8, decay=0.5)
    static = weights_of(kind="static", lambda_=0.8)
    assert weights.all() == pytest.approx(static.all()), "nothing is known of any row yet"
    weights.update([1, 1, 2], [0.1, 0.3, 0.6])
    assert weights.running_loss[1] == pytest.approx(0.2) and weights.running_loss[2] == pytest.approx(0.6)
    weights.update([1], [0.6])
    assert weights.running_loss[1] == pytest.approx(0.4), "half of the old value, half of the new one"
    found = weights.all()
    assert found.mean() == pytest.approx(1)
    assert found[2] / found[1] > static.all()[2] / static.all()[1]
    assert found[0] == pytest.approx(found[3]), "rows that nobody disagrees about stay at the bottom"


def test_dynamic_weights_differ_from_static_ones_from_the_first_step_on():
    """Without a look at every row beforehand, a first pass of dynamic weights would be one of static weights."""
    weights = weights_of(kind="dynamic", lambda_=1.0)
    weights.begin(np.array([0.1, 0.2, 0.6, 0.3]))
    static = weights_of(kind="static", lambda_=1.0).all()
    assert weights.all()[2] / weights.all()[1] == pytest.approx(3 * static[2] / static[1])


def test_the_state_comes_back(tmp_path):
    weights = weights_of(kind="dynamic")
    weights.update([0, 2], [0.5, 0.9])
    weights.save(tmp_path)
    again = weights_of(kind="dynamic")
    again.load(tmp_path)
    assert again.all().tolist() == weights.all().tolist()
    with pytest.raises(UserError, match="of 4 rows, but there are 2"):
        weights_of(VOTES[:2]).load(tmp_path)
    with pytest.raises(UserError, match="is missing"):
        weights_of().load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_": 1.5}, "0 to 1"),
        ({"lambda_": 0.0}, "every weight would be 1"),
        ({"kind": "sometimes"}, "static, dynamic, off"),
        ({"decay": 1.0}, "below 1"),
        ({"entropy": "guess"}, "miller_madow"),
        ({"entropy": "dirichlet", "alpha": 0.0}, "ambiguity_alpha"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        weights_of(**options)


def test_weights_that_would_all_be_alike_are_refused():
    with pytest.raises(UserError, match="disagree about every row alike"):
        weights_of([[1, 3], [3, 1]])
    for kind in ("static", "dynamic"):
        with pytest.raises(UserError, match="disagree about every row alike"):
            weights_of([[5, 0], [0, 5]], kind=kind, lambda_=1.0)


ESTIMATORS = ("plugin", "miller_madow", "dirichlet")


def bias_of_five_raters(truth) -> list[float]:
    """Of each estimator, over all votes that five raters can give, each as likely as SciPy says."""
    votes = np.array([counts for counts in product(range(6), repeat=4) if sum(counts) == 5])
    likely = multinomial.pmf(votes, 5, truth)
    wanted = float(normalized_entropy(np.array(truth)))
    return [float(likely @ entropy_estimate(votes, how)) - wanted for how in ESTIMATORS]


@pytest.mark.parametrize(
    ("truth", "expected"),
    [((0.4, 0.3, 0.2, 0.1), (-0.25, -0.15, -0.06)), ((0.85, 0.05, 0.05, 0.05), (-0.18, -0.13, 0.24))],
)
def test_how_far_off_the_entropy_of_five_raters_is(truth, expected):
    wanted = float(normalized_entropy(np.array(truth)))
    assert bias_of_five_raters(truth) == pytest.approx(expected, abs=0.005)
    many = np.random.default_rng(0).multinomial(1000, truth, size=50)
    for how in ESTIMATORS:
        assert float(entropy_estimate(many, how).mean()) == pytest.approx(wanted, abs=0.01)
