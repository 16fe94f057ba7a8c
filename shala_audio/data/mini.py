"""`mini`: a synthetic corpus, made in seconds, with simulated listeners whose true distribution is known.

Every utterance has a latent arousal and valence in [-1, 1]. The sound follows them (`shala_audio.data.synthesis`), and so
does the text. A listener hears the point with noise and answers with the nearest of four prototypes; the true
distribution is the share of an endless crowd of such listeners, computed with many fixed draws, and the votes in the
manifest are those of a few of them. The true distribution stands in `extra["true"]`: the ceiling is known.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from shala_audio.data.licences import SOURCES
from shala_audio.data.prepare import Prepared, as_mapping
from shala_audio.data.rows import Audio, Row
from shala_audio.data.splits import SHARES, split_by_group
from shala_audio.data.synthesis import SAMPLE_RATE, Voice, speak
from shala_audio.distribution import Floats
from shala_audio.files import write_beside

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
    heard = np.array([arousal, valence]) + LISTENER_NOISE * draws
    nearest = np.linalg.norm(heard[:, None] - PROTOTYPES, axis=-1).argmin(axis=1)
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
        with write_beside(out / path) as beside:
            beside.write_bytes(file.getvalue())
        audio = Audio(path.as_posix(), 0.0, round(len(samples) / SAMPLE_RATE, 4))
        made.append(Row(identity, TASK, "train", name, audio, {}, votes, extra))
    split_of = split_by_group([str(row.speaker) for row in made], SHARES, seed)
    return Prepared(
        [replace(row, split=split_of[str(row.speaker)]) for row in made],
        caveat="Synthetic sound and simulated listeners: it shows that learning works, nothing about people.",
        licence=SOURCES["mini"].licence,
    )
