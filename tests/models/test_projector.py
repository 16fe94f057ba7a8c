from __future__ import annotations

import pytest
import torch

from shala_audio.models.projector import Projector, stack_frames, token_count


@pytest.mark.parametrize("stack", [1, 2, 3, 8])
@pytest.mark.parametrize("frames", range(1, 18))
def test_no_frame_is_dropped_for_any_remainder(frames, stack):
    """Every T mod k: each frame stands in its place, and only the tail is 0."""
    values = torch.arange(1.0, frames + 1).reshape(1, frames, 1)
    stacked = stack_frames(values, torch.tensor([frames]), stack)
    assert stacked.shape == (1, token_count(frames, stack), stack)
    flat = stacked.flatten()
    assert flat[:frames].tolist() == values.flatten().tolist()
    assert (flat[frames:] == 0).all() and len(flat) - frames < stack


@pytest.mark.parametrize("frames", range(1, 12))
def test_a_clip_alone_equals_the_clip_in_a_padded_batch(frames):
    torch.manual_seed(0)
    projector = Projector(layers=2, encoder_width=4, stack=4, hidden_width=8, lm_width=6, scale=0.1)
    torch.nn.init.normal_(projector.layer_logits)
    features = torch.randn(2, 2, 13, 4)  # what lies beyond the first clip's end is not 0
    tokens, counts = projector(features, torch.tensor([frames, 13]))
    alone, count = projector(features[:1, :, :frames], torch.tensor([frames]))
    assert counts.tolist() == [token_count(frames, 4), 4] and count.tolist() == [token_count(frames, 4)]
    torch.testing.assert_close(tokens[:1, : count[0]], alone)


def test_sound_enters_as_loud_as_words():
    projector = Projector(layers=1, encoder_width=4, stack=2, hidden_width=8, lm_width=64, scale=0.13)
    tokens, _ = projector(torch.randn(3, 1, 10, 4), torch.tensor([10, 10, 10]))
    assert tokens.std().item() == pytest.approx(0.13, rel=0.05)
