from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from shala_audio.distribution import entropy
from shala_audio.evaluation.measures import all_measures, contested_auroc, hard_measures

shapes = st.tuples(st.integers(2, 20), st.integers(2, 5))


def normalized(mass: np.ndarray) -> np.ndarray:
    return (mass + 1e-3) / (mass + 1e-3).sum(axis=1, keepdims=True)


@st.composite
def human_and_predicted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(shapes)
    votes = draw(arrays(np.int64, shape, elements=st.integers(0, 5)))
    predicted = draw(arrays(np.float64, shape, elements=st.floats(0, 1)))
    return normalized(votes.astype(float)), normalized(predicted)


@settings(max_examples=100, deadline=None)
@given(human_and_predicted())
@pytest.mark.filterwarnings("ignore")
def test_hard_measures_are_scikit_learns(pair):
    human, predicted = pair
    found = hard_measures(human, predicted)
    first = np.sort(human, axis=1)
    clear = first[:, -1] - first[:, -2] > 1e-9
    assert found["ties"] == (~clear).sum()
    if not clear.any():
        assert found["accuracy"] is None
        return
    truth, answer = human[clear].argmax(axis=1), predicted[clear].argmax(axis=1)
    present = np.unique(truth)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, answer))
    assert found["uar"] == pytest.approx(balanced_accuracy_score(truth, answer))
    for kind in ("macro", "weighted"):
        expected = f1_score(truth, answer, labels=present, average=kind, zero_division=0)
        assert found[f"{kind}_f1"] == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(human_and_predicted())
def test_jsd_is_scipys(pair):
    human, predicted = pair
    # SciPy takes the root of a rounding error below 0 where both are equal, and gets NaN: that distance is 0.
    found = all_measures(human, predicted)
    assert found["jsd"]["value"] == pytest.approx(
        np.mean(np.nan_to_num(jensenshannon(human, predicted, base=2, axis=1))), abs=1e-7
    )
    assert found["jsd_nats"] == pytest.approx(np.mean(np.nan_to_num(jensenshannon(human, predicted, axis=1))), abs=1e-7)
    assert found["jsd"]["low"] <= found["jsd"]["value"] <= found["jsd"]["high"]
    assert np.isfinite(found["kl"])


@settings(max_examples=50, deadline=None)
@given(human_and_predicted())
def test_finding_contested_rows_is_scikit_learns(pair):
    human, predicted = pair
    contested = human.max(axis=1) <= 0.5
    found = contested_auroc(human, predicted)
    if contested.all() or not contested.any():
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(contested, entropy(predicted)))
