"""`shala-audio baseline`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shala_audio.errors import UserError


def baseline(
    kind: Annotated[str, typer.Argument(help="prior, or linear (sound only).")],
    manifest: Annotated[Path, typer.Argument(help="Manifest with train, dev and test rows.")],
    out: Annotated[Path, typer.Option(help="File for the predictions of the test rows.")],
    features: Annotated[Path | None, typer.Option(help="Folder of features, for linear.")] = None,
) -> None:
    """Predict the test rows with a system to compare with: the constant prior, or a linear soft-label classifier.

    The linear classifier sees the mean and deviation over time of one encoder layer; layer and penalty are chosen on dev.
    """
    from shala_audio.data.rows import read_manifest
    from shala_audio.data.votes import mean_distribution
    from shala_audio.distribution import LabelDistribution
    from shala_audio.evaluation.predictions import write_predictions
    from shala_audio.tasks import load_task

    rows = read_manifest(manifest)
    if not rows:
        raise UserError(f"{manifest}: has no rows")
    task = load_task(rows[0].task)
    if kind == "prior":
        train = [row for row in rows if row.split == "train" and row.votes]
        prior = LabelDistribution(task.label_names, mean_distribution(train, task.label_names))
        write_predictions(out, [(row.id, prior) for row in rows if row.split == "test" and row.votes])
    elif kind == "linear":
        if features is None:
            raise UserError("--features: the linear classifier needs the folder of features")
        from shala_audio.audio.features import FeatureStore
        from shala_audio.training.linear import train_linear

        store = FeatureStore(features)
        result = train_linear(rows, store, task, store.encoder["layers"])
        write_predictions(out, result.predictions)
        print(f"layer {result.layer}, penalty {result.penalty:g} (chosen on dev: jsd {result.dev_jsd:.4f})")
    else:
        raise UserError(f"{kind}: no such baseline; use prior or linear")
    print(out)
