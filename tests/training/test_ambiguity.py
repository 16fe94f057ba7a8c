from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multinomial

from shala_audio.data.votes import entropy_estimate
from shala_audio.distribution import normalized_entropy
from shala_audio.errors import UserError
from shala_audio.training.ambiguity import AmbiguitySettings, AmbiguityWeights

votes = st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), min_size=2, max_size=20)
VOTES = np.array([[5.0, 0, 0], [3, 2, 0], [2, 2, 1], [0, 5, 0]])


def weights_of(counts=VOTES, **options) -> AmbiguityWeights:
    return AmbiguityWeights(np.asarray(counts, dtype=float), AmbiguitySettings(**options))


@settings(max_examples=100)
@given(votes, st.floats(0.01, 0.99))
def test_static_weights_have_mean_one_and_follow_entropy(counts, strength):
    human = np.array(counts, dtype=float) / np.sum(counts, axis=1, keepdims=True)
    entropy = normalized_entropy(human)
    if np.ptp(entropy) < 1e-9:
        return
    weights = weights_of(counts, strength=strength).all(0.0)
    assert weights.mean() == pytest.approx(1) and (weights >= 0).all()
    assert (np.diff(weights[np.argsort(entropy)]) >= -1e-9).all()
    raw = (1 - strength) + strength * entropy
    assert weights == pytest.approx(raw / raw.mean())


def test_dynamic_weights_follow_what_is_unlearnt():
    weights = weights_of(kind="dynamic", strength=0.8, memory=0.5)
    static = weights_of(kind="static", strength=0.8)
    assert weights.all(0.0) == pytest.approx(static.all(0.0)), "nothing is known of any row yet"
    weights.update([1, 1, 2], [0.1, 0.3, 0.6])
    assert weights.unlearnt[1] == pytest.approx(0.2) and weights.unlearnt[2] == pytest.approx(0.6)
    weights.update([1], [0.6])
    assert weights.unlearnt[1] == pytest.approx(0.4), "half of the old value, half of the new one"
    found = weights.all(0.0)
    assert found.mean() == pytest.approx(1)
    assert found[2] / found[1] > static.all(0.0)[2] / static.all(0.0)[1]
    assert found[0] == pytest.approx(found[3]), "rows that nobody disagrees about stay at the bottom"


def test_dynamic_weights_differ_from_static_ones_from_the_first_step_on():
    """Without a look at every row beforehand, a first pass of dynamic weights would be one of static weights."""
    weights = weights_of(kind="dynamic", strength=1.0)
    weights.begin(np.array([0.1, 0.2, 0.6, 0.3]))
    static = weights_of(kind="static", strength=1.0).all(0.0)
    assert weights.all(0.0)[2] / weights.all(0.0)[1] == pytest.approx(3 * static[2] / static[1])


def test_lambda_moves_along_a_line():
    weights = weights_of(strength=0.8, strength_end=0.0)
    assert [weights.strength(progress) for progress in (0, 0.25, 1)] == pytest.approx([0.8, 0.6, 0.0])
    assert weights.all(1.0) == pytest.approx(np.ones(4))


def test_drawing_replaces_weighting():
    weights = weights_of(sampling=True, strength=0.9)
    assert weights.of([0, 2], 0.0) == pytest.approx([1, 1])
    drawn = weights.draws(0, 0.0)
    assert drawn == pytest.approx(weights_of(strength=0.9).all(0.0))
    assert weights_of().draws(0, 0.0) is None


def test_the_state_comes_back(tmp_path):
    weights = weights_of(kind="dynamic", sampling=True)
    weights.draws(3, 0.0)
    weights.update([0, 2], [0.5, 0.9])
    weights.save(tmp_path)
    again = weights_of(kind="dynamic", sampling=True)
    again.load(tmp_path)
    assert again.all(0.5).tolist() == weights.all(0.5).tolist()
    assert again.draws(3, 0.9).tolist() == weights.draws(3, 0.9).tolist(), "an epoch's draws are fixed when it begins"
    with pytest.raises(UserError, match="of 4 rows, but there are 2"):
        weights_of(VOTES[:2]).load(tmp_path)
    with pytest.raises(UserError, match="is missing"):
        weights_of().load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.5}, "0 to 1"),
        ({"strength": 0.5, "strength_end": -1}, "ambiguity_lambda_end"),
        ({"strength": 0.0}, "every weight would be 1"),
        ({"kind": "sometimes"}, "static, dynamic, off"),
        ({"memory": 1.0}, "below 1"),
        ({"kind": "off", "sampling": True}, "no weights to draw by"),
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
            weights_of([[5, 0], [0, 5]], kind=kind, strength=1.0)


ESTIMATORS = ("plugin", "miller_madow", "dirichlet")


@pytest.mark.parametrize(
    ("truth", "expected"),
    [((0.4, 0.3, 0.2, 0.1), (-0.25, -0.15, -0.06)), ((0.85, 0.05, 0.05, 0.05), (-0.18, -0.13, 0.24))],
)
def test_how_far_off_the_entropy_of_five_raters_is(truth, expected):
    """Over all votes that five raters can give, each as likely as SciPy says: the numbers of docs/method.md."""
    votes = np.array([counts for counts in product(range(6), repeat=4) if sum(counts) == 5])
    likely = multinomial.pmf(votes, 5, truth)
    wanted = float(normalized_entropy(np.array(truth)))
    bias = [float(likely @ entropy_estimate(votes, how)) - wanted for how in ESTIMATORS]
    assert bias == pytest.approx(expected, abs=0.005)
    said = (
        (Path(__file__).parents[2] / "docs" / "method.md")
        .read_text()
        .split("On average over what five raters")[1]
        .split("\n\n")[0]
    )
    assert all(f"{abs(number):.2f}".lstrip("0") in said for number in expected)
    many = np.random.default_rng(0).multinomial(1000, truth, size=50)
    for how in ESTIMATORS:
        assert float(entropy_estimate(many, how).mean()) == pytest.approx(wanted, abs=0.01)
