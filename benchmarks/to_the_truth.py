"""Distance to the *true* distributions, which `mini` alone knows: every system of several seeds against one of them.

For each seed's experiment, the mean jsd of a system's predictions to the true distributions of the test rows, over all rows
and over the third that listeners truly disagree about most. Intervals: Student's t over the seeds' paired differences.

    for seed in 0 1 2 3 4; do recipes/mini/run.sh --method all --seed $seed --stop_stage 6; done
    python -m benchmarks.to_the_truth recipes/mini/exp/all_label_token_seed{0..4} \
        --data recipes/mini/data/seed{0..4} --out exp/truth.csv
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from shala_audio.distribution import entropy, jsd
from shala_audio.evaluation.predictions import read_predictions
from shala_audio.evaluation.stats import jackknife_interval
from shala_audio.io import write_text
from shala_audio.manifest import Row, read_manifest
from shala_audio.task import load_task

Distances = tuple[float, float]  # over all rows, and over the most ambiguous third
FILES = {"": "predictions.jsonl", ", with T": "predictions_temperature_jsd.jsonl"}


def to_the_truth(predictions: Path, rows: Mapping[str, Row]) -> Distances:
    """Mean jsd to the true distributions: over all predicted rows, and over the third whose truth has most entropy."""
    labels = load_task("mini").label_names
    identities, said = read_predictions(predictions, labels)
    truth = np.array([[rows[identity].extra["true"][label] for label in labels] for identity in identities])
    distances, level = jsd(truth, said), entropy(truth)
    return float(distances.mean()), float(distances[level >= np.quantile(level, 2 / 3)].mean())


def difference(values: Sequence[float], plain: Sequence[float]) -> tuple[float, float, float]:
    """Mean paired difference and its 95 % interval by Student's t over the seeds.

    >>> mean, low, high = difference([0.2, 0.3, 0.25], [0.3, 0.38, 0.36])
    >>> round(mean, 3), low < mean < high < 0
    (-0.097, True)
    """
    gaps = np.array(values) - np.array(plain)
    low, high = jackknife_interval(gaps, np.arange(len(gaps)))  # of single values, Student's
    assert low is not None and high is not None, "of one seed alone nothing can be said"
    return float(gaps.mean()), low, high


def table(found: Mapping[str, Sequence[Distances]], heading: str, reference: str) -> str:
    """In Markdown: every system's mean distances, and its paired differences to the reference."""
    lines = [
        f"| {heading} | jsd to the truth, all rows | less {reference}'s | most ambiguous third | less {reference}'s |",
        "|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        cells = []
        for values, plain in zip(zip(*runs, strict=True), zip(*found[reference], strict=True), strict=True):
            mean, low, high = difference(values, plain)
            cells += [f"{np.mean(values):.4f}", "–" if name == reference else f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def as_csv(found: Mapping[str, Sequence[Distances]], heading: str, seeds: Sequence[int]) -> str:
    """Every seed's numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([heading, "seed", "jsd_to_the_truth", "jsd_most_ambiguous_third"])
    for name, runs in found.items():
        numbers = zip(seeds, runs, strict=True)
        writer.writerows([name, seed, *(f"{value:.6f}" for value in values)] for seed, values in numbers)
    return text.getvalue()


def measured(experiments: Sequence[Path], data: Sequence[Path]) -> dict[str, list[Distances]]:
    """Distances by system and seed, of every system that all experiments have predictions of."""
    truths = [{row.id: row for row in read_manifest(folder / "manifest.jsonl")} for folder in data]
    found = {}
    for system in sorted(folder.name for folder in experiments[0].iterdir() if folder.is_dir()):
        for said, name in FILES.items():
            paths = [experiment / system / name for experiment in experiments]
            if all(path.is_file() for path in paths):
                found[system + said] = [to_the_truth(path, rows) for path, rows in zip(paths, truths, strict=True)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", type=Path, nargs="+", help="of one seed each")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folder of each one's manifest")
    parser.add_argument("--reference", default="sft_soft", help="system that the others are compared with")
    parser.add_argument("--out", type=Path, required=True, help="CSV of every seed's numbers")
    arguments = parser.parse_args()
    found = measured(arguments.experiments, arguments.data)
    write_text(arguments.out, as_csv(found, "system", range(len(arguments.experiments))))
    print(table(found, "system", arguments.reference))


if __name__ == "__main__":
    main()
