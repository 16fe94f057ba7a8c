"""MSP-Podcast: turns of podcasts, each judged by five raters or more (DOI 10.1109/TAFFC.2017.2736999).

Releases 1.6 to 2.0. Votes are the raters' primary choices; with `secondary` a share of each rater's one vote goes to the
secondary choices. Turns without a plurality ("X") are kept: they are the ambiguous ones.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shala_audio.data.licences import SOURCES
from shala_audio.data.msp_ratings import SECONDARY, Rating, read_ratings
from shala_audio.data.msp_turns import Turn, read_turns
from shala_audio.data.prepare import Prepared, need_file, sound_durations
from shala_audio.data.rows import Audio, Row
from shala_audio.data.splits import shared_speakers
from shala_audio.errors import UserError

LABEL_FOLDERS = ("Labels", "labels", "label")
ATTRIBUTES = ("arousal", "valence", "dominance")
CLASSES = {
    "Angry": "anger",
    "Sad": "sadness",
    "Happy": "happiness",
    "Surprise": "surprise",
    "Fear": "fear",
    "Disgust": "disgust",
    "Contempt": "contempt",
    "Neutral": "neutral",
    "Other": "other",
}
# Secondary choices that no primary one is called; what is not here either (Concerned, Confused) counts as Other.
NUANCES = {
    "Amused": "Happy",
    "Excited": "Happy",
    "Frustrated": "Angry",
    "Annoyed": "Angry",
    "Depressed": "Sad",
    "Disappointed": "Sad",
}
LABELS = {
    "msp_podcast": tuple(label for label in CLASSES.values() if label != "other"),
    "msp_podcast_9": tuple(CLASSES.values()),
    "msp_podcast_4": ("anger", "sadness", "happiness", "neutral"),
}
NAMED = 10  # speakers that a caveat names
FOUR = {"A", "S", "H", "N"}  # consensus codes of the four


def prepare(source: Path, seed: int, task: str = "msp_podcast", secondary: float = 0.0) -> Prepared:
    """Rows in the corpus's own splits (Test1 is `test`). `seed` is not used.

    A speaker that the release lists in two splits is reported by name, and its rows are kept: the corpus's partition is
    a contract with its other users.

    Args:
        source: the corpus.
        task: `msp_podcast` (eight classes), `msp_podcast_9` (with `other`) or `msp_podcast_4` (anger, sadness, happiness,
            neutral: turns with one of these as their plurality, as the literature compares them).
        secondary: share of a rater's vote that the secondary choices get, 0 to below 1.

    Raises:
        UserError: a file is missing or not understood, or an option is wrong; the message names it.
    """
    if task not in LABELS:
        raise UserError(f"--task {task}: use one of {', '.join(LABELS)}")
    if not 0 <= secondary < 1:
        raise UserError(f"--secondary is {secondary}; use 0 to below 1")
    folder = need_file(source, *LABEL_FOLDERS)
    turns, moved = read_turns(source, folder)
    ratings, repeated = read_ratings(folder)
    if not turns.keys() & ratings.keys():
        raise UserError(f"{folder}: no turn of the consensus labels has a rating in the detailed labels")
    audio_folder = need_file(source, "Audios", "Audio", "audios")
    present = {entry.name for entry in os.scandir(audio_folder)}
    transcripts = source / "Transcripts"
    written = {entry.name for entry in os.scandir(transcripts)} if transcripts.is_dir() else set()

    left_out: Counter[str] = Counter(
        {
            "turns without a sound file": len(turns.keys() - present),
            "turns with ratings that no consensus label lists": len(ratings.keys() - turns.keys()),
            "sound files that no label file lists": len(
                {name for name in present if name.endswith(".wav")} - turns.keys()
            ),
            "ratings that a later one of the same rater and turn replaced": repeated,
        }
    )
    names = [name for name in turns if name in present]
    if task == "msp_podcast_4":
        kept = [name for name in names if turns[name].code in FOUR or name not in ratings]
        left_out["turns whose plurality is not one of the four classes"] = len(names) - len(kept)
        names = kept
    durations = sound_durations([audio_folder / name for name in names])
    rows: list[Row] = []
    for name, duration in zip(names, durations, strict=True):
        stem, turn, mine = Path(name).stem, turns[name], ratings.get(name, [])
        votes = to_votes(mine, LABELS[task], secondary, left_out, name)
        split = turn.split
        if not votes and split != "test3":
            left_out["turns without a vote for a label (kept for prediction only)"] += 1
            split = "predict"
        text = {}
        if f"{stem}.txt" in written:
            text = {
                "transcript": (transcripts / f"{stem}.txt").read_text(encoding="utf-8-sig", errors="replace").strip()
            }
        audio = Audio(f"{audio_folder.name}/{name}", 0.0, duration)
        rows.append(Row(stem, task, split, turn.speaker, audio, text, votes, _extra(turn, mine)))
    caveat = _speaker_caveat([row for row in rows if row.votes])
    if moved:
        caveat += (
            f" Turns that the partition file puts into another split than the labels, whose split is used: {moved}."
        )
    return Prepared(rows, left_out, caveat, SOURCES["msp_podcast"].licence)


def to_votes(
    ratings: Sequence[Rating], labels: Sequence[str], secondary: float, left_out: Counter[str], name: str
) -> dict[str, float]:
    """Votes of a turn in the order of `labels`; what goes to no label is counted in `left_out`, under its name.

    >>> rated = [Rating("a", "Happy", "Happy,Annoyed", None, None, None), Rating("b", "Other-shy", "", None, None, None)]
    >>> counted = Counter()
    >>> to_votes(rated, LABELS["msp_podcast"], 0.5, counted, "turn"), dict(counted)
    ({'anger': 0.25, 'happiness': 0.75}, {'votes for other': 1})

    Raises:
        UserError: a primary choice that MSP-Podcast does not have.
    """
    mass: Counter[str] = Counter()
    for rating in ratings:
        primary = rating.primary.split("-")[0].strip().capitalize()
        if primary not in CLASSES:
            raise UserError(
                f"{name}: {rating.worker}'s primary emotion {rating.primary!r} is none of {', '.join(CLASSES)}"
            )
        others = rating.secondaries if secondary else []
        mass[CLASSES[primary]] += 1 - secondary if others else 1  # type: ignore[assignment]
        for choice in others:
            choice = choice.split("-")[0].strip().capitalize()
            if choice not in SECONDARY:
                left_out[f"secondary choices {choice!r}, which are not MSP-Podcast's (counted as other)"] += 1
            mass[CLASSES.get(NUANCES.get(choice, choice), "other")] += secondary / len(others)  # type: ignore[assignment]
    for label in mass.keys() - set(labels):
        left_out[f"votes for {label}"] += mass[label]
    return {label: mass[label] for label in labels if mass[label]}


def _extra(turn: Turn, ratings: Sequence[Rating]) -> dict[str, Any]:
    """Consensus code, gender, and each attribute's mean as the release states it and every rater's own value."""
    means = {name: getattr(turn, name) for name in ATTRIBUTES}
    raters = {name: [getattr(rating, name) for rating in ratings] for name in ATTRIBUTES}
    return {"consensus": turn.code, "gender": turn.gender, **means, "raters": raters}


def _speaker_caveat(rows: Sequence[Row]) -> str:
    unknown = sum(row.speaker is None for row in rows)
    names = shared_speakers(rows)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    shared = ", ".join(names[:NAMED]) + more if names else "none"
    return f"Speakers in train and in another split: {shared}; turns of unknown speakers: {unknown}."
