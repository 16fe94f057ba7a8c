"""`mini`: a synthetic corpus, made in seconds, with simulated listeners whose true distribution is known.

Every utterance has a latent arousal and valence in [-1, 1], which its sound and its text follow. A listener hears the point with
noise and answers with the nearest of four prototypes; the true distribution is the share of an endless crowd of such listeners,
computed with many fixed draws, and the votes in the manifest are those of a few of them. The true distribution stands in
`extra["true"]`: the human agreement bound is known.

The sound is a pulse and noise source through formant filters. High arousal: higher and livelier pitch, more energy, faster
syllables, a flatter (tenser) voice. High valence: rising pitch within the phrase, brighter formants, a smooth voice; low valence:
falling pitch and a rough voice (jitter). So Juslin and Laukka (2003), "Communication of emotions in vocal expression", Table 7.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import lfilter

from shala_audio.corpora.prepare import SOURCES, Prepared, as_mapping
from shala_audio.corpora.splits import SHARES, split_by_group
from shala_audio.distribution import Floats
from shala_audio.io import atomic_write
from shala_audio.manifest import Audio, Row

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


TASK, TEXT_TASK = "mini", "mini_text"
LABELS = ("anger", "happiness", "sadness", "calm")
PROTOTYPES = np.array([[0.7, -0.6], [0.6, 0.7], [-0.6, -0.6], [-0.6, 0.5]])  # (arousal, valence) of each label
LISTENER_NOISE = 0.45  # standard deviation of what a listener adds to the latent point
LISTENERS = 8  # votes for each utterance
SPEAKERS = 20
ROWS = 480

AROUSED = {
    -1: ("slowly", "quietly", "half asleep"),
    0: ("today", "again", "as always"),
    1: ("at once", "loudly", "right now"),
}
VALENCED = {
    -1: ("the awful news", "my broken phone", "this horrible bill"),
    0: ("the letter", "the timetable", "the next room"),
    1: ("the lovely gift", "our wonderful win", "this beautiful day"),
}
STARTS = ("I am looking at", "They talked about", "We were told of", "She keeps thinking of")


def true_distribution(arousal: float, valence: float, draws: Floats) -> Floats:
    """Share of listeners who answer each label, (K,). `draws` (n, 2) are standard normal."""
    perceived = np.array([arousal, valence]) + LISTENER_NOISE * draws
    nearest = np.linalg.norm(perceived[:, None] - PROTOTYPES, axis=-1).argmin(axis=1)
    return np.bincount(nearest, minlength=len(LABELS)) / len(draws)


def compose(arousal: float, valence: float, rng: np.random.Generator) -> str:
    """A short text whose words lean the way of the latent point."""

    def lean(value: float) -> int:
        return int(np.sign(value)) if abs(value) > 0.33 else 0

    words = (STARTS, VALENCED[lean(valence)], AROUSED[lean(arousal)])
    start, thing, manner = (str(rng.choice(choices)) for choices in words)
    return f"{start} {thing}, {manner}."


def prepare(out: Path, seed: int, rows: int = ROWS, text: bool = False) -> Prepared:
    """Make the corpus: sound files under `out/audio` (none for the text task), rows with votes.

    Args:
        out: where to put the sound; the audio root of the manifest is `out`.
        seed: of everything.
        rows: how many utterances.
        text: make the text task instead of the speech task.
    """
    rng = np.random.default_rng(seed)
    draws = np.random.default_rng(0).standard_normal((4000, 2))
    voices = [Voice.draw(rng) for _ in range(SPEAKERS)]
    made: list[Row] = []
    for index in range(rows):
        speaker = index % SPEAKERS
        arousal, valence = rng.uniform(-1, 1, size=2)
        truth = true_distribution(arousal, valence, draws)
        votes = as_mapping(LABELS, rng.multinomial(LISTENERS, truth).tolist())
        identity, name = f"mini_{index:05d}", f"speaker{speaker:02d}"
        extra = {
            "true": dict(zip(LABELS, truth.tolist(), strict=True)),
            "arousal": round(float(arousal), 4),
            "valence": round(float(valence), 4),
        }
        if text:
            comment = compose(arousal, valence, rng)
            made.append(Row(identity, TEXT_TASK, "train", name, None, {"comment": comment}, votes, extra))
            continue
        samples = speak(voices[speaker], arousal, valence, rng)
        path = Path("audio") / f"{identity}.wav"
        file = io.BytesIO()  # libsndfile would not say that a disk is full
        soundfile.write(file, samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
        with atomic_write(out / path) as beside:
            beside.write_bytes(file.getvalue())
        audio = Audio(path.as_posix(), 0.0, round(len(samples) / SAMPLE_RATE, 4))
        made.append(Row(identity, TASK, "train", name, audio, {}, votes, extra))
    split_of = split_by_group([str(row.speaker) for row in made], SHARES, seed)
    return Prepared(
        [replace(row, split=split_of[str(row.speaker)]) for row in made],
        caveat="Synthetic sound and simulated listeners: it shows that learning works, nothing about people.",
        licence=SOURCES["mini"].licence,
    )
