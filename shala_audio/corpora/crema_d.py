"""CREMA-D: 91 actors speak 12 sentences in 6 emotions; crowd listeners voted (DOI 10.1109/TAFFC.2014.2336244).

Votes are those on sound alone. In `processedResults/tabulatedVotes.csv` the first digit of the row name is what was
presented: 1 sound, 2 face, 3 both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from shala_audio.audio.containers import SUFFIXES
from shala_audio.corpora.prepare import SOURCES, Prepared, as_mapping, need_file, sound_duration
from shala_audio.corpora.splits import SHARES, fold_split, split_by_group
from shala_audio.corpora.tables import csv_records
from shala_audio.errors import UserError
from shala_audio.manifest import Audio, Row

TASK = "crema_d"
COLUMNS = {"A": "anger", "D": "disgust", "F": "fear", "H": "happy", "N": "neutral", "S": "sad"}
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}


EMO_SUPERB = (1001, 1019, 1037, 1055, 1073, 1092)  # where each of its five blocks of speakers begins, and the end


def prepare(source: Path, seed: int, fold: int | None = None, split: str | None = None) -> Prepared:
    """Rows with votes on sound alone, split by speaker within each sex.

    Args:
        source: the official repository's folder (`AudioWAV/`, `processedResults/`, `VideoDemographics.csv`).
        seed: of the split.
        fold: of the cross-validation over the speakers that `VideoDemographics.csv` lists, 0 to 4; None for one split.
        split: "emo_superb" for the speaker folds of EMO-SUPERB (arXiv 2402.13018): in fold 0, speakers 1001 to 1018 are the test
            split and 1019 to 1036 dev; in fold 1 those are test and the next are dev, and so on. None for ours.
    """
    if split not in (None, "emo_superb"):
        raise UserError(f"--split is {split!r}; use emo_superb, or leave it out")
    if split and fold is None:
        raise UserError(f"--split {split}: has five folds; name one with --fold")

    votes_file = need_file(source, "processedResults/tabulatedVotes.csv")
    sex = {}
    for where, record in csv_records(need_file(source, "VideoDemographics.csv")):
        try:
            sex[record["ActorID"]] = record["Sex"]
        except KeyError as error:
            raise UserError(f"{where}: has no column {error}") from None
    sounds = need_file(source, "AudioWAV")
    present = {path.stem: path.name for path in sorted(sounds.iterdir()) if path.suffix.lower() in SUFFIXES}

    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for where, record in csv_records(votes_file):
        try:
            name = record["fileName"]
            votes = as_mapping(list(COLUMNS.values()), [int(record[column]) for column in COLUMNS])
            presentation = record[""][0]
            speaker, sentence, intended, level = name.split("_")
        except (KeyError, ValueError, IndexError) as error:
            raise UserError(f"{where}: not a row of votes ({error!r})") from None
        if presentation != "1":
            left_out["votes on the face or on face and voice"] += 1
        elif name not in present:
            left_out["clips without a sound file"] += 1
        elif not votes:
            left_out["clips without a vote"] += 1
        else:
            extra = {"intended": intended, "level": level, "sex": sex.get(speaker, "Unknown")}
            text = {"transcript": SENTENCES[sentence]} if sentence in SENTENCES else {}
            audio = Audio(f"AudioWAV/{present[name]}", 0.0, sound_duration(sounds / present[name]))
            rows.append(Row(name, TASK, "train", speaker, audio, text, votes, extra))
    speakers = [str(row.speaker) for row in rows]
    if split and fold is not None:
        split_of = {speaker: _emo_superb(int(speaker), fold) for speaker in speakers}
    elif fold is None:
        split_of = split_by_group(speakers, SHARES, seed, strata=sex)
    else:
        # All actors make the folds, also those whose clips are not here: a part of the corpus has the folds of the whole.
        split_of = fold_split(speakers, fold, seed, 1 / 8, sex, members=sorted({*sex, *speakers}))
    ours = "our split is" if fold is None else f"this is fold {fold} of {'EMO-SUPERB' if split else 'our five'},"
    return Prepared(
        [replace(row, split=split_of[str(row.speaker)]) for row in rows],
        left_out,
        caveat=f"CREMA-D is acted; {ours} by speaker{'' if split else ' within each sex'}, in splits.json.",
        licence=SOURCES["crema_d"].licence,
    )


def _emo_superb(speaker: int, fold: int) -> str:
    if not 0 <= fold < len(EMO_SUPERB) - 1:
        raise UserError(f"--fold is {fold}; use 0 to {len(EMO_SUPERB) - 2}")
    block = sum(speaker >= first for first in EMO_SUPERB[1:-1])
    return "test" if block == fold else "dev" if block == (fold + 1) % (len(EMO_SUPERB) - 1) else "train"
