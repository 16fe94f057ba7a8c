"""Training sound made a little different each time: augmentations of clips, and SpecAugment on features."""

from __future__ import annotations

import numpy as np
import soxr
import torch
from torch import Tensor

from shala_audio.audio.io import SAMPLE_RATE, Samples

SPEEDS = (0.9, 1.1)  # Kaldi's three-way speed perturbation is these and the clip itself (Ko et al. 2015)
VOLUME_DB = 10.0  # gain drawn from plus or minus so much
SNR_DB = (5.0, 30.0)  # signal to noise
NOISE_COLOUR = (0.0, 2.0)  # exponent of 1 / f: white to brown, with pink between
PAUSE_SHARE, PAUSE_SECONDS = 0.5, 0.8  # how often; the longest pause before and after
ROOM_SHARE, ROOM_SECONDS, ROOM_DB = (
    0.3,
    (0.1, 0.6),
    (0.0, 12.0),
)  # how often; reverberation time (RT60); direct to reverberant
PHONE_SHARE, PHONE_RATE, PHONE_BAND = 0.5, 8_000, (300.0, 3_400.0)  # how often; Hz
ALAW = 87.6  # G.711's A
TIME_MASKS, TIME_SHARE = 2, 0.15  # spans of time, and the longest share of a clip that each may hide
CHANNEL_MASKS, CHANNEL_SHARE = 1, 0.1  # the same for spans of channels


def perturb(samples: Samples, seed: int, number: int) -> Samples:
    """A clip's augmentation 1, 2, ...: faster or slower (pitch moves along), with pauses around it, in a room, with noise, over a
    telephone, louder or softer.

    Speed takes turns between `SPEEDS`; everything else is drawn from the seed and its number.

    Args:
        samples: mono float32 at 16 kHz.
        seed: of the draws, another for each clip.
        number: of the augmentation, 1 or more.

    >>> len(perturb(np.ones(16_000, dtype=np.float32), seed=1, number=2)) >= 14_545
    True
    """
    rng = np.random.default_rng((seed, number))
    samples = soxr.resample(samples, SAMPLE_RATE * SPEEDS[(number - 1) % len(SPEEDS)], SAMPLE_RATE)
    if rng.random() < PAUSE_SHARE:
        samples = np.pad(samples, tuple(int(seconds * SAMPLE_RATE) for seconds in rng.uniform(0, PAUSE_SECONDS, 2)))
    if rng.random() < ROOM_SHARE:
        samples = _in_room(samples, rng)
    samples = samples + _noise(samples, rng)
    if rng.random() < PHONE_SHARE:
        samples = over_telephone(samples)
    return (10 ** (rng.uniform(-VOLUME_DB, VOLUME_DB) / 20) * samples).astype(np.float32)


def _in_room(samples: Samples, rng: np.random.Generator) -> Samples:
    """Sound with a tail of noise that dies away, as a room's reverberation does (Polack 1988)."""
    seconds, direct_db = rng.uniform(*ROOM_SECONDS), rng.uniform(*ROOM_DB)
    times = np.arange(1, round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / seconds)
    tail *= 10 ** (-direct_db / 20) / np.linalg.norm(tail)
    size = len(samples) + len(tail) + 1
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(np.concatenate([[1.0], tail]), size)
    return np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)


def _noise(samples: Samples, rng: np.random.Generator) -> Samples:
    """Noise whose power falls with frequency, in proportion to the clip's own power."""
    spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
    frequency = np.maximum(np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE), 50.0)
    noise = np.fft.irfft(spectrum * frequency ** (-rng.uniform(*NOISE_COLOUR) / 2), len(samples))
    wanted = (np.mean(np.square(samples)) + 1e-12) / 10 ** (rng.uniform(*SNR_DB) / 10)
    return (noise * np.sqrt(wanted / (np.mean(np.square(noise)) + 1e-20))).astype(np.float32)


def over_telephone(samples: Samples, band: tuple[float, float] | None = PHONE_BAND) -> Samples:
    """Sound as a telephone carries it: 8 kHz, a band of frequencies, 8 bits of A-law (ITU-T G.711).

    Args:
        samples: mono float32 at 16 kHz.
        band: Hz that pass; None for all below 4 kHz.

    >>> tone = np.sin(np.arange(16_000) / 16_000 * 2 * np.pi * 6_000).astype(np.float32)
    >>> bool(np.abs(over_telephone(tone)[1_000:15_000]).max() < 0.01)
    True
    """
    narrow = soxr.resample(samples, SAMPLE_RATE, PHONE_RATE)
    if band is not None:
        spectrum, frequency = np.fft.rfft(narrow), np.fft.rfftfreq(len(narrow), 1 / PHONE_RATE)
        spectrum[(frequency < band[0]) | (frequency > band[1])] = 0
        narrow = np.fft.irfft(spectrum, len(narrow))
    whole = 1 + np.log(ALAW)
    size = np.minimum(np.abs(narrow), 1.0)
    code = np.where(size < 1 / ALAW, ALAW * size, 1 + np.log(np.maximum(ALAW * size, 1.0))) / whole
    code = np.round(code * 127) / 127
    size = np.where(code < 1 / whole, code * whole, np.exp(code * whole - 1)) / ALAW
    return soxr.resample(np.sign(narrow) * size, PHONE_RATE, SAMPLE_RATE)[: len(samples)].astype(np.float32)


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
