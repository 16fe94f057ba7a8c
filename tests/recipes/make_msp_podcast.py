"""Make a corpus in MSP-Podcast's exact layout out of the synthetic corpus.

python -m tests.recipes.make_msp_podcast FOLDER [TURNS]
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import soundfile

from shala_audio.data.synthesis import SAMPLE_RATE, Voice, speak

CHOICES = ("Angry", "Happy", "Sad", "Neutral", "Surprise", "Fear", "Disgust", "Contempt")
CODES = dict(zip(CHOICES, "AHSNUFDC", strict=True))
POINTS = np.array(
    [[0.8, -0.5], [0.6, 0.7], [-0.6, -0.6], [-0.5, 0.3], [0.9, 0.2], [0.5, -0.9], [0.1, -0.7], [0.0, -0.4]]
)


def make_msp_podcast(
    root: Path, turns: int = 120, seed: int = 0, label_folder: str = "Labels", consensus: str = "consensus"
) -> None:
    """Write Audios/, Labels/ (consensus and detailed CSV), Transcripts/, Partition.txt and Speaker_ids.txt.

    Five to seven workers hear each turn's latent arousal and valence with noise and name the nearest emotion; now and
    then one answers `Other-<text>`. One listed turn has no sound file, and one speaker is `Unknown`, as in the corpus.
    """
    rng = np.random.default_rng(seed)
    for folder in ("Audios", label_folder, "Transcripts", "ForceAligned"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    voices = [Voice.draw(rng) for _ in range(12)]
    split_of = ["Train"] * 7 + ["Development"] * 2 + ["Test1"] * 2 + ["Test2"]
    consensus_rows, detailed_rows, partition = [], [], []
    for index in range(turns):
        speaker = index % len(voices)
        arousal, valence = rng.uniform(-1, 1, size=2)
        name = f"MSP-PODCAST_{speaker:04d}_{index:04d}.wav"
        primaries = []
        for _ in range(int(rng.integers(5, 8))):
            heard = np.array([arousal, valence]) + 0.4 * rng.standard_normal(2)
            choice = CHOICES[int(np.linalg.norm(POINTS - heard, axis=1).argmin())]
            if rng.random() < 0.05:
                choice = "Other-curious"
            primaries.append(choice)
            a, v, d = (int(x) for x in np.clip(np.round(4 + 3 * np.array([*heard, heard[0]])), 1, 7))
            worker = f"WORKER{rng.integers(10**7, 10**8)}"
            detail = f"{worker}; {choice}; {choice},Excited; A:{a:.6f}; V:{v:.6f}; D:{d:.6f};"
            detailed_rows.append([name, detail])
        counts = {choice: primaries.count(choice) for choice in set(primaries)}
        top = [choice for choice, count in counts.items() if count == max(counts.values())]
        code = "X" if len(top) > 1 else CODES.get(top[0], "O")
        mean = (4 + 3 * np.array([arousal, valence, arousal])).round(3)
        known = str(speaker) if speaker else "Unknown"
        consensus_rows.append([name, code, *mean, known, "Female" if speaker % 2 else "Male", split_of[speaker]])
        partition.append(f"{split_of[speaker]}; {name}")
        if index != turns - 1:  # the last turn is listed, but its sound does not exist
            soundfile.write(root / "Audios" / name, speak(voices[speaker], arousal, valence, rng), SAMPLE_RATE)
        (root / "Transcripts" / f"{Path(name).stem}.txt").write_text("um so that is what we did\n")
    with open(root / label_folder / f"labels_{consensus}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set"])
        writer.writerows(consensus_rows)
    with open(root / label_folder / "labels_detailed.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["FileName", "EmoDetail"])
        writer.writerows(detailed_rows)
    (root / "Partition.txt").write_text("\n".join(partition) + "\n")
    (root / "Speaker_ids.txt").write_text("".join(f"{row[0]}; {row[5]}\n" for row in consensus_rows))


if __name__ == "__main__":
    make_msp_podcast(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 120)
