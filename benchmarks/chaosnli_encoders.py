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
from scipy.special import softmax

from shala_audio.distribution import Floats, jsd, kl
from shala_audio.evaluation.calibration import fit
from shala_audio.evaluation.metrics import all_measures
from shala_audio.manifest import Row, read_manifest
from shala_audio.task import load_task
from shala_audio.votes import human_distributions

LABELS = load_task("chaosnli").label_names


def known(manifest: str, split: str, stated: dict[str, Floats]) -> tuple[list[Row], Floats]:
    """Rows of a split that an encoder has answered, and its distributions."""
    rows = [row for row in read_manifest(manifest, split) if row.id in stated]
    return rows, np.array([stated[row.id] for row in rows])


def main(predictions: Path, manifests: list[str]) -> None:
    """Write one line a training and part of the corpus."""
    found: dict[tuple[str, int], dict[str, Floats]] = defaultdict(dict)
    for line in predictions.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        found[item["model"], item["seed"]][item["uid"]] = softmax(item["logits"])
    out = csv.writer(sys.stdout, lineterminator="\n")
    measures = ("accuracy", "jsd", "kl", "temperature", "jsd_with_temperature", "kl_with_temperature")
    out.writerow(["part", "model", "seed", "n", *measures])
    for manifest in manifests:
        for (model, seed), stated in sorted(found.items()):
            dev, test = known(manifest, "dev", stated), known(manifest, "test", stated)
            if not dev[0] or not test[0]:
                continue
            raters = human_distributions(test[0], LABELS)
            calibration = fit("temperature_jsd", dev[1], human_distributions(dev[0], LABELS), LABELS)
            before, after = ([d(raters, said).mean() for d in (jsd, kl)] for said in (test[1], calibration(test[1])))
            part = test[0][0].extra["part"]
            accuracy = all_measures(raters, test[1], 0)["accuracy"]["value"]  # which no temperature changes
            values = [accuracy, *before, 1 / calibration.weight[0, 0], *after]
            out.writerow([part, model, seed, len(test[0]), *(f"{value:.3f}" for value in values)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
