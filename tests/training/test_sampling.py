from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import RepeatSampler

from shala_audio.training.sampling import RowSampler, visit_order


@settings(max_examples=100)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=200), st.integers(1, 16), st.integers(0, 5))
def test_every_row_once_in_an_order_of_the_seed_and_epoch(lengths, batch, epoch):
    order = visit_order(lengths, batch, 7, epoch)
    assert sorted(order) == list(range(len(lengths)))
    assert order == visit_order(lengths, batch, 7, epoch)


def test_batches_hold_rows_of_similar_length():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 100, size=1600)
    order = visit_order(lengths, 16, 0, 0)

    def padded(rows) -> int:
        return sum(16 * lengths[rows[at : at + 16]].max() for at in range(0, 1600, 16))

    assert padded(np.array(order)) < 0.75 * padded(rng.permutation(1600))
    assert order != visit_order(lengths, 16, 0, 1) != visit_order(lengths, 16, 1, 1)


@settings(max_examples=100)
@given(st.lists(st.floats(0.0, 5.0), min_size=2, max_size=100).filter(lambda w: sum(w) > 0.1), st.integers(0, 3))
def test_rows_are_drawn_as_often_as_their_weight(raw, epoch):
    weights = np.array(raw) / np.mean(raw)
    order = visit_order([1] * len(raw), 4, 0, epoch, weights)
    assert len(order) == len(raw)
    visits = np.bincount(order, minlength=len(raw))
    assert (visits >= np.floor(weights - 1e-6)).all() and (visits <= np.ceil(weights + 1e-6)).all()


def test_groups_repeat_positions():
    repeats = RepeatSampler(range(6), mini_repeat_count=2, batch_size=3, repeat_count=1, shuffle=False)
    sampler = RowSampler(lambda epoch: visit_order([1] * 6, 3, 0, epoch), 6, repeats)
    found = list(sampler)
    assert found[::2] == found[1::2] and sorted(found[::2]) == list(range(6)) and len(sampler) == 12
    sampler.set_epoch(1)
    assert list(sampler) != found


def test_average_visits_are_the_weights():
    weights = np.array([0.2, 0.8, 1.0, 2.0])
    visits = sum(np.bincount(visit_order([1] * 4, 2, seed, 0, weights), minlength=4) for seed in range(2000)) / 2000
    assert visits == pytest.approx(weights, abs=0.05)
