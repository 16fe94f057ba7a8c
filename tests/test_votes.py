from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shala_audio.errors import UserError
from shala_audio.votes import count_votes, plurality, to_distribution


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True), min_size=1, max_size=6))
def test_every_rater_has_the_mass_of_one(choices):
    votes = count_votes(choices)
    assert sum(votes.values()) == pytest.approx(len(choices))
    assert to_distribution(votes, "abc").sum() == pytest.approx(1)


def test_unknown_labels_and_no_votes_are_refused():
    with pytest.raises(UserError, match="votes for z"):
        to_distribution({"z": 1}, ["a", "b"])
    with pytest.raises(UserError, match="no votes"):
        to_distribution({}, ["a", "b"])


def test_ties_have_no_plurality():
    assert plurality(np.array([0.4, 0.4, 0.2])) is None
    assert plurality(np.array([0.2, 0.5, 0.3])) == 1
