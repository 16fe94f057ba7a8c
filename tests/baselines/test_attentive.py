from __future__ import annotations

import numpy as np
import pytest
import torch

from shala_audio.audio.features import pad_features
from shala_audio.baselines.attentive import AttentivePooling, train_attentive
from shala_audio.distribution import jsd
from shala_audio.errors import UserError
from shala_audio.manifest import Audio, Row
from tests.tiny import SPEECH_TASK, random_features
from tests.training.helpers import TinyStore


def test_a_clip_alone_equals_the_clip_in_a_padded_batch():
    torch.manual_seed(0)
    model = AttentivePooling(2, 16, 3, torch.zeros(16), torch.ones(16)).eval()
    clips = random_features(3)
    together = model(*pad_features(clips))
    for index, clip in enumerate(clips):
        torch.testing.assert_close(model(*pad_features([clip]))[0], together[index])
    assert together.exp().sum(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_it_learns_what_a_mean_over_time_hides():
    """The label is a short burst whose sign the mean nearly loses among the noise of many frames."""
    rng = np.random.default_rng(0)
    rows, features = [], {}
    generator = torch.Generator().manual_seed(0)
    for index in range(480):
        split = ("train", "train", "dev", "test")[index % 4]
        label = index % 3
        states = torch.randn(2, 40, 8, generator=generator)
        at = int(rng.integers(0, 38))
        states[1, at : at + 2, label] += 6.0
        identity = f"r{index}"
        votes = {SPEECH_TASK.label_names[label]: 4, SPEECH_TASK.label_names[(label + 1) % 3]: 1}
        rows.append(Row(identity, "tiny_speech", split, f"s{index}", Audio("a.wav"), votes=votes))
        features[identity] = states
    result = train_attentive(rows, TinyStore(features), SPEECH_TASK)  # type: ignore[arg-type]
    found = dict(result.predictions["test"])
    test = [row for row in rows if row.split == "test"]
    assert set(found) == {row.id for row in test}
    human = np.array([[row.votes.get(label, 0) / 5 for label in SPEECH_TASK.label_names] for row in test])
    assert jsd(human, np.stack([found[row.id].probs for row in test])).mean() < 0.3
    dev = [row for row in rows if row.split == "dev"]
    human = np.array([[row.votes.get(label, 0) / 5 for label in SPEECH_TASK.label_names] for row in dev])
    assert [identity for identity, _ in result.predictions["dev"]] == [row.id for row in dev]
    said = np.stack([answer.probs for _, answer in result.predictions["dev"]])
    assert jsd(human, said).mean() == pytest.approx(result.dev_jsd), "of the model that was kept"
    with pytest.raises(UserError, match="no rows of dev, of train and dev with votes"):
        train_attentive([row for row in rows if row.split != "dev"], TinyStore(features), SPEECH_TASK)  # type: ignore[arg-type]


def test_padded_features_are_as_they_were_stored():
    """In 16 bits, where the cache has 16: half to copy to a GPU."""
    padded, lengths = pad_features([torch.ones(1, 2, 3, dtype=torch.float16), torch.ones(1, 4, 3, dtype=torch.float16)])
    assert padded.dtype == torch.float16 and padded.shape == (2, 1, 4, 3) and lengths.tolist() == [2, 4]
    assert padded.sum() == 18
