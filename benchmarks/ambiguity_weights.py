"""What ambiguity weights do, on `mini`, where the true distribution is known: off, static and dynamic, by λ, over 5 seeds.

For each seed (of the corpus, the split and the training) one warm start, and from it one pass of the exact objective under
each setting. Distances are to the *true* distribution of the held-out speakers' clips, over all rows and over the third
that listeners truly disagree about most. Intervals: bootstrap over seeds and rows of the paired difference to "off".

    python -m benchmarks.ambiguity_weights --out exp/weights      # about an hour on two cores; goes on where it stopped
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from shala_audio.audio.encoders import load_encoder
from shala_audio.audio.features import FeatureStore, write_features
from shala_audio.cli.train import parse
from shala_audio.data.mini import prepare
from shala_audio.data.prepare import write_prepared
from shala_audio.data.rows import read_manifest
from shala_audio.distribution import Floats, entropy, jsd
from shala_audio.files import CONFIGS, write_json, write_text
from shala_audio.inference.predictor import Predictor
from shala_audio.models.config import load_model_config
from shala_audio.models.sources import locate
from shala_audio.tasks import load_task
from shala_audio.training.run import train

CONF = CONFIGS.parent / "recipes" / "mini" / "conf"
SEEDS = range(5)
SETTINGS: Mapping[str, list[str]] = {
    "off": ["--ambiguity", "off"],
    "static 0.5": ["--ambiguity", "static", "--ambiguity_lambda", "0.5"],
    "static 1.0": ["--ambiguity", "static", "--ambiguity_lambda", "1.0"],
    "dynamic 0.5": ["--ambiguity", "dynamic", "--ambiguity_lambda", "0.5"],
    "dynamic 1.0": ["--ambiguity", "dynamic", "--ambiguity_lambda", "1.0"],
}


def run(out: Path, seed: int) -> None:
    """All settings of one seed; what is there already is not done again."""
    folder = out / f"seed{seed}"
    manifest, features = folder / "data" / "manifest.jsonl", folder / "features"
    if not manifest.is_file():
        write_prepared(prepare(folder / "data", seed), load_task("mini"), folder / "data", seed)
    config = load_model_config("speech_frozen")
    rows = [row for row in read_manifest(manifest) if row.audio is not None]
    encoder = load_encoder(locate(str(config.encoder), print), config.cached_layers(), "cpu")
    write_features(rows, folder / "data", encoder, config.encoder_identity(), features)
    common = ["--manifest", str(manifest), "--features", str(features), "--seed", str(seed), "--save_strategy", "no"]
    warm = folder / "warm_start"
    if not (warm / "training.json").is_file():
        start = ["--config", str(CONF / "warm_start.yaml"), "--task", "mini", "--model", "speech_frozen"]
        train(parse([*start, "--output_dir", str(warm), *common]))
    for name, options in SETTINGS.items():
        target = folder / name.replace(" ", "_")
        if (target / "distances.json").is_file():
            continue
        go_on = ["--config", str(CONF / "shala.yaml"), "--init", str(warm), "--num_train_epochs", "1"]
        train(parse([*go_on, "--output_dir", str(target), *common, *options]))
        test = [row for row in rows if row.split == "test"]
        predictor = Predictor.from_pretrained(target)
        found = dict(predictor.predict_rows(test, FeatureStore(features)))
        labels = predictor.task.label_names
        truth = np.array([[row.extra["true"][label] for label in labels] for row in test])
        said = np.stack([found[row.id].probs for row in test])
        write_json(target / "distances.json", {"jsd": jsd(truth, said).tolist(), "entropy": entropy(truth).tolist()})


def interval(differences: list[Floats], draws: int = 2000) -> tuple[float, float]:
    """95 % of the mean over seeds and rows, both drawn again."""
    rng = np.random.default_rng(0)
    means = []
    for _ in range(draws):
        chosen = [differences[seed] for seed in rng.integers(len(differences), size=len(differences))]
        means.append(np.mean([np.mean(rows[rng.integers(len(rows), size=len(rows))]) for rows in chosen]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def table(out: Path) -> str:
    """Markdown: mean distance of every setting, and its paired difference to "off"."""
    found = {
        name: [
            json.loads((out / f"seed{seed}" / name.replace(" ", "_") / "distances.json").read_text()) for seed in SEEDS
        ]
        for name in SETTINGS
    }
    lines = [
        "| weights, λ | jsd to the truth, all rows | difference to off | most ambiguous third | difference to off |"
    ]
    lines.append("|---|---|---|---|---|")
    for name, runs in found.items():
        cells = []
        for ambiguous in (False, True):
            chosen, differences = [], []
            for run_, plain in zip(runs, found["off"], strict=True):
                level = np.array(run_["entropy"])
                keep = level >= np.quantile(level, 2 / 3) if ambiguous else np.ones(len(level), dtype=bool)
                chosen.append(np.array(run_["jsd"])[keep])
                differences.append(chosen[-1] - np.array(plain["jsd"])[keep])
            cells.append(f"{np.mean([rows.mean() for rows in chosen]):.4f}")
            low, high = interval(differences)
            mean = np.mean([rows.mean() for rows in differences])
            cells.append("–" if name == "off" else f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    arguments = parser.parse_args()
    for seed in SEEDS:
        run(arguments.out, seed)
    write_text(arguments.out / "weights.md", table(arguments.out))
    print(table(arguments.out))


if __name__ == "__main__":
    main()
