"""A speech model on recordings of another corpus: acted emotions of RAVDESS (DOI 10.1371/journal.pone.0196391).

Neutral and calm count as neutral; surprise, which CREMA-D does not have, is left out. The answer's first label is compared
with the emotion that the actor was asked for: there are no listeners' votes. Beside it stands the linear classifier on the
same frozen encoder, trained on the same CREMA-D rows (layer and penalty chosen on CREMA-D's dev split).

    python -m benchmarks.ravdess --source RAVDESS --model default --manifest recipes/crema_d/data/seed0/manifest.jsonl \
        --features recipes/crema_d/features/speech
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch

from shala_audio.audio.features import FeatureStore
from shala_audio.audio.io import read_sound
from shala_audio.baselines.linear import fit, pool, train_linear
from shala_audio.distribution import Floats
from shala_audio.evaluation.metrics import all_measures
from shala_audio.inference import default
from shala_audio.inference.predictor import Predictor
from shala_audio.manifest import read_manifest
from shala_audio.task import load_task
from shala_audio.votes import human_distributions

EMOTIONS = {
    "neutral": "neutral",
    "calm": "neutral",
    "happy": "happy",
    "sad": "sad",
    "angry": "anger",
    "fearful": "fear",
    "disgust": "disgust",
}


def clips(source: Path, labels: tuple[str, ...]) -> tuple[list[Path], Floats]:
    """Sound files, and (clips, K) the emotion of each as a distribution."""
    with open(source / "clips.csv", newline="", encoding="utf-8") as file:
        records = [record for record in csv.DictReader(file) if record["emotion"] in EMOTIONS]
    truth = np.zeros((len(records), len(labels)))
    truth[np.arange(len(records)), [labels.index(EMOTIONS[record["emotion"]]) for record in records]] = 1
    return [source / record["file"] for record in records], truth


def linear(manifest: Path, features: Path, predictor: Predictor, paths: list[Path]) -> Floats:
    """(clips, K) of the linear classifier that dev chooses."""
    store, task = FeatureStore(features), load_task("crema_d")
    rows = read_manifest(manifest)
    chosen = train_linear(rows, store, task, store.encoder["layers"])
    layer = store.encoder["layers"].index(chosen.layer)
    train = [row for row in rows if row.split == "train" and row.votes]
    x = pool([row.id for row in train], store)[:, layer]
    mean, spread = x.mean(dim=0), x.std(dim=0) + 1e-6
    target = torch.tensor(human_distributions(train, task.label_names), dtype=torch.float32)
    weight, bias = fit((x - mean) / spread, target, chosen.penalty)
    pooled = []
    for path in paths:
        states = predictor.encoder.encode([read_sound(path)])[0][layer]
        pooled.append(torch.cat([states.mean(dim=0), states.std(dim=0, correction=0)]))
    return (((torch.stack(pooled) - mean) / spread) @ weight.T + bias).double().softmax(dim=-1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--features", type=Path)
    given = parser.parse_args()
    predictor = Predictor.from_pretrained(default.part(sound=True) if given.model == "default" else given.model)
    labels = predictor.task.label_names
    paths, truth = clips(given.source, labels)
    systems = {"model": np.stack([answer.probs for answer in predictor.predict_batch(paths)])}
    if given.manifest and given.features:
        systems["linear"] = linear(given.manifest, given.features, predictor, paths)
    systems["chance"] = np.full_like(truth, 1 / len(labels))
    found = {}
    for name, probs in systems.items():
        measures = all_measures(truth, probs)
        found[name] = {key: measures[key] for key in ("n", "accuracy", "uar")}
        shown = ", ".join(
            "{} {value:.3f} [{low:.3f}, {high:.3f}]".format(key, **measures[key]) for key in ("accuracy", "uar")
        )
        print(f"{name}: {shown}, {measures['n']} clips")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
