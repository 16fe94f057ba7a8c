"""Predictions written and read again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shala_audio.distribution import LabelDistribution
from shala_audio.evaluation.predictions import read_predictions, write_predictions

LABELS = ["anger", "joy, or so", "ärger"]  # a comma must not part a column


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.jsonl"])
@settings(max_examples=20)
@given(votes=st.lists(st.tuples(*[st.integers(0, 9)] * 3).filter(any), min_size=1, max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory, name, votes):
    path = tmp_path_factory.mktemp("written") / name
    probs = np.array(votes) / np.sum(votes, axis=1, keepdims=True)
    written = [(f" row {at}", LabelDistribution(LABELS, row)) for at, row in enumerate(probs)]
    write_predictions(path, written)
    identities, read = read_predictions(path, LABELS)
    assert identities == [identity for identity, _ in written]
    np.testing.assert_allclose(read, probs, atol=1e-12)
