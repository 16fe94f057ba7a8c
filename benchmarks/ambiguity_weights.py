"""What ambiguity weights do, on `mini`, where the true distribution is known: off, static and dynamic, by λ, over 5 seeds.

For each seed (of the corpus, the split and the training) one warm start, and from it the recipe's passes of the exact
objective under each setting. Distances are to the *true* distribution of the held-out speakers' clips, over all rows and over
the third that listeners truly disagree about most. Intervals: Student's t over the seeds' paired differences to "off".

    python -m benchmarks.ambiguity_weights --out exp/weights      # two hours on two cores; goes on where it stopped

What the recipe has trained already need not be trained again: put its experiment of a seed, its data and its features into
`exp/weights/seed0` as folders `warm_start`, `off`, `static_0.5`, `dynamic_0.5`, `data` and `features`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.to_the_truth import Distances, as_csv, table, to_the_truth
from shala_audio.audio.encoders import load_encoder
from shala_audio.audio.features import FeatureStore, write_features
from shala_audio.corpora.mini import prepare
from shala_audio.corpora.prepare import write_prepared
from shala_audio.evaluation.predictions import write_predictions
from shala_audio.inference.predictor import Predictor
from shala_audio.io import CONFIGS, write_text
from shala_audio.manifest import read_manifest
from shala_audio.models.config import load_model_config
from shala_audio.models.pretrained import locate
from shala_audio.task import load_task
from shala_audio.training.config import read_config
from shala_audio.training.run import train

CONF = CONFIGS.parent / "recipes" / "mini" / "conf"
SEEDS = range(5)
SETTINGS: Mapping[str, list[str]] = {
    "off": ["--method", "shala_unweighted"],
    "static 0.5": ["--method", "shala_exact", "--ambiguity", "static", "--ambiguity_lambda", "0.5"],
    "static 1.0": ["--method", "shala_exact", "--ambiguity", "static", "--ambiguity_lambda", "1.0"],
    "dynamic 0.5": ["--method", "shala_dynamic", "--ambiguity_lambda", "0.5"],
    "dynamic 1.0": ["--method", "shala_dynamic", "--ambiguity_lambda", "1.0"],
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
    common = ["--manifest", str(manifest), "--features", str(features), "--seed", str(seed), "--resume"]
    warm = folder / "warm_start"
    start = ["--config", str(CONF / "warm_start.yaml"), "--task", "mini", "--model", "speech_frozen"]
    train(read_config([*start, "--output_dir", str(warm), *common]))
    for name, options in SETTINGS.items():
        target = folder / name.replace(" ", "_")
        go_on = ["--config", str(CONF / "shala.yaml"), "--init", str(warm)]
        train(read_config([*go_on, "--output_dir", str(target), *common, *options]))
        if not (target / "predictions.jsonl").is_file():
            test = [row for row in rows if row.split == "test"]
            write_predictions(
                target / "predictions.jsonl",
                Predictor.from_pretrained(target).predict_rows(test, FeatureStore(features)),
            )


def tables(out: Path) -> tuple[str, str]:
    """The table in Markdown, of every setting that all seeds have; and every seed's numbers as CSV."""
    found: dict[str, list[Distances]] = {}
    for name in SETTINGS:
        paths = [out / f"seed{seed}" / name.replace(" ", "_") / "predictions.jsonl" for seed in SEEDS]
        if all(path.is_file() for path in paths):
            manifests = [out / f"seed{seed}" / "data" / "manifest.jsonl" for seed in SEEDS]
            found[name] = [
                to_the_truth(path, {row.id: row for row in read_manifest(manifest)})
                for path, manifest in zip(paths, manifests, strict=True)
            ]
    return table(found, "weights, λ", "off"), as_csv(found, "weights", SEEDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    arguments = parser.parse_args()
    for seed in SEEDS:
        run(arguments.out, seed)
    shown, numbers = tables(arguments.out)
    write_text(arguments.out / "weights.md", shown)
    write_text(arguments.out / "weights.csv", numbers)
    print(shown)


if __name__ == "__main__":
    main()
