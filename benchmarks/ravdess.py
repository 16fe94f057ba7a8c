"""Speech models on recordings of another corpus: acted emotions of RAVDESS (DOI 10.1371/journal.pone.0196391).

Neutral and calm count as neutral; surprise, which CREMA-D does not have, is left out. The answer's first label is compared
with the emotion that the actor was asked for: there are no listeners' votes. Every clip is also judged as a telephone carries
it (8 kHz, A-law). Beside the models stands the linear classifier on the same frozen encoder, trained on the same CREMA-D rows
(layer and penalty chosen on CREMA-D's dev split).

    python -m benchmarks.ravdess --source RAVDESS --model default --manifest recipes/crema_d/data/seed0/manifest.jsonl \
        --features recipes/crema_d/features/speech
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shala_audio.audio.augment import over_telephone
from shala_audio.audio.encoders import load_encoder
from shala_audio.audio.features import FeatureStore
from shala_audio.audio.io import SAMPLE_RATE, Samples, read_sound, set_loudness
from shala_audio.baselines.linear import PooledClips, fit, train_linear
from shala_audio.distribution import Floats
from shala_audio.evaluation.stats import mean_interval
from shala_audio.inference import default
from shala_audio.inference.predictor import Predictor
from shala_audio.manifest import read_manifest
from shala_audio.models.pretrained import locate
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


def clips(source: Path, labels: tuple[str, ...]) -> tuple[list[Samples], Floats, list[str]]:
    """Sound of every clip that has one of the labels, the label's number (clips,), and the actor."""
    with open(source / "clips.csv", newline="", encoding="utf-8") as file:
        records = [record for record in csv.DictReader(file) if record["emotion"] in EMOTIONS]
    wanted = np.array([labels.index(EMOTIONS[record["emotion"]]) for record in records])
    return [read_sound(source / record["file"]) for record in records], wanted, [record["actor"] for record in records]


def linear(manifest: Path, features: Path, predictor: Predictor, sounds: Sequence[Sequence[Samples]]) -> list[Floats]:
    """(clips, K) of the linear classifier that dev chooses, for each list of clips."""
    store, task = FeatureStore(features), load_task("crema_d")
    rows = read_manifest(manifest)
    pooled_of = PooledClips(store, store.encoder["layers"])
    fitted = train_linear(rows, pooled_of, task)
    layer = store.encoder["layers"].index(fitted.chosen["layer"])
    train = [row for row in rows if row.split == "train" and row.votes]
    x = pooled_of([row.id for row in train])[:, layer]
    mean, spread = x.mean(dim=0), x.std(dim=0) + 1e-6
    target = torch.tensor(human_distributions(train, task.label_names), dtype=torch.float32)
    weight, bias = fit((x - mean) / spread, target, fitted.chosen["penalty"])
    config = predictor.model.model_config  # the model's own encoder has its trained layers in it
    encoder = load_encoder(
        locate(str(config.encoder), sha256=predictor.model.encoder_sha256), store.encoder["layers"], predictor.device
    )
    loudness = config.loudness_db
    found = []
    for members in sounds:
        pooled = []
        for sound in members:
            sound = sound if loudness is None else set_loudness(sound, loudness)
            states = encoder.encode([sound])[0][layer]
            pooled.append(torch.cat([states.mean(dim=0), states.std(dim=0, correction=0)]))
        found.append((((torch.stack(pooled) - mean) / spread) @ weight.T + bias).double().softmax(dim=-1).numpy())
    return found


def measures(wanted: Floats, probs: Floats, labels: Sequence[str], actors: Sequence[str]) -> dict[str, Any]:
    """Accuracy and recall of each label, and their mean (UAR), with an interval over actors of the accuracy."""
    right = probs.argmax(axis=1) == wanted
    recall = {label: float(right[wanted == number].mean()) for number, label in enumerate(labels)}
    return {
        "n": len(wanted),
        "uar": float(np.mean(list(recall.values()))),
        "accuracy": {"value": float(right.mean()), **mean_interval(right.astype(float), actors)},
        "recall": recall,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--features", type=Path)
    given = parser.parse_args()
    predictor = Predictor.from_pretrained(default.part(sound=True) if given.model == "default" else given.model)
    labels = predictor.task.label_names
    studio, wanted, actors = clips(given.source, labels)
    ways = {"16 kHz": studio, "8 kHz A-law": [over_telephone(sound, band=None) for sound in studio]}
    systems = {
        ("model", way): np.stack(
            [answer.probs for answer in predictor.predict_batch([(s, SAMPLE_RATE) for s in sounds])]
        )
        for way, sounds in ways.items()
    }
    if given.manifest and given.features:
        for way, probs in zip(
            ways, linear(given.manifest, given.features, predictor, list(ways.values())), strict=True
        ):
            systems["linear", way] = probs
    found: dict[str, dict[str, Any]] = {}
    for (name, way), probs in systems.items():
        mine = measures(wanted, probs, labels, actors)
        found.setdefault(name, {})[way] = mine
        shown = ", ".join(f"{label} {value:.2f}" for label, value in mine["recall"].items())
        print(
            f"{name}, {way}: UAR {mine['uar']:.3f}, accuracy {mine['accuracy']['value']:.3f}; recall: {shown}; {mine['n']} clips"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
