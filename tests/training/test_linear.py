from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from shala_audio.data.rows import Audio, Row
from shala_audio.training.linear import fit, train_linear
from tests.tiny import SPEECH_TASK
from tests.training.helpers import TinyStore


def test_on_hard_labels_it_is_scikit_learns_regression():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator)
    y = (x[:, 0] + 0.5 * torch.randn(200, generator=generator) > 0).long() + (x[:, 1] > 1).long()
    penalty = 0.01
    weight, bias = fit(x, torch.nn.functional.one_hot(y, 3).float(), penalty)
    # scikit-learn minimises C * sum of losses + ½ |w|²
    expected = LogisticRegression(C=1 / (2 * penalty * len(x)), tol=1e-8, max_iter=1000).fit(x.numpy(), y.numpy())
    ours = (x @ weight.T + bias).softmax(dim=1).numpy()
    assert ours == pytest.approx(expected.predict_proba(x.numpy()), abs=2e-3)


def test_it_finds_the_layer_that_tells():
    rng = np.random.default_rng(0)
    rows, features = [], {}
    for index in range(120):
        split = ("train", "train", "dev", "test")[index % 4]
        label = index % 3
        states = torch.randn(2, 20, 3)
        states[1, :, label] += 2.0  # only the second cached layer knows
        identity = f"r{index}"
        votes = {SPEECH_TASK.label_names[label]: 4, SPEECH_TASK.label_names[(label + 1) % 3]: int(rng.integers(0, 2))}
        rows.append(Row(identity, "tiny_speech", split, f"s{index}", Audio("a.wav"), votes=votes))
        features[identity] = states
    result = train_linear(rows, TinyStore(features), SPEECH_TASK, [3, 5])  # type: ignore[arg-type]
    assert result.layer == 5 and result.dev_jsd < 0.35
    assert {identity for identity, _ in result.predictions} == {row.id for row in rows if row.split == "test"}
