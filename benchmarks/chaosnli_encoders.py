"""Encoders that were fine-tuned on all of SNLI or MNLI, on our test rows of ChaosNLI; as they are, and with a temperature.

python benchmarks/chaosnli_encoders.py predictions.jsonl MANIFEST... > benchmarks/chaosnli_encoders.csv

`predictions.jsonl` holds `uid`, `model`, `seed` and `logits` of entailment, neutral and contradiction. The temperature of each
training is fitted to jsd on our dev rows, as those of our own systems are.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from shala_audio.distribution import Floats, jsd, kl
from shala_audio.manifest import Row, read_manifest
from shala_audio.task import load_task
from shala_audio.votes import human_distributions

LABELS = load_task("chaosnli").label_names


def known(manifest: str, split: str, logits: dict[str, Floats]) -> tuple[list[Row], Floats]:
    """Rows of a split that there are logits of, and these."""
    rows = [row for row in read_manifest(manifest, split) if row.id in logits]
    return rows, np.array([logits[row.id] for row in rows])


def main(predictions: Path, manifests: list[str]) -> None:
    """Write one line a training and part of the corpus."""
    found: dict[tuple[str, int], dict[str, Floats]] = defaultdict(dict)
    for line in predictions.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        found[item["model"], item["seed"]][item["uid"]] = np.array(item["logits"])
    out = csv.writer(sys.stdout, lineterminator="\n")
    columns = ["part", "model", "seed", "n", "jsd", "kl", "temperature", "jsd_with_temperature", "kl_with_temperature"]
    out.writerow(columns)
    for manifest in manifests:
        for (model, seed), logits in sorted(found.items()):
            dev, test = known(manifest, "dev", logits), known(manifest, "test", logits)
            if not dev[0] or not test[0]:
                continue
            people, raters = human_distributions(dev[0], LABELS), human_distributions(test[0], LABELS)

            def distance(log_t: float, dev: Floats = dev[1], people: Floats = people) -> float:
                return float(jsd(people, softmax(dev / np.exp(log_t), axis=1)).mean())

            temperature = float(np.exp(minimize_scalar(distance, bounds=(-1, 3), method="bounded").x))
            numbers = []
            for t in (1.0, temperature):
                stated = softmax(test[1] / t, axis=1)
                numbers += [jsd(raters, stated).mean(), kl(raters, stated).mean()]
            part = test[0][0].extra["part"]
            values = [*numbers[:2], temperature, *numbers[2:]]
            out.writerow([part, model, seed, len(test[0]), *(f"{value:.3f}" for value in values)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
