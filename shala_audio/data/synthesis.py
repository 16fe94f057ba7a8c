"""Speech-like sound from a pulse and noise source and formant filters, driven by arousal and valence.

High arousal: higher and livelier pitch, more energy, faster syllables, a flatter (tenser) voice. High valence: rising
pitch within the phrase, brighter formants, a smooth voice; low valence: falling pitch and a rough voice (jitter). The
directions follow the summary of Juslin and Laukka (2003), "Communication of emotions in vocal expression", Table 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

SAMPLE_RATE = 16_000  # Hz
VOWELS = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]])  # Hz
BANDWIDTHS = np.array([80.0, 100.0, 140.0])  # Hz


@dataclass(frozen=True)
class Voice:
    """A speaker: mean pitch in Hz, and the factor on every formant that a vocal tract's length gives."""

    pitch: float
    tract: float

    @staticmethod
    def draw(rng: np.random.Generator) -> Voice:
        """A speaker, as often high-voiced as low-voiced."""
        high = rng.random() < 0.5
        return Voice(rng.uniform(170, 230) if high else rng.uniform(90, 140), rng.uniform(1.08, 1.2) if high else 1.0)


def speak(voice: Voice, arousal: float, valence: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """One utterance of four to six syllables, (samples,) float32 at 16 kHz, about 1 to 2 s.

    Args:
        voice: the speaker.
        arousal, valence: in [-1, 1].
        rng: for the phones and small irregularities.
    """
    count = int(rng.integers(4, 7))
    syllables = []
    for index in range(count):
        place = index / (count - 1) - 0.5  # -0.5 at the start of the phrase, 0.5 at its end
        seconds = 0.26 * 2 ** (-0.5 * arousal) * rng.uniform(0.85, 1.15)
        octaves = 0.35 * arousal + 0.5 * valence * place + (0.12 + 0.1 * arousal) * rng.standard_normal()
        consonant = _noise(0.25 * seconds, 1 + 0.5 * arousal, rng)
        vowel = _vowel(voice, voice.pitch * 2**octaves, 0.75 * seconds, arousal, valence, rng)
        syllables += [0.15 * consonant, vowel]
    sound = np.concatenate(syllables)
    level = 0.08 * 10 ** (0.4 * arousal)  # 16 dB between the calmest and the most aroused
    sound = sound / np.sqrt(np.mean(sound**2)) * level
    sound = sound + 0.001 * rng.standard_normal(len(sound))
    return np.clip(sound, -1, 1).astype(np.float32)


def _noise(seconds: float, brightness: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """An unvoiced consonant: noise with more high frequencies where arousal is high."""
    samples = rng.standard_normal(int(seconds * SAMPLE_RATE))
    return lfilter([1, -0.5 * brightness], [1], samples) * np.hanning(len(samples))


def _vowel(
    voice: Voice, pitch: float, seconds: float, arousal: float, valence: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A voiced vowel: pulses with jitter, a spectral tilt, three formants, and an attack that arousal sharpens."""
    samples = int(seconds * SAMPLE_RATE)
    roughness = 0.01 + 0.05 * max(0.0, -valence)
    drift = 2 ** (0.15 * valence * np.linspace(-1, 1, samples))
    phase = np.cumsum(pitch * drift * (1 + roughness * _slow_noise(samples, rng)) / SAMPLE_RATE)
    source = np.diff(np.floor(phase), prepend=0.0)
    source = source + 0.02 * (1 - arousal) * rng.standard_normal(samples) * (source.std() + 1e-9)
    tilt = 0.9 - 0.25 * (arousal + 1) / 2  # a tense voice falls less steeply
    sound = lfilter([1], [1, -tilt], source)
    formants = VOWELS[rng.integers(len(VOWELS))] * voice.tract * (1 + 0.06 * valence)
    for frequency, bandwidth in zip(formants, BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
        angle = 2 * np.pi * frequency / SAMPLE_RATE
        sound = lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], sound)
    attack = max(1, int((0.05 - 0.03 * arousal) * SAMPLE_RATE))
    envelope = np.minimum(1, np.arange(samples) / attack) * np.minimum(1, np.arange(samples)[::-1] / attack)
    sound = sound * envelope
    return sound / (np.sqrt(np.mean(sound**2)) + 1e-9)


def _slow_noise(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise that changes about every 5 ms, standard deviation 1."""
    return np.repeat(rng.standard_normal(samples // 80 + 1), 80)[:samples]
