from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shala_audio.distribution import normalized_entropy
from shala_audio.errors import UserError
from shala_audio.training.ambiguity import static_weights


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), min_size=2, max_size=20),
    st.floats(0, 0.99),
)
def test_weights_have_mean_one_and_follow_entropy(counts, strength):
    human = np.array(counts, dtype=float)
    human /= human.sum(axis=1, keepdims=True)
    weights = static_weights(human, strength)
    assert weights.mean() == pytest.approx(1) and (weights >= 0).all()
    order = np.argsort(normalized_entropy(human))
    assert (np.diff(weights[order]) >= -1e-9).all()


def test_settings_that_cannot_work_are_refused():
    human = np.array([[1.0, 0.0]])
    with pytest.raises(UserError, match="0 to 1"):
        static_weights(human, 1.5)
    with pytest.raises(UserError, match="every weight would be 0"):
        static_weights(human, 1.0)
