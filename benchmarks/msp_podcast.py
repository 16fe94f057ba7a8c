"""Prepare a synthetic corpus of the size of MSP-Podcast 2.0 (264,705 turns, 1.5 million ratings, empty sound files).

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

from shala_audio.data.msp_labels import Rating, Turn
from tests.recipes.make_msp_podcast import CHOICES, FORMS, consensus_code, write_labels

TURNS, RATINGS = 264_705, 1_500_000


def write_corpus(root: Path) -> None:
    rng = np.random.default_rng(0)
    counts = np.full(TURNS, 5)
    counts[rng.permutation(TURNS)[: RATINGS - 5 * TURNS]] += 1
    splits = rng.choice(["train", "dev", "test", "test2"], TURNS, p=[0.55, 0.15, 0.2, 0.1])
    turns: dict[str, Turn] = {}
    ratings: dict[str, list[Rating]] = {}
    (root / "Audios").mkdir()
    for index in range(TURNS):
        name = f"MSP-PODCAST_{index // 100:04d}_{index % 100:04d}.wav"
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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "corpus").mkdir()
        write_corpus(root / "corpus")
        command = ["prepare", "msp_podcast", "--source", str(root / "corpus"), "--out", str(root / "data")]
        start = time.perf_counter()
        subprocess.run([str(Path(sys.executable).parent / "shala-audio"), *command], check=True)
        seconds = time.perf_counter() - start
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{TURNS:,} turns, {RATINGS:,} ratings: {seconds:.0f} s, {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
