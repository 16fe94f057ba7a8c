"""Score 265,000 predictions of eight labels, as many as MSP-Podcast 2.0 has turns, with 1,000 bootstrap draws.

By the command itself: measures, intervals, the constant prior and the agreement bound, files read and written. The second line is a
loop over SciPy's `jensenshannon`, one row at a time, for the mean distance alone, without an interval.

    python -m benchmarks.scoring
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from shala_audio.distribution import Floats
from shala_audio.task import load_task

ROWS, RATERS = 265_000, 5


def write_corpus(folder: Path) -> tuple[Floats, Floats]:
    """A manifest and predictions in `folder`; the human and the predicted distributions (rows, K)."""
    rng = np.random.default_rng(0)
    labels = load_task("msp_podcast").label_names
    truth = rng.dirichlet(np.full(len(labels), 0.5), size=ROWS)
    votes, predicted = rng.multinomial(RATERS, truth), rng.dirichlet(np.ones(len(labels)), size=ROWS)
    with open(folder / "manifest.jsonl", "w") as manifest, open(folder / "predictions.jsonl", "w") as predictions:
        for index, (counts, probs) in enumerate(zip(votes.tolist(), predicted.tolist(), strict=True)):
            row = {"id": f"u{index}", "task": "msp_podcast", "split": "test" if index % 10 else "train"}
            row["speaker"] = f"s{index % 2000}"
            named = {label: count for label, count in zip(labels, counts, strict=True) if count}
            manifest.write(json.dumps({**row, "audio": {"path": "a.wav"}, "votes": named}) + "\n")
            predictions.write(json.dumps({"id": row["id"], "probs": dict(zip(labels, probs, strict=True))}) + "\n")
    return votes / RATERS, predicted


def main() -> None:
    from scipy.spatial.distance import jensenshannon

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        human, predicted = write_corpus(folder)
        files = folder / "predictions.jsonl", folder / "manifest.jsonl"
        command = ["evaluate", "score", *files, "--out", folder / "score.json"]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "shala_audio", *map(str, command)], check=True, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        found = json.loads((folder / "score.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    print(f"{ROWS:,} rows, all measures, 1,000 draws: {seconds:.1f} s, peak {peak:,.0f} MB (aims: 60 s, 2,048 MB)")
    start = time.perf_counter()
    distances = [jensenshannon(p, q, base=2) for p, q in zip(human, predicted, strict=True)]
    print(f"SciPy's distance alone, row by row, no interval: {time.perf_counter() - start:.1f} s")
    assert abs(float(np.mean(distances)) - found["jsd"]["value"]) < 1e-9
    assert seconds < 60 and peak < 2048, "an aim is missed"


if __name__ == "__main__":
    main()
