"""What a pass learns of votes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from shala_audio.training.data import curriculum_ranks, visit_order
from shala_audio.training.targets import Targets, mix

counts = st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(counts, st.floats(0, 2))
def test_weighted_targets_have_the_gradient_of_class_balanced_cross_entropy(votes, balance):
    """sum_k c_k p_k log q_k, with c the labels' weights: the reference is written out."""
    votes = np.array(votes, dtype=float)
    p = votes / votes.sum(axis=1, keepdims=True)
    c = np.maximum(p.mean(axis=0), 1e-4) ** -balance
    log_q = torch.log_softmax(torch.tensor(np.random.default_rng(0).standard_normal(votes.shape)), dim=-1)
    target, weight = Targets(votes, balance).of(np.arange(len(votes)), 0)
    ours = (weight * -(target * log_q).sum(dim=-1)).mean()
    reference = -(torch.tensor(p * c / (p @ c).mean()) * log_q).sum(dim=-1).mean()
    assert float(ours) == pytest.approx(float(reference), rel=1e-4)
    assert float(weight.mean()) == pytest.approx(1.0, rel=1e-4)
    assert torch.allclose(target.sum(dim=1), torch.ones(len(votes)), atol=1e-5)


def test_without_settings_the_targets_are_the_votes():
    votes = np.random.default_rng(0).integers(1, 9, (20, 4)).astype(float)
    target, weight = Targets(votes).of(np.arange(20), epoch=3)
    assert torch.equal(target, torch.tensor(votes / votes.sum(axis=1, keepdims=True)).float())
    assert torch.equal(weight, torch.ones(20))


@settings(max_examples=60, deadline=None)
@given(counts, st.integers(0, 5))
def test_dropped_votes_leave_half_or_more_of_the_same_raters(votes, epoch):
    votes = np.array(votes, dtype=float)
    targets = Targets(votes, vote_dropping=True, seed=1)
    for row, own in enumerate(votes):
        kept = targets._some(row, epoch)
        assert (kept <= own).all() and kept.sum() >= own.sum() / 2
        assert np.array_equal(kept, targets._some(row, epoch)), "the same when resumed"


def test_dropped_votes_differ_between_passes_and_are_right_on_average():
    targets = Targets(np.array([[6.0, 2.0, 2.0], [1.5, 0.5, 0.0]]), vote_dropping=True)
    passes = np.stack([targets.of(np.array([0, 1]), epoch)[0].numpy() for epoch in range(2000)])
    assert len(np.unique(passes[:, 0, 0])) > 5
    np.testing.assert_allclose(passes[:, 0].mean(axis=0), [0.6, 0.2, 0.2], atol=0.01)
    assert (passes[:, 1] == passes[0, 1]).all(), "parts of a vote are no raters"


def test_resampled_votes_spread_as_a_multinomial():
    votes = np.array([[6.0, 2.0, 2.0], [1.5, 0.5, 0.0]])
    targets = Targets(votes, vote_resampling=True, seed=1)
    passes = np.stack([targets.of(np.array([0, 1]), epoch)[0].numpy() for epoch in range(3000)])
    p = np.array([0.6, 0.2, 0.2])
    np.testing.assert_allclose(passes[:, 0].mean(axis=0), p, atol=0.01)
    np.testing.assert_allclose(passes[:, 0].var(axis=0), p * (1 - p) / 10, rtol=0.1)
    np.testing.assert_allclose(passes[:, 1].mean(axis=0), [0.75, 0.25, 0.0], atol=0.03)
    assert np.array_equal(passes[7], np.stack(targets.of(np.array([0, 1]), 7)[0].numpy())), "the same when resumed"


def test_a_mixture_is_of_sound_and_votes_alike():
    features = torch.arange(4.0)[:, None, None, None].expand(4, 1, 5, 2).clone()
    lengths, p = torch.tensor([5, 3, 5, 2]), torch.eye(4)
    mixed, target = mix(features, lengths, p, 1.0, np.random.default_rng(0))
    for row in range(4):
        value = float(mixed[row, 0, 0, 0])
        assert value == pytest.approx(float(target[row] @ torch.arange(4.0)), abs=1e-5)
        assert float(target[row, row]) >= 0.5 and not mixed[row, :, lengths[row] :].any()
    same, kept = mix(features, lengths, p, 0.0, np.random.default_rng(0))
    inside = torch.arange(5) < lengths[:, None]
    assert torch.equal(same[:, 0, :, 0][inside], features[:, 0, :, 0][inside]) and torch.equal(kept, p)


def test_a_curriculum_goes_from_low_ranks_to_high_and_visits_each_once():
    lengths, ranks = np.random.default_rng(0).integers(5, 50, 200), np.random.default_rng(1).random(200)
    order = visit_order(lengths, 4, 0, 0, ranks)
    assert sorted(order) == list(range(200))
    means = [ranks[order[at : at + 32]].mean() for at in range(0, 192, 32)]
    assert means == sorted(means)


def test_only_the_first_pass_follows_a_curriculum_of_the_raters_entropy():
    dataset = Dataset.from_dict({"human": [[0.5, 0.5], [1.0, 0.0], [0.75, 0.25]], "length": [5, 5, 5]})
    ranks = curriculum_ranks(dataset)
    assert visit_order(dataset["length"], 1, 0, 0, ranks) == [1, 2, 0]
    lengths = np.random.default_rng(0).integers(5, 50, 200).tolist()
    assert visit_order(lengths, 4, 0, 1, list(range(200))) == visit_order(lengths, 4, 0, 1)
