"""`shala-audio neighbours`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def neighbours(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    manifest: Annotated[Path, typer.Argument(help="Manifest of what it learnt from.")],
    features: Annotated[Path | None, typer.Option(help="Folder of the sound's features.")] = None,
    audio_root: Annotated[Path | None, typer.Option(help="Folder that the manifest's paths start from.")] = None,
    split: Annotated[str, typer.Option(help="Rows of this split.")] = "train",
) -> None:
    """Keep, beside a model, where its training items lie, so that `serve` can show the nearest with their votes.

    Example: shala-audio neighbours exp/crema_d/shala data/manifest.jsonl --features features
    """
    from shala_audio.audio.features import FeatureStore
    from shala_audio.data.rows import read_manifest
    from shala_audio.inference.neighbours import FILE, find_neighbours
    from shala_audio.inference.predictor import Predictor

    rows = read_manifest(manifest, split)
    predictor = Predictor.from_pretrained(model)
    store = None
    if features is not None and predictor.task.has_audio:
        store = FeatureStore(features, predictor.model.model_config.encoder_identity(predictor.model.encoder_sha256))
        store.check(rows)
    assert predictor.folder is not None
    found = find_neighbours(predictor, rows, store, audio_root)
    found.save(predictor.folder)
    print(predictor.folder / FILE)
