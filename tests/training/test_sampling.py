from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import RepeatSampler

from shala_audio.training.data import RowSampler, visit_order


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


def test_groups_repeat_positions():
    repeats = RepeatSampler(range(6), mini_repeat_count=2, batch_size=3, repeat_count=1, shuffle=False)
    sampler = RowSampler(lambda epoch: visit_order([1] * 6, 3, 0, epoch), 6, repeats)
    found = list(sampler)
    assert found[::2] == found[1::2] and sorted(found[::2]) == list(range(6)) and len(sampler) == 12
    sampler.set_epoch(1)
    assert list(sampler) != found
