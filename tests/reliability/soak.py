"""Memory over time: of SHALA on the synthetic corpus, and of the page.

    python -m tests.reliability.soak --minutes 30

Trains with tiny random models over and over the corpus while a page of the same model answers a request after the other, and
samples the memory of both once a second. Writes docs/images/soak.png and soak.csv, and exits with 1 if memory in the last
third is more than a twentieth above that of the second.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

import shala_audio  # noqa: F401  (before torchaudio is imported)
from tests.reliability.kill_resume import ENVIRONMENT, make_stages
from tests.reliability.page_load import wav

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WORK = ("training", "page")


def sample(base: Path, seconds: float) -> list[tuple[float, float, float]]:
    """(seconds, MB of training, MB of the page), once a second."""
    stage = next(stage for stage in make_stages(base) if stage.name == "SHALA, slots")
    command = re.sub(r"--max_steps \d+", "--max_steps 1000000", stage.command).replace("{out}", str(base / "soak"))
    serving = [sys.executable, "-m", "shala_audio", "serve", str(base / "start_label_token"), "--port", "0"]
    long = command.replace("--save_steps 3", "--save_steps 50").split()
    training_command, quiet = [sys.executable, "-m", "shala_audio", *long], subprocess.DEVNULL
    found: list[tuple[float, float, float]] = []
    with (
        subprocess.Popen(training_command, stdout=quiet, stderr=quiet, env=ENVIRONMENT) as training,
        subprocess.Popen(serving, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as page,
    ):
        try:
            assert page.stderr is not None
            address = next(line for line in page.stderr if line.startswith("http://")).split()[0]
            clip = wav(2)
            began = next_sample = time.monotonic()
            watched = [psutil.Process(process.pid) for process in (training, page)]
            while time.monotonic() - began < seconds:
                answer = httpx.post(f"{address}/api/predict", files={"clip": ("a.wav", io.BytesIO(clip))}, timeout=60)
                assert answer.status_code == 200
                assert training.poll() is None, "training has ended"
                if time.monotonic() >= next_sample:
                    now = time.monotonic() - began
                    found.append((now, *(process.memory_info().rss / 1e6 for process in watched)))  # type: ignore[arg-type]
                    next_sample += 1
        finally:
            training.kill()
            page.terminate()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = np.array(sample(Path(folder), given.minutes * 60))
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    grown = False
    for column, name in enumerate(WORK, start=1):
        axes.plot(found[:, 0] / 60, found[:, column], label=name)
        used = found[:, column]
        _, second, last = np.array_split(used, 3)
        print(
            f"{name}: {second.mean():.0f} MB in the second third, {last.mean():.0f} in the last, {used.max():.0f} at most"
        )
        grown |= last.mean() > 1.05 * second.mean()
    axes.set(xlabel="minutes", ylabel="memory, MB", ylim=(0, None))
    axes.legend()
    figure.savefig(IMAGES / "soak.png", dpi=110)
    with open(IMAGES / "soak.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", *(f"{name}_mb" for name in WORK)])
        writer.writerows(np.round(found[::10], 1).tolist())
    sys.exit(int(grown))


if __name__ == "__main__":
    main()
