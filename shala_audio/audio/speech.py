"""Whether there is speech in a clip at all: voiced frames, whose level and pitch move as a voice's do.

A model answers whatever it is given. This tells silence, noise, hum and tones from voices by their periodicity (as in Boersma
1993); it does not tell music or animals from speech, and takes whispering for noise.
"""

from __future__ import annotations

import numpy as np

from shala_audio.audio.io import SAMPLE_RATE, Samples

FRAME, HOP = 640, 320  # samples (40 ms, 20 ms)
PITCH = (60.0, 500.0)  # Hz
PERIODIC = 0.5  # of a frame's autocorrelation at its pitch, from which on the frame is voiced
QUIET_DB = 35.0  # frames so much softer than the loudest are not looked at
SOFTEST_DB = -65.0  # of full scale: below this, everything is silence
LEAST = (0.1, 0.3, 0.25)  # seconds of voice: this share of the clip, between these bounds
STEADY_DB, STEADY_PITCH = 1.0, 0.01  # spread of level, and of pitch, of a hum or a tone
AT_ONCE = 3000  # frames: hours of sound need no more memory


def voiced_seconds(samples: Samples) -> float:
    """Seconds of a clip in which a voice is periodic; 0 of silence, noise, hum and steady tones.

    Args:
        samples: mono float32 at 16 kHz.

    >>> rng = np.random.default_rng(0)
    >>> voiced_seconds((0.1 * rng.standard_normal(32_000)).astype(np.float32))
    0.0
    """
    if len(samples) < FRAME:
        return 0.0
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    levels, strengths, pitches = zip(
        *(_frames(frames[at : at + AT_ONCE]) for at in range(0, len(frames), AT_ONCE)), strict=True
    )
    level, strength, pitch = (np.concatenate(parts) for parts in (levels, strengths, pitches))
    sounding = (level > level.max() - QUIET_DB) & (level > SOFTEST_DB)
    voiced = sounding & (strength > PERIODIC)
    least = min(max(LEAST[0], LEAST[2] * len(samples) / SAMPLE_RATE), LEAST[1])
    if voiced.sum() * HOP / SAMPLE_RATE < least:
        return 0.0
    if level[voiced].std() < STEADY_DB and pitch[voiced].std() < STEADY_PITCH * pitch[voiced].mean():
        return 0.0
    return float(voiced.sum() * HOP / SAMPLE_RATE)


def speech_remark(samples: Samples) -> str | None:
    """What to say of a clip without speech."""
    return None if voiced_seconds(samples) else "no speech was found in it, so the answer says nothing"


def _frames(frames: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Level in dB, autocorrelation at the pitch, and the pitch in Hz, of each frame."""
    centred = (frames - frames.mean(axis=1, keepdims=True)).astype(np.float64)
    power = np.square(centred).mean(axis=1)
    window = np.hanning(FRAME)
    size = 2 * FRAME

    def autocorrelation(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.fft.irfft(np.abs(np.fft.rfft(x, size)) ** 2, size)[..., :FRAME]
        return found

    own = autocorrelation(centred * window)
    own /= np.maximum(own[:, :1], 1e-12)
    own /= autocorrelation(window) / autocorrelation(window)[0]  # what the window takes off
    first, last = round(SAMPLE_RATE / PITCH[1]), round(SAMPLE_RATE / PITCH[0])
    within = own[:, first : last + 1]
    best = within.argmax(axis=1)
    inner = (best > 0) & (best < within.shape[1] - 1)  # a peak, and not a slope that is cut off
    strength = np.where(inner, within[np.arange(len(within)), best], 0.0)
    return 10 * np.log10(power + 1e-12), strength, SAMPLE_RATE / (best + first)
