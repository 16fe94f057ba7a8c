from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shala_audio.data.rows import Row
from shala_audio.data.splits import check_speakers, split_by_group
from shala_audio.errors import UserError

SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}


@settings(max_examples=60)
@given(st.lists(st.integers(0, 30).map(str), min_size=1, max_size=200), st.integers(0, 5), st.randoms())
def test_a_split_depends_on_the_groups_and_not_on_their_order(groups, seed, random):
    first = split_by_group(groups, SHARES, seed)
    random.shuffle(groups)
    assert split_by_group(groups, SHARES, seed) == first
    assert set(first) == set(groups)


def test_shares_are_kept_and_strata_too():
    groups = [str(index) for index in range(100)]
    sex = {group: "f" if int(group) % 4 == 0 else "m" for group in groups}
    split_of = split_by_group(groups, SHARES, 1, strata=sex)
    test = [group for group in groups if split_of[group] == "test"]
    assert len(test) == 20
    assert sum(sex[group] == "f" for group in test) == 5


def test_a_speaker_on_two_sides_is_named():
    rows = [Row("a", "t", "train", "s1", text={"x": "y"}), Row("b", "t", "test", "s1", text={"x": "y"})]
    with pytest.raises(UserError, match="s1"):
        check_speakers(rows)
