from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shala_audio.corpora.splits import check_speakers, fold_split, shared_speakers, split_by_group
from shala_audio.errors import UserError
from shala_audio.manifest import Row

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


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([f"g{i}" for i in range(30)]), min_size=25, max_size=120), st.integers(0, 9))
def test_folds_test_every_group_once(groups, seed):
    tested: list[str] = []
    for fold in range(5):
        split_of = fold_split(groups, fold, seed, 0.1)
        assert set(split_of) == set(groups), "a group is on one side"
        tested += [group for group, split in split_of.items() if split == "test"]
        assert {g for g, s in split_of.items() if s == "test"} == {
            g for g, s in fold_split(groups, fold, seed + 1, 0.1).items() if s == "test"
        }, "the folds are the same for every seed"
    assert sorted(tested) == sorted(set(groups))


def test_a_part_of_the_corpus_has_the_folds_of_the_whole():
    members = [f"s{i}" for i in range(20)]
    whole = fold_split(members, 2, 0, 0.1, members=members)
    part = fold_split(members[:9], 2, 0, 0.1, members=members)
    assert {g for g, s in part.items() if s == "test"} == {g for g in members[:9] if whole[g] == "test"}
    with pytest.raises(UserError, match="use 0 to 4"):
        fold_split(members, 5, 0, 0.1)


def test_msp_podcast_keeps_its_own_partition():
    rows = [Row("a", "msp_podcast_9", "train", "7"), Row("b", "msp_podcast_9", "test", "7")]
    check_speakers(rows)
    with pytest.raises(UserError, match="speaker 7 is in train and in test"):
        check_speakers([replace(row, task="crema_d") for row in rows])
    assert shared_speakers(rows) == ["7"] and shared_speakers(rows[:1]) == []
