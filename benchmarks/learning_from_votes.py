"""What each way to learn from votes adds: vote dropping, mixing, class balance, curriculum, an average of seeds.

The audio adapter of `speech.yaml` alone, encoder frozen, without the language model: the same passes of adapter pretraining under each
setting, scored on the dev speakers. Two training seeds each; intervals are over speakers.

    python -m benchmarks.learning_from_votes MANIFEST FEATURES --out FILE.json      # goes on where it stopped

`FEATURES` is a folder of `shala-audio features --model speech --augmentations 2`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from shala_audio.audio.features import FeatureStore
from shala_audio.distribution import Floats
from shala_audio.evaluation.metrics import all_measures
from shala_audio.io import read_json, write_json
from shala_audio.manifest import Row, read_manifest
from shala_audio.models.config import load_model_config
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import load_task
from shala_audio.training.adapter_pretraining import pooled_logits, pretrain_adapter, word_embeddings
from shala_audio.training.config import DirectConfig
from shala_audio.training.data import Batcher, build_dataset
from shala_audio.training.targets import Targets
from shala_audio.votes import human_distributions, vote_counts

SETTINGS: Mapping[str, dict[str, Any]] = {
    "all votes": {},
    "vote dropping": {"vote_dropping": True},
    "mixing .3": {"mixing": 0.3},
    "curriculum": {"curriculum": True},
    "class balance .5": {"class_balance": 0.5},
    "class balance 1": {"class_balance": 1.0},
    "vote dropping, mixing .3": {"vote_dropping": True, "mixing": 0.3},
}
SEEDS = (0, 1)
PASSES = 4
MEASURES = ("jsd", "kl", "accuracy", "uar", "multilabel_f1")


def predicted(rows: list[Row], features: FeatureStore, settings: dict[str, Any], seed: int, dev: list[Row]) -> Floats:
    """(dev rows, K) by an adapter that learnt under some settings."""
    frozen = replace(
        load_model_config("speech"), encoder_layers=(2, 3, 4, 5, 6), encoder_trained_layers=0, encoder_lora_r=0
    )
    torch.manual_seed(seed)
    model = SpeechLM.build(frozen, load_task("crema_d"), "label_token")
    labels = model.task.label_names
    options: dict[str, Any] = {"output_dir": "unused", "use_cpu": True, "report_to": "none", "bf16": True, "seed": seed}
    config = DirectConfig(method="warm_start", adapter_epochs=PASSES, adapter_learning_rate=1e-3, **options, **settings)
    counts = vote_counts(rows, labels)
    targets = Targets(counts, config.class_balance, config.vote_dropping, seed=seed)
    pretrain_adapter(
        model, build_dataset(rows, model, features), Batcher(model, features, 2, targets, config.mixing), config
    )
    prior = torch.tensor(human_distributions(rows, labels).mean(axis=0)).log()
    words, rows_of_head = word_embeddings(model), word_embeddings(model, output=True)
    plain = Batcher(model, features)
    adapter = model.model.audio_adapter
    assert adapter is not None
    adapter.eval()
    found = []
    with torch.inference_mode():
        for at in range(0, len(dev), 64):
            audio = plain.audio([{"id": row.id} for row in dev[at : at + 64]])
            heads = pooled_logits(adapter, audio, words, rows_of_head)
            found.append((torch.stack(heads).mean(dim=0) + prior).softmax(dim=-1))
    return torch.cat(found).double().numpy()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("features", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    features = FeatureStore(given.features)
    rows = [row for row in read_manifest(given.manifest) if row.votes]
    train, dev = ([row for row in rows if row.split == split] for split in ("train", "dev"))
    human = human_distributions(dev, load_task("crema_d").label_names)
    speakers = [str(row.speaker) for row in dev]
    results: dict[str, Any] = read_json(given.out) if given.out.is_file() else {}
    for name, settings in tqdm(SETTINGS.items(), unit="setting", disable=None):
        if name in results:
            continue
        of_seeds = [predicted(train, features, settings, seed, dev) for seed in SEEDS]
        for title, said in ((name, of_seeds), (f"{name}, average of two", [np.mean(of_seeds, axis=0)])):
            scored = [all_measures(human, one, groups=speakers) for one in said]
            results[title] = {
                measure: {
                    part: float(np.mean([one[measure][part] for one in scored])) for part in ("value", "low", "high")
                }
                for measure in MEASURES
            }
        write_json(given.out, results)
    print("| setting | " + " | ".join(MEASURES) + " |")
    print("|---" * (len(MEASURES) + 1) + "|")
    for name, found in results.items():
        cells = ("{value:.3f} [{low:.3f}, {high:.3f}]".format(**found[measure]) for measure in MEASURES)
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
