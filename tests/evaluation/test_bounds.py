from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import multinomial

from shala_audio.distribution import jsd
from shala_audio.evaluation.bounds import agreement_bound, fresh_sample, split_half_distance, split_halves

RNG = np.random.default_rng(0)
COUNTS = RNG.multinomial(10, RNG.dirichlet(np.ones(4), size=300)).astype(float)


def test_halves_are_the_raters_parted_at_random():
    first, second = split_halves(COUNTS, np.random.default_rng(1))
    assert (first * 5 + second * 5) == pytest.approx(COUNTS), "no rater is lost or counted twice"
    odd = np.array([[2.0, 1.0]])
    first, second = split_halves(odd, np.random.default_rng(1))
    assert first.sum() == second.sum() == 1 and first[0, 0] in (0, 1) and second[0, 0] in (0.5, 1.0)


def test_halves_follow_the_hypergeometric_law():
    row = np.tile([[6.0, 3.0, 1.0]], (20_000, 1))
    first, _ = split_halves(row, np.random.default_rng(2))
    expected = np.random.default_rng(3).multivariate_hypergeometric([6, 3, 1], 5, size=20_000) / 5
    assert first.mean(axis=0) == pytest.approx(expected.mean(axis=0), abs=0.01)
    assert np.cov(first.T) == pytest.approx(np.cov(expected.T), abs=0.002)


def test_votes_that_cannot_be_parted():
    assert split_halves(np.array([[1.5, 0.5]]), np.random.default_rng(0)) is None, "a rater's split vote"
    assert split_half_distance(np.array([[1.0, 0.0]])) is None, "one rater has no halves"
    assert split_half_distance(np.array([[1.5, 0.5], [2.0, 2.0]])) is None, "what the other rows say is not the corpus"
    assert split_half_distance(np.array([[1.0, 0.0], [2.0, 2.0]]), draws=0)[0]["n"] == 1


def test_a_fresh_sample_brackets_what_a_model_can_reach():
    """Known truth: the model that states it lies between a fresh sample of as many raters and two halves."""
    rng = np.random.default_rng(4)
    truth = rng.dirichlet(np.ones(4), size=3000)
    counts = rng.multinomial(10, truth).astype(float)
    reached = float(jsd(truth, counts / 10).mean())
    ceiling = agreement_bound(counts, draws=100)[0]["jsd"]
    halves = split_half_distance(counts, draws=100)[0]["jsd"]
    nats = split_half_distance(counts, draws=0)[0]["jsd_nats"]["value"]
    assert nats == pytest.approx(halves["value"] * np.sqrt(np.log(2)))
    assert ceiling["low"] < ceiling["value"] < ceiling["high"] and halves["low"] < halves["value"] < halves["high"]
    assert ceiling["high"] < reached < halves["low"]


def test_kl_has_no_ceiling():
    """A label that no new rater names would cost what the floor under the logarithm says."""
    found, by_row = agreement_bound(COUNTS, draws=0)
    assert by_row.mean() == pytest.approx(found["jsd"]["value"])
    assert "kl" not in found and found["jsd"]["value"] > 0


def test_ties_of_a_fresh_sample_go_to_no_label_in_particular():
    """Four raters who said 2, 1, 1: the first label is as likely to win a tie where it stands last."""
    ways = {
        split: multinomial.pmf(split, 4, [0.5, 0.25, 0.25]) for split in product(range(5), repeat=3) if sum(split) == 4
    }
    right = sum(p / split.count(max(split)) for split, p in ways.items() if split[0] == max(split))
    for order in ([0, 1, 2], [2, 1, 0]):
        counts = np.tile(np.array([2.0, 1.0, 1.0])[order], (1000, 1))
        found, _ = agreement_bound(counts, draws=0)
        assert found["accuracy"]["value"] == pytest.approx(right, abs=0.01)
        assert "confusion" not in found and "reliability" not in found, "of rows sampled 20 times over"


def test_many_raters_agree_with_themselves():
    counts = np.random.default_rng(5).multinomial(100_000, [0.5, 0.3, 0.2], size=20).astype(float)
    assert agreement_bound(counts, draws=0)[0]["jsd"]["value"] < 0.01
    assert fresh_sample(np.array([[0.4, 0.6]]), np.random.default_rng(0)).sum() == 1
