"""Time and memory of `prepare` and `validate` on synthetic corpora in MSP-Podcast's layout.

First 10,000 clips of 3 s, prepared and validated; then as many turns as release 2.0 has (264,705 with 1.5 million ratings),
prepared with empty sound files. Both have every rater's rating in the form of 2.0.

    python -m benchmarks.msp_podcast
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from shala_audio.audio.io import SAMPLE_RATE
from shala_audio.corpora.msp_podcast import Rating, Turn
from tests.recipes.make_msp_podcast import CHOICES, FORMS, consensus_code, write_labels

TURNS, RATINGS = 264_705, 1_500_000
CLIPS, SECONDS = 10_000, 3


def write_corpus(root: Path, count: int, ratings_in_all: int, sound: bool) -> None:
    rng = np.random.default_rng(0)
    counts = np.full(count, 5)
    counts[rng.permutation(count)[: ratings_in_all - 5 * count]] += 1
    splits = rng.choice(["train", "dev", "test", "test2"], count, p=[0.55, 0.15, 0.2, 0.1])
    noise = (0.1 * rng.standard_normal(SAMPLE_RATE * (SECONDS + 1))).astype(np.float32)
    turns: dict[str, Turn] = {}
    ratings: dict[str, list[Rating]] = {}
    (root / "Audios").mkdir()
    for index in range(count):
        name = f"MSP-PODCAST_{index // 100:04d}_{index % 100:04d}.wav"
        if sound:
            at = int(rng.integers(SAMPLE_RATE))
            soundfile.write(root / "Audios" / name, noise[at : at + SECONDS * SAMPLE_RATE], SAMPLE_RATE)
        else:
            (root / "Audios" / name).touch()
        workers = rng.choice(15_000, int(counts[index]), replace=False).tolist()
        choices = [CHOICES[c] for c in rng.integers(0, len(CHOICES), len(workers))]
        values = rng.integers(1, 8, (len(workers), 3)).tolist()
        ratings[name] = [
            Rating(f"WORKER{worker:08d}", choice, f"{choice},Excited", *given)
            for worker, choice, given in zip(workers, choices, values, strict=True)
        ]
        turns[name] = Turn(str(splits[index]), consensus_code(choices), 4.0, 4.0, 4.0, str(index % 2_000), "Male")
    write_labels(root, turns, ratings, FORMS["2.0"])


def timed(*arguments: str) -> str:
    """Run a command of ours; its seconds, and the largest memory of any such command so far."""
    start = time.perf_counter()
    subprocess.run([str(Path(sys.executable).parent / "shala-audio"), *arguments], check=True)
    seconds = time.perf_counter() - start
    return f"{seconds:.0f} s, {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MB"


def main() -> None:
    for count, ratings, sound in ((CLIPS, 5 * CLIPS, True), (TURNS, RATINGS, False)):
        with tempfile.TemporaryDirectory() as folder:
            corpus, data = Path(folder, "corpus"), Path(folder, "data")
            corpus.mkdir()
            write_corpus(corpus, count, ratings, sound)
            found = [timed("prepare", "msp_podcast", "--source", str(corpus), "--out", str(data))]
            if sound:
                found.append(timed("validate", str(data / "manifest.jsonl"), "--audio-root", str(corpus)))
            print(f"{count:,} turns, {ratings:,} ratings: {'; '.join(found)}")


if __name__ == "__main__":
    main()
