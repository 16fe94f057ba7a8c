"""What the audio adapter is made of: projectors, encoder layers, trained layers, filter banks, the transcript beside the sound.

One audio adapter after the other on the same rows: `adapter_epochs` passes of adapter pretraining, one pass of soft-label
cross-entropy through
the language model, then the distance to the listeners on the test speakers, tokens a second of sound, and how many clips a
second pass the audio adapter forwards.

    python -m benchmarks.audio_adapters --corpus crema_d --source CREMA-D --rows 600 --out exp/adapters      # goes on where it stopped
    python -m benchmarks.audio_adapters --corpus mini --out exp/adapters
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from shala_audio.audio.encoders import load_encoder
from shala_audio.audio.features import FeatureStore, pad_features, write_features
from shala_audio.corpora import crema_d, mini
from shala_audio.corpora.prepare import write_prepared
from shala_audio.evaluation.metrics import all_measures
from shala_audio.inference.predictor import Predictor
from shala_audio.io import read_json, write_json, write_text
from shala_audio.manifest import Row, read_manifest, write_manifest
from shala_audio.models.config import load_model_config
from shala_audio.models.pretrained import locate
from shala_audio.task import load_task
from shala_audio.training.config import read_config
from shala_audio.training.run import train
from shala_audio.votes import human_distributions

# name: what differs from configs/models/speech_frozen.yaml, and what goes in
ADAPTERS: Mapping[str, tuple[dict[str, Any], str]] = {
    "stack, layers 3 to 5": ({}, "audio"),
    "conv, layers 3 to 5": ({"projector": "conv"}, "audio"),
    "qformer, layers 3 to 5": ({"projector": "qformer"}, "audio"),
    "stack, last layer": ({"encoder_layers": [6]}, "audio"),
    "stack, layers 0 to 6": ({"encoder_layers": [0, 1, 2, 3, 4, 5, 6]}, "audio"),
    "stack, filter banks": ({"encoder": "fbank", "encoder_layers": [0]}, "audio"),
    "stack, layers 4 and 5 trained": ({"encoder_trained_layers": 2, "encoder_lora_r": 16}, "audio"),
    "stack, layers 3 to 5, and the transcript": ({}, "audio+text"),
}
STEP = ["--num_train_epochs", "1", "--per_device_train_batch_size", "16", "--learning_rate", "5e-4"]
STEP += [
    "--adapter_epochs",
    "6",
    "--adapter_learning_rate",
    "1e-3",
    "--encoder_learning_rate",
    "1e-3",
    "--save_strategy",
    "no",
]


def prepare(corpus: str, source: Path | None, out: Path, rows: int | None) -> tuple[Path, Path]:
    """The manifest, with so many training rows, and the audio root."""
    manifest = out / "data" / "manifest.jsonl"
    if not manifest.is_file():
        made = mini.prepare(out / "data", 0) if corpus == "mini" else crema_d.prepare(Path(str(source)), 0)
        write_prepared(made, load_task(corpus), out / "data", 0)
        kept: list[Row] = []
        for row in read_manifest(manifest):
            if row.split != "train" or rows is None or sum(other.split == "train" for other in kept) < rows:
                kept.append(row)
        write_manifest(manifest, kept)
    return manifest, out / "data" if corpus == "mini" else Path(str(source))


def run(name: str, corpus: str, manifest: Path, root: Path, out: Path) -> dict[str, Any]:
    """Train and score one audio adapter."""
    change, modality = ADAPTERS[name]
    folder = out / name.replace(",", "").replace(" ", "_")
    base = load_model_config("speech_frozen")
    config = replace(base, **{**change, "encoder_layers": tuple(change.get("encoder_layers", base.encoder_layers))})
    write_text(folder / "model.yaml", yaml.safe_dump(config.to_dict()))
    rows = read_manifest(manifest)
    encoder = load_encoder(locate(str(config.encoder)), config.cached_layers())
    features = out / f"features_{config.encoder}_{'-'.join(map(str, config.cached_layers()))}"
    write_features(rows, root, encoder, config.encoder_identity(), features)
    given = ["--method", "warm_start", "--task", corpus, "--model", str(folder / "model.yaml"), "--modality", modality]
    given += ["--manifest", str(manifest), "--features", str(features), "--output_dir", str(folder), *STEP]
    started = time.perf_counter()
    train(read_config(given))
    seconds = time.perf_counter() - started
    test = [row for row in rows if row.split == "test" and row.votes]
    store = FeatureStore(features)
    predictor = Predictor.from_pretrained(folder, device="cpu")
    found = dict(predictor.predict_rows(test, store))
    said = np.stack([found[row.id].probs for row in test])
    measures = all_measures(human_distributions(test, predictor.task.label_names), said)
    adapter = predictor.model.model.audio_adapter
    assert adapter is not None
    padded, lengths = pad_features([store[row.id] for row in test[:64]])
    started = time.perf_counter()
    with torch.inference_mode():
        for _ in range(3):
            _, counts = adapter(padded, lengths)
    rate = 3 * len(lengths) / (time.perf_counter() - started)
    encoded = sum(row.audio.duration or 0.0 for row in test[:64] if row.audio)
    return {
        "jsd": measures["jsd"],
        "accuracy": measures["accuracy"],
        "tokens_per_second": int(counts.sum()) / encoded,
        "clips_per_second": rate,
        "minutes": seconds / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", choices=("crema_d", "mini"), default="mini")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--out", type=Path, default=Path("exp/adapters"))
    given = parser.parse_args()
    out = given.out / given.corpus
    manifest, root = prepare(given.corpus, given.source, out, given.rows)
    lines = [
        "| audio adapter | jsd | accuracy | tokens a second | clips a second | minutes of training |",
        "|---|---|---|---|---|---|",
    ]
    for name in ADAPTERS:
        if given.corpus == "mini" and "transcript" in name:
            continue  # the synthetic corpus says nothing
        result = out / name.replace(",", "").replace(" ", "_") / "result.json"
        if not result.is_file():
            write_json(result, run(name, given.corpus, manifest, root, out))
        found = read_json(result)
        jsd = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found["jsd"])
        numbers = (
            f"{found['accuracy']['value']:.3f} | {found['tokens_per_second']:.1f} | {found['clips_per_second']:.0f}"
        )
        lines.append(f"| {name} | {jsd} | {numbers} | {found['minutes']:.0f} |")
    write_text(out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
