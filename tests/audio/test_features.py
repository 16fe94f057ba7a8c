from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from shala_audio.audio import features as module
from shala_audio.audio.encoders import WhisperFrontEnd
from shala_audio.audio.features import FeatureStore, write_features
from shala_audio.data.rows import Audio, Row
from shala_audio.errors import UserError

ENCODER = {"encoder": "tiny", "layers": [1, 2]}


def make_rows(root, count: int) -> list[Row]:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        soundfile.write(root / f"{index}.wav", 0.1 * rng.standard_normal(4000 + 700 * index), 16_000)
        rows.append(Row(f"row {index}", "t", "train", audio=Audio(f"{index}.wav")))
    return rows


def test_features_are_what_the_encoder_says(tmp_path, tiny_encoder, monkeypatch):
    monkeypatch.setattr(module, "SHARD_ROWS", 3)
    rows = make_rows(tmp_path, 7)
    front_end = WhisperFrontEnd(str(tiny_encoder), [1, 2])
    out = tmp_path / "features"
    assert write_features(rows, tmp_path, front_end, ENCODER, out) == 7
    store = FeatureStore(out, ENCODER)
    for row in rows:
        samples, _ = soundfile.read(tmp_path / row.audio.path, dtype="float32")
        (expected,) = front_end.encode([samples])
        assert store.frames(row.id) == expected.shape[1]
        torch.testing.assert_close(store[row.id].float(), expected, atol=2e-3, rtol=2e-3)


def test_only_what_is_missing_or_changed_is_encoded(tmp_path, tiny_encoder):
    rows = make_rows(tmp_path, 4)
    front_end = WhisperFrontEnd(str(tiny_encoder), [1, 2])
    out = tmp_path / "features"
    assert write_features(rows[:2], tmp_path, front_end, ENCODER, out) == 2
    assert write_features(rows, tmp_path, front_end, ENCODER, out) == 2
    assert write_features(rows, tmp_path, front_end, ENCODER, out) == 0
    soundfile.write(tmp_path / "1.wav", np.ones(8000) * 0.1, 16_000)
    assert write_features(rows, tmp_path, front_end, ENCODER, out) == 1
    assert FeatureStore(out)["row 1"].shape[1] == 25


def test_another_encoders_features_are_refused(tmp_path, tiny_encoder):
    rows = make_rows(tmp_path, 1)
    write_features(rows, tmp_path, WhisperFrontEnd(str(tiny_encoder), [1, 2]), ENCODER, tmp_path / "features")
    with pytest.raises(UserError, match="make them anew"):
        FeatureStore(tmp_path / "features", ENCODER | {"layers": [1]})
    with pytest.raises(UserError, match="row 9"):
        FeatureStore(tmp_path / "features")["row 9"]
