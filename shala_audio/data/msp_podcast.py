"""MSP-Podcast: turns of podcasts, each judged by five raters or more (DOI 10.1109/TAFFC.2017.2736999).

Read from the consensus and the detailed CSV of releases 1.7 to 1.12; the folder and file spellings of all of them are
tried. Votes are the raters' primary choices. Turns without a plurality ("X") are kept: they are the ambiguous ones.
A rater's `Other-<text>` is no label of the task: it is counted and left out of the votes.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

from shala_audio.data.prepare import Prepared, need_file, sound_duration
from shala_audio.data.rows import Audio, Row
from shala_audio.errors import UserError

TASK = "msp_podcast"
LABEL_FOLDERS = ("Labels", "labels", "label")
CONSENSUS = ("labels_consensus.csv", "labels_concensus.csv")
SPLITS = {
    "Train": "train",
    "Development": "dev",
    "Validation": "dev",
    "Test1": "test",
    "Test2": "test2",
    "Test3": "test3",
}
PRIMARY = {
    "Angry": "anger",
    "Sad": "sadness",
    "Happy": "happiness",
    "Surprise": "surprise",
    "Fear": "fear",
    "Disgust": "disgust",
    "Contempt": "contempt",
    "Neutral": "neutral",
}


def prepare(source: Path, seed: int) -> Prepared:
    """Rows in the corpus's own splits (Test1 is `test`). `seed` is not used.

    A speaker that the release lists in two splits is reported by name in the summary, and its rows are kept: the
    corpus's partition is a contract with its other users.
    """
    folder = need_file(source, *LABEL_FOLDERS)
    votes, left_out = read_detailed(need_file(folder, "labels_detailed.csv"))
    audio_folder = need_file(source, "Audios", "Audio", "audios")
    transcripts = source / "Transcripts"

    rows: list[Row] = []
    consensus = need_file(folder, *CONSENSUS)
    with open(consensus, newline="", encoding="utf-8-sig") as file:
        for number, record in enumerate(csv.DictReader(file), start=2):
            try:
                name, split = record["FileName"].strip(), SPLITS[record["Split_Set"].strip()]
                speaker = record["SpkrID"].strip()
                extra = {
                    "consensus": record["EmoClass"].strip(),
                    "gender": record.get("Gender", "Unknown").strip(),
                    "arousal": float(record["EmoAct"]) if record["EmoAct"] else None,
                    "valence": float(record["EmoVal"]) if record["EmoVal"] else None,
                    "dominance": float(record["EmoDom"]) if record["EmoDom"] else None,
                }
            except (KeyError, ValueError, AttributeError) as error:
                raise UserError(f"{consensus}:{number}: not a row of labels_consensus.csv ({error!r})") from None
            if not (audio_folder / name).is_file():
                left_out["turns without a sound file"] += 1
                continue
            transcript = transcripts / f"{Path(name).stem}.txt"
            text = {}
            if transcript.is_file():
                text = {"transcript": transcript.read_text(encoding="utf-8", errors="replace").strip()}
            audio = Audio(f"{audio_folder.name}/{name}", 0.0, sound_duration(audio_folder / name))
            known = None if speaker in ("", "Unknown") else speaker
            rows.append(Row(Path(name).stem, TASK, split, known, audio, text, votes.get(name, {}), extra))
    judged = [row for row in rows if row.votes]
    left_out["turns without a primary vote for a label (kept for prediction only)"] += len(rows) - len(judged)
    rows = [row if row.votes or row.split == "test3" else replace(row, split="predict") for row in rows]
    return Prepared(
        rows,
        left_out,
        caveat=_speaker_caveat(judged),
        licence="MSP-Podcast academic licence: the corpus must not be passed on",
    )


def read_detailed(path: Path) -> tuple[dict[str, dict[str, int]], Counter[str]]:
    """Primary votes of every turn from `labels_detailed.csv`, and what was left out by reason.

    Each `EmoDetail` is `WORKER<digits>; primary; secondary,...; A:x; V:x; D:x;`.
    """
    votes: dict[str, dict[str, int]] = {}
    left_out: Counter[str] = Counter()
    with open(path, newline="", encoding="utf-8-sig") as file:
        for number, record in enumerate(csv.DictReader(file), start=2):
            try:
                name = record["FileName"].strip()
                primary = record["EmoDetail"].split(";")[1].strip()
            except (KeyError, IndexError, AttributeError):
                raise UserError(
                    f"{path}:{number}: FileName and `worker; primary; ...` in EmoDetail are needed"
                ) from None
            if primary.startswith("Other"):
                left_out["votes for Other"] += 1
            elif primary in PRIMARY:
                counts = votes.setdefault(name, {})
                counts[PRIMARY[primary]] = counts.get(PRIMARY[primary], 0) + 1
            else:
                raise UserError(f"{path}:{number}: unknown primary emotion {primary!r}")
    return votes, left_out


def _speaker_caveat(rows: list[Row]) -> str:
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row.speaker is not None:
            splits.setdefault(row.speaker, set()).add(row.split)
    shared = sorted(speaker for speaker, found in splits.items() if "train" in found and len(found) > 1)
    unknown = sum(row.speaker is None for row in rows)
    return (
        f"Speakers in train and in another split: {', '.join(shared) or 'none'}; turns of unknown speakers: {unknown}."
    )
