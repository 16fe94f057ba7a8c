from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

from shala_audio.audio.features import augmented_id
from shala_audio.baselines.attentive import train_attentive
from shala_audio.baselines.linear import PooledClips, PooledTexts, fit, train_linear
from shala_audio.distribution import jsd
from shala_audio.errors import UserError
from shala_audio.manifest import Audio, Row
from shala_audio.votes import human_distributions
from tests.tiny import SPEECH_TASK, TEXT_TASK, tiny_config
from tests.training.helpers import TinyStore

TEXTS = ("no", "a much longer comment than that", "so what")


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
    result = train_linear(rows, PooledClips(TinyStore(features), [3, 5]), SPEECH_TASK)  # type: ignore[arg-type]
    assert result.chosen["layer"] == 5 and result.dev_jsd < 0.35
    for split, predicted in result.predictions.items():
        assert [identity for identity, _ in predicted] == [row.id for row in rows if row.split == split]
    human = human_distributions([row for row in rows if row.split == "dev"], SPEECH_TASK.label_names)
    said = np.stack([answer.probs for _, answer in result.predictions["dev"]])
    assert jsd(human, said).mean() == pytest.approx(result.dev_jsd), "of the settings that were kept"


@pytest.mark.parametrize("helpful", [True, False])
def test_dev_says_whether_augmentations_help(helpful):
    """Either the clips or their copies sound as dev and test do; the others say nothing of the label."""
    rows, features = [], {}
    generator = torch.Generator().manual_seed(0)
    for index in range(160):
        split = ("train", "train", "dev", "test")[index % 4]
        label = index % 3
        clear = torch.randn(1, 20, 3, generator=generator)
        clear[0, :, label] += 2.0
        noise = 4 * torch.randn(1, 20, 3, generator=generator)
        rows.append(
            Row(
                f"r{index}",
                "tiny_speech",
                split,
                f"s{index}",
                Audio("a.wav"),
                votes={SPEECH_TASK.label_names[label]: 4},
            )
        )
        features[f"r{index}"] = noise if split == "train" and helpful else clear
        if split == "train":
            features[augmented_id(f"r{index}", 1)] = clear if helpful else noise
    store = TinyStore(features)
    pooled = PooledClips(store, [3])  # type: ignore[arg-type]
    line = train_linear(rows, pooled, SPEECH_TASK, augmentations=1)
    pooling = train_attentive(rows, store, SPEECH_TASK, augmentations=1)  # type: ignore[arg-type]
    assert (line.chosen["augmentations"] == 1) == helpful
    if helpful:
        assert pooling.chosen["augmentations"] == 1
        assert line.dev_jsd < train_linear(rows, pooled, SPEECH_TASK).dev_jsd


def test_texts_are_pooled_states_of_the_language_model(tiny_lm):
    """Alone, without padding, by transformers' own forward; layers at the quarters of the model's two."""
    rows = [
        Row(f"r{n}", "tiny_text", "train", f"s{n}", None, {"comment": text}, {"anger": 1})
        for n, text in enumerate(TEXTS)
    ]
    pooled = PooledTexts(rows, TEXT_TASK, tiny_config(tiny_lm))
    assert pooled.layers == [1, 2]
    found = pooled([row.id for row in rows])
    lm, tokenizer = AutoModel.from_pretrained(tiny_lm, dtype=torch.float32), AutoTokenizer.from_pretrained(tiny_lm)
    for text, mine in zip(TEXTS, found, strict=True):
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            states = lm(input_ids=ids, output_hidden_states=True).hidden_states
        for layer, vector in zip(pooled.layers, mine, strict=True):
            own = states[layer][0]
            expected = torch.cat([own.mean(dim=0), own.std(dim=0, correction=0)])
            torch.testing.assert_close(vector, expected, atol=0.05, rtol=0.05)  # where it computes in bfloat16


def test_a_linear_classifier_reads_texts(tiny_lm, tmp_path):
    rng = np.random.default_rng(0)
    words = ("so angry now", "how disgusting", "not like that")
    rows = []
    for index in range(120):
        split = ("train", "train", "dev", "test")[index % 4]
        label = int(rng.integers(3))
        votes = {TEXT_TASK.label_names[label]: 4, TEXT_TASK.label_names[(label + 1) % 3]: 1}
        rows.append(
            Row(f"r{index}", "mini_text", split, f"s{index}", None, {"comment": f"{words[label]} {index}"}, votes)
        )
    result = train_linear(rows, PooledTexts(rows, TEXT_TASK, tiny_config(tiny_lm)), TEXT_TASK)
    human = human_distributions([row for row in rows if row.split == "dev"], TEXT_TASK.label_names)
    prior = np.tile(human.mean(axis=0), (len(human), 1))
    assert result.dev_jsd < 0.5 * jsd(human, prior).mean()


def test_a_row_without_text_is_named(tiny_lm):
    with pytest.raises(UserError, match="row r1: has no text"):
        PooledTexts([Row("r1", "tiny_text", "train", None, None, {"comment": ""})], TEXT_TASK, tiny_config(tiny_lm))
