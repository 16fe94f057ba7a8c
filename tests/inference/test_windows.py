from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shala_audio.distribution import LabelDistribution
from shala_audio.errors import UserError
from shala_audio.inference.windows import Moment, average, window_bounds


@given(st.integers(400, 400_000), st.floats(0.1, 5), st.floats(0.1, 1))
def test_windows_cover_all_of_the_sound(samples, window, share):
    bounds = window_bounds(samples, window, window * share)
    assert bounds[0][0] == 0 and bounds[-1][1] == samples
    for (_, end), (start, _) in pairwise(bounds):
        assert start <= end
    assert all(400 <= end - start <= round(window * 16_000) for start, end in bounds)


def test_gaps_are_refused():
    with pytest.raises(UserError, match="hop"):
        window_bounds(16_000, 1.0, 2.0)


def test_average_is_weighted_by_duration():
    first, second = (LabelDistribution(("a", "b"), np.array(p)) for p in ([1.0, 0.0], [0.0, 1.0]))
    assert average([Moment(0, 3, first), Moment(3, 4, second)])["a"] == pytest.approx(0.75)
