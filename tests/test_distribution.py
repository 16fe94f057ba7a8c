from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy

from shala_audio.distribution import (
    LabelDistribution,
    bhattacharyya,
    entropy,
    jsd,
    jsd_nats,
    kl,
    normalized_entropy,
    total_variation,
)


@st.composite
def two_distributions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    size = draw(st.integers(2, 8))
    both = []
    for _ in range(2):
        mass = draw(arrays(np.float64, size, elements=st.floats(0, 1).map(lambda x: 0.0 if x < 1e-3 else x)))
        both.append((mass if mass.sum() > 0 else np.ones(size)) / max(mass.sum(), 1e-300 if mass.sum() > 0 else size))
    return both[0], both[1]


@settings(max_examples=200, deadline=None)
@given(two_distributions())
def test_agree_with_scipy(pair):
    p, q = pair
    expected = np.nan_to_num(
        [jensenshannon(p, q, base=2), jensenshannon(p, q)]
    )  # its root of what rounding leaves below 0
    assert [jsd(p, q), jsd_nats(p, q)] == pytest.approx(expected, abs=1e-7)
    assert entropy(p) == pytest.approx(scipy_entropy(p, base=2), abs=1e-9)
    expected = scipy_entropy(p, q)
    assert kl(p, q) == (pytest.approx(expected, abs=1e-9) if np.isfinite(expected) else np.inf)


@settings(max_examples=200, deadline=None)
@given(two_distributions())
def test_bounds_and_symmetry(pair):
    p, q = pair
    assert 0 <= jsd(p, q) <= 1
    assert jsd(p, q) == pytest.approx(jsd(q, p), abs=1e-9)
    assert jsd(p, p) == pytest.approx(0, abs=1e-7)
    assert 0 <= total_variation(p, q) <= 1 + 1e-12
    assert 0 <= bhattacharyya(p, q) <= 1
    assert -1e-12 <= normalized_entropy(p) <= 1 + 1e-12


def test_arrays_give_one_value_for_each_row():
    p = np.array([[0.5, 0.5], [1.0, 0.0]])
    assert jsd(p, p[::-1]).shape == (2,)
    assert jsd(p, p).tolist() == [0.0, 0.0]


def test_label_distribution_is_a_mapping():
    d = LabelDistribution(("a", "b", "c"), np.array([0.2, 0.5, 0.3]))
    assert dict(d) == {"a": 0.2, "b": 0.5, "c": 0.3}
    assert d.top == "b" and d.contested
    assert d.jsd(d) == pytest.approx(0, abs=1e-7)
    with pytest.raises(KeyError, match="not one of a, b, c"):
        d["d"]


def test_a_label_in_brackets_is_shown():
    from rich.console import Console

    with (console := Console(width=80)).capture() as shown:
        console.print(LabelDistribution(("[laughs]", "b"), np.array([0.9, 0.1])))
    assert "[laughs]" in shown.get()


def test_label_distribution_refuses_what_is_none():
    with pytest.raises(ValueError):
        LabelDistribution(("a", "b"), np.array([0.5, 0.6]))
    with pytest.raises(ValueError):
        LabelDistribution(("a",), np.array([0.5, 0.5]))
