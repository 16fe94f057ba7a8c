"""Training sound made a little different each time: augmentations of clips, and SpecAugment on features."""

from __future__ import annotations

import numpy as np
import soxr
import torch
from torch import Tensor

from shala_audio.audio.io import SAMPLE_RATE, Samples

SPEEDS = (0.9, 1.1)  # Kaldi's three-way speed perturbation is these and the clip itself (Ko et al. 2015)
VOLUME_DB = 6.0  # gain drawn from plus or minus so much
SNR_DB = (15.0, 30.0)  # signal to white noise
TIME_MASKS, TIME_SHARE = 2, 0.15  # spans of time, and the longest share of a clip that each may hide
CHANNEL_MASKS, CHANNEL_SHARE = 1, 0.1  # the same for spans of channels


def perturb(samples: Samples, seed: int, number: int) -> Samples:
    """A clip's augmentation 1, 2, ...: faster or slower (pitch moves along), louder or softer, with some noise.

    Speed takes turns between `SPEEDS`; volume and noise are drawn from the seed and its number.

    Args:
        samples: mono float32 at 16 kHz.
        seed: of the draws, another for each clip.
        number: of the augmentation, 1 or more.

    >>> len(perturb(np.ones(16_000, dtype=np.float32), seed=0, number=2))
    14545
    """
    rng = np.random.default_rng((seed, number))
    speed = SPEEDS[(number - 1) % len(SPEEDS)]
    samples = soxr.resample(samples, SAMPLE_RATE * speed, SAMPLE_RATE)
    gain = 10 ** (rng.uniform(-VOLUME_DB, VOLUME_DB) / 20)
    power = float(np.mean(np.square(samples))) + 1e-12
    noise = np.sqrt(power / 10 ** (rng.uniform(*SNR_DB) / 10)) * rng.standard_normal(len(samples))
    return (gain * (samples + noise)).astype(np.float32)


def mask_features(features: Tensor, lengths: Tensor) -> Tensor:
    """SpecAugment (arXiv 1904.08779) on features: spans of time and of channels become 0.

    Args:
        features: (B, S, T, D).
        lengths: (B,) frames of each clip; masks fall within them.
    """
    batch, _, time, width = features.shape
    hidden = _masks(lengths, time, TIME_MASKS, TIME_SHARE)[:, None, :, None]
    channels = torch.full((batch,), width, device=lengths.device)
    silent = _masks(channels, width, CHANNEL_MASKS, CHANNEL_SHARE)[:, None, None, :]
    return features.masked_fill(hidden | silent, 0.0)


def _masks(lengths: Tensor, size: int, count: int, share: float) -> Tensor:
    """(B, size) bool: `count` masks in each row, of random length up to `share` of the row's own."""
    shape = (len(lengths), count)
    longest = lengths[:, None].expand(shape)
    # Drawn on the CPU, whose random state checkpoints keep.
    wide = (torch.rand(shape).to(lengths.device) * share * longest).floor()
    start = (torch.rand(shape).to(lengths.device) * (longest - wide + 1)).floor()
    positions = torch.arange(size, device=lengths.device)
    inside = (positions >= start[..., None]) & (positions < (start + wide)[..., None])
    return inside.any(dim=1)
