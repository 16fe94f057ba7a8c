from __future__ import annotations

import pytest
import torch

from shala_audio.models.audio_adapter import build_projector, stack_frames, token_count
from shala_audio.models.config import PROJECTORS


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


@pytest.mark.parametrize("kind", PROJECTORS)
@pytest.mark.parametrize("frames", [*range(1, 12), 16, 17, 20])
def test_a_clip_alone_equals_the_clip_in_a_padded_batch(kind, frames):
    torch.manual_seed(0)
    projector = build_projector(kind, encoder_width=4, stack=4, hidden_width=16, lm_width=6).eval()
    features = torch.randn(2, 21, 4)  # what lies beyond the first clip's end is not 0
    tokens = projector(features, torch.tensor([frames, 21]))
    alone = projector(features[:1, :frames], torch.tensor([frames]))
    assert tokens.shape == (2, 6, 6) and alone.shape == (1, token_count(frames, 4), 6)
    torch.testing.assert_close(tokens[:1, : alone.shape[1]], alone)


@pytest.mark.parametrize("kind", PROJECTORS)
@pytest.mark.parametrize("frames", [5, 8, 9])
def test_every_frame_matters(kind, frames):
    torch.manual_seed(0)
    projector = build_projector(kind, encoder_width=4, stack=4, hidden_width=16, lm_width=6).eval()
    features = torch.randn(1, frames, 4, requires_grad=True)
    projector(features, torch.tensor([frames])).square().sum().backward()
    assert (features.grad.abs().sum(dim=-1) > 0).all()
