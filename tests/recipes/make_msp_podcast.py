"""Make a corpus in MSP-Podcast's exact layout, in any of its label forms: out of the synthetic corpus, or CREMA-D's clips.

python -m tests.recipes.make_msp_podcast FOLDER [--turns N] [--form NAME] [--crema-d FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from shala_audio.corpora import crema_d
from shala_audio.corpora.mini import SAMPLE_RATE, Voice, speak
from shala_audio.corpora.msp_podcast import Rating, Turn

CHOICES = ("Angry", "Happy", "Sad", "Neutral", "Surprise", "Fear", "Disgust", "Contempt")
CODES = {**dict(zip(CHOICES, "AHSNUFDC", strict=True)), "Other": "O"}
POINTS = np.array(
    [[0.8, -0.5], [0.6, 0.7], [-0.6, -0.6], [-0.5, 0.3], [0.9, 0.2], [0.5, -0.9], [0.1, -0.7], [0.0, -0.4]]
)
NAMES = {"train": "Train", "dev": "Development", "test": "Test1", "test2": "Test2", "test3": "Test3"}


@dataclass(frozen=True)
class Form:
    """How a release writes its labels."""

    folder: str = "Labels"
    consensus: str | None = "labels_consensus.csv"  # None: labels.txt alone
    detailed: str = "1.7"  # 1.6, 1.7, 2.0, json or txt
    dev: str = "Development"
    partition: str = "Partition.txt"


FORMS = {
    "1.6": Form("label", "labels_concensus.csv", "1.6", "Validation", "Partitions.txt"),
    "1.8": Form("Labels", "labels_concensus.csv", "1.7", "Validation"),
    "1.9": Form("labels", "labels_concensus.json", "json"),
    "1.11": Form(),
    "2.0": Form(detailed="2.0"),
    "json": Form(consensus="labels_consensus.json", detailed="json"),
    "txt": Form(consensus=None, detailed="txt", partition="Partitions.txt"),
}


def write_labels(root: Path, turns: Mapping[str, Turn], ratings: Mapping[str, Sequence[Rating]], form: Form) -> None:
    """Write the label folder, the partition and the speakers; hidden turns (code None) stand in the partition alone."""
    folder = root / form.folder
    folder.mkdir(parents=True)
    names = {**NAMES, "dev": form.dev}
    judged = {name: turn for name, turn in turns.items() if turn.code is not None}
    consensus = [
        {
            "FileName": name,
            "EmoClass": turn.code,
            "EmoAct": turn.arousal,
            "EmoVal": turn.valence,
            "EmoDom": turn.dominance,
            "SpkrID": turn.speaker or "Unknown",
            "Gender": turn.gender,
            "Split_Set": names[turn.split],
        }
        for name, turn in judged.items()
    ]
    if form.consensus is None:
        with open(folder / "labels.txt", "w", encoding="utf-8") as file:
            for name, turn in judged.items():
                file.write(f"{name}; {turn.code}; {_attributes(turn)}\n")
                file.writelines(f"{_detail(rating)}\n" for rating in ratings[name])
                file.write("\n")
    elif form.consensus.endswith(".csv"):
        _write_csv(folder / form.consensus, consensus)
    else:
        found = {row["FileName"]: {key: row[key] for key in row if key != "FileName"} for row in consensus}
        (folder / form.consensus).write_text(json.dumps(found), encoding="utf-8")
    pairs = [(name, rating) for name in judged for rating in ratings[name]]
    if form.detailed == "1.7":
        details = [{"FileName": name, "EmoDetail": _detail(rating)} for name, rating in pairs]
        _write_csv(folder / "labels_detailed.csv", details)
    elif form.detailed in ("1.6", "2.0"):
        worker = "Workers" if form.detailed == "1.6" else "WorkerID"
        details = [{"FileName": name, worker: rating.worker, **_record(rating)} for name, rating in pairs]
        _write_csv(folder / "labels_detailed.csv", details, ", " if form.detailed == "1.6" else ",")
    elif form.detailed == "json":
        by_turn = {name: {rating.worker: _record(rating) for rating in ratings[name]} for name in judged}
        (folder / "labels_detailed.json").write_text(json.dumps(by_turn), encoding="utf-8")
    (root / form.partition).write_text("".join(f"{names[turn.split]}; {name}\n" for name, turn in turns.items()))
    genders = {turn.speaker: turn.gender for turn in turns.values() if turn.speaker is not None}
    speakers = [f"Speaker_{speaker}; {gender}\n" for speaker, gender in genders.items()]
    perceived = [f"{name}; {turn.speaker or 'Unknown'}\n" for name, turn in turns.items()]
    (root / "Speaker_ids.txt").write_text("".join(speakers + perceived))


def _attributes(item: Turn | Rating) -> str:
    return f"A:{item.arousal:.6f}; V:{item.valence:.6f}; D:{item.dominance:.6f};"


def _detail(rating: Rating) -> str:
    return f"{rating.worker}; {rating.primary}; {rating.secondary}; {_attributes(rating)}"


def _record(rating: Rating) -> dict[str, Any]:
    return {
        "EmoClass_Major": rating.primary,
        "EmoClass_Second": rating.secondary,
        "EmoAct": rating.arousal,
        "EmoDom": rating.dominance,
        "EmoVal": rating.valence,
    }


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], comma: str = ",") -> None:
    lines = [comma.join(map(_quoted, values)) for values in (rows[0].keys(), *(row.values() for row in rows))]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")


def _quoted(value: Any) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([value])
    return buffer.getvalue()


def consensus_code(primaries: Sequence[str]) -> str:
    """The plurality's code; X where the first place is shared."""
    counts = {choice: primaries.count(choice) for choice in sorted(set(primaries))}
    top = [choice for choice, count in counts.items() if count == max(counts.values())]
    return "X" if len(top) > 1 else CODES[top[0].split("-")[0]]


