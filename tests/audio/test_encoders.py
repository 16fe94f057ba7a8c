from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from shala_audio.audio.encoders import WhisperFrontEnd
from shala_audio.errors import UserError


def clips(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(length).astype(np.float32) * 0.1 for length in lengths]


def test_a_clip_alone_equals_the_clip_in_a_padded_batch(tiny_encoder):
    front_end = WhisperFrontEnd(str(tiny_encoder), [0, 1, 2])
    batch = clips(16_000, 5_001, 9_999, 400)
    together = front_end.encode(batch)
    for clip, states in zip(batch, together, strict=True):
        (alone,) = front_end.encode([clip])
        assert states.shape == alone.shape == (3, front_end.lengths(len(clip)), 16)
        torch.testing.assert_close(states, alone, atol=1e-5, rtol=1e-4)


def test_agrees_with_transformers_on_thirty_seconds(tiny_encoder):
    """On sound that fills the whole window, ours is the stock encoder."""
    front_end = WhisperFrontEnd(str(tiny_encoder), [2])
    (clip,) = clips(30 * 16_000)
    stock = WhisperEncoder.from_pretrained(tiny_encoder).eval()
    mel = front_end.extractor(clip, sampling_rate=16_000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        expected = stock(mel).last_hidden_state[0]
    torch.testing.assert_close(front_end.encode([clip])[0][0], expected, atol=1e-4, rtol=1e-4)


def test_too_long_and_wrong_layers_are_refused(tiny_encoder):
    with pytest.raises(UserError, match="use windows"):
        WhisperFrontEnd(str(tiny_encoder), [1]).encode(clips(31 * 16_000))
    with pytest.raises(UserError, match="encoder_layers"):
        WhisperFrontEnd(str(tiny_encoder), [3])