def make_msp_podcast(root: Path, turns: int = 120, seed: int = 0, form: str = "1.11") -> None:
    """Simulated listeners of synthetic voices.

    Five to seven workers hear each turn's latent arousal and valence with noise and name the nearest emotion; now and
    then one answers `Other-<text>`. One listed turn has no sound file, and one speaker is `Unknown`, as in the corpus.
    """
    rng = np.random.default_rng(seed)
    for folder in ("Audios", "Transcripts", "ForceAligned"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    voices = [Voice.draw(rng) for _ in range(12)]
    split_of = ["train"] * 7 + ["dev"] * 2 + ["test"] * 2 + ["test2"]
    found: dict[str, Turn] = {}
    ratings: dict[str, list[Rating]] = {}
    for index in range(turns):
        speaker = index % len(voices)
        arousal, valence = rng.uniform(-1, 1, size=2)
        name = f"MSP-PODCAST_{speaker:04d}_{index:04d}.wav"
        ratings[name] = []
        for _ in range(int(rng.integers(5, 8))):
            perceived = np.array([arousal, valence]) + 0.4 * rng.standard_normal(2)
            choice = CHOICES[int(np.linalg.norm(POINTS - perceived, axis=1).argmin())]
            if rng.random() < 0.05:
                choice = "Other-curious"
            a, v, d = (int(x) for x in np.clip(np.round(4 + 3 * np.array([*perceived, perceived[0]])), 1, 7))
            worker = f"WORKER{rng.integers(10**7, 10**8)}"
            ratings[name].append(Rating(worker, choice, f"{choice},Excited", a, v, d))
        code = consensus_code([rating.primary for rating in ratings[name]])
        mean = (float(x) for x in (4 + 3 * np.array([arousal, valence, arousal])).round(3))
        known, gender = str(speaker) if speaker else None, "Female" if speaker % 2 else "Male"
        found[name] = Turn(split_of[speaker], code, *mean, known, gender if known else "Unknown")
        if index != turns - 1:  # the last turn is listed, but its sound does not exist
            soundfile.write(root / "Audios" / name, speak(voices[speaker], arousal, valence, rng), SAMPLE_RATE)
        (root / "Transcripts" / f"{Path(name).stem}.txt").write_text("um so that is what we did\n")
    write_labels(root, found, ratings, FORMS[form])


def from_crema_d(source: Path, root: Path, form: str) -> None:
    """CREMA-D's clips and its listeners' votes in MSP-Podcast's layout; attributes, which CREMA-D has none of, all say 4."""
    for folder in ("Audios", "Transcripts"):
        (root / folder).mkdir(parents=True)
    primary = {
        "anger": "Angry",
        "disgust": "Disgust",
        "fear": "Fear",
        "happy": "Happy",
        "neutral": "Neutral",
        "sad": "Sad",
    }
    turns: dict[str, Turn] = {}
    ratings: dict[str, list[Rating]] = {}
    for number, row in enumerate(crema_d.prepare(source, seed=0).rows):
        name = f"MSP-PODCAST_{row.speaker}_{number:04d}.wav"
        choices = [primary[label] for label, count in row.votes.items() for _ in range(int(count))]
        ratings[name] = [Rating(f"WORKER{index:08d}", choice, choice, 4, 4, 4) for index, choice in enumerate(choices)]
        gender = str(row.extra["sex"])
        turns[name] = Turn(row.split, consensus_code(choices), 4.0, 4.0, 4.0, row.speaker, gender)
        assert row.audio is not None
        sound = source / row.audio.path
        if sound.suffix == ".wav":
            shutil.copy(sound, root / "Audios" / name)
        else:
            soundfile.write(root / "Audios" / name, *soundfile.read(sound, dtype="int16"))
        (root / "Transcripts" / f"{Path(name).stem}.txt").write_text(row.text.get("transcript", "") + "\n")
    write_labels(root, turns, ratings, FORMS[form])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--turns", type=int, default=120)
    parser.add_argument("--form", choices=FORMS, default="1.11")
    parser.add_argument("--crema-d", type=Path)
    given = parser.parse_args()
    if given.crema_d:
        from_crema_d(given.crema_d, given.folder, given.form)
    else:
        make_msp_podcast(given.folder, given.turns, form=given.form)
