"""`shala-audio baseline`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shala_audio.cli.score import TaskOption
from shala_audio.errors import UserError, not_one_of

KINDS = ("prior", "linear", "attentive")


def baseline(
    kind: Annotated[str, typer.Argument(help="prior, or for sound linear or attentive.")],
    manifest: Annotated[Path, typer.Argument(help="Manifest with train, dev and test rows.")],
    out: Annotated[
        Path, typer.Option(help="File for the predictions of the test rows; those of dev go beside it, as NAME_dev.")
    ],
    features: Annotated[Path | None, typer.Option(help="Folder of features, for linear and attentive.")] = None,
    task: TaskOption = None,
    seed: Annotated[int, typer.Option(help="Of attentive; on record for all.")] = 0,
    copies: Annotated[
        int,
        typer.Option(help="Perturbed copies of each training clip, of those that `features --copies` has made.", min=0),
    ] = 0,
) -> None:
    """Predict test and dev rows with a system to compare with: the constant prior, or a classifier on the frozen encoder.

    linear: softmax regression on mean and deviation over time of one encoder layer; layer and penalty are chosen on dev.
    attentive: learnt layer weights and attentive pooling over time; learning rate and passes are chosen on dev.
    With --copies, dev also says whether the copies help.

    Example: shala-audio baseline linear data/manifest.jsonl --features features --out exp/linear/predictions.jsonl
    """
    import time

    from shala_audio.data.prepare import corpus_record
    from shala_audio.data.rows import read_manifest
    from shala_audio.data.votes import mean_distribution
    from shala_audio.distribution import LabelDistribution
    from shala_audio.evaluation.predictions import write_predictions
    from shala_audio.files import write_json
    from shala_audio.tasks import load_task

    if kind not in KINDS:
        raise not_one_of("the baseline", kind, KINDS)
    started = time.monotonic()
    rows = read_manifest(manifest)
    if not rows:
        raise UserError(f"{manifest}: has no rows")
    chosen = load_task(task or rows[0].task)
    corpus = corpus_record(manifest.with_name("summary.json"))
    places = {"test": out, "dev": out.with_name(f"{out.stem}_dev{out.suffix}")}
    if kind == "prior" and (features is not None or copies):
        raise UserError(f"--{'copies' if copies else 'features'}: the constant prior hears nothing")
    if kind == "prior":
        train = [row for row in rows if row.split == "train" and row.votes]
        prior = LabelDistribution(chosen.label_names, mean_distribution(train, chosen.label_names))
        predicted = {name: [(row.id, prior) for row in rows if row.split == name and row.votes] for name in places}
        record = {"method": kind, "task": chosen.name, "seed": seed, "data": corpus}
        write_json(out.parent / "training.json", record)
    else:
        if features is None:
            raise UserError(f"--features: the {kind} classifier needs the folder of features")
        from shala_audio.audio.features import FeatureStore

        store = FeatureStore(features)
        store.check(rows)
        if copies and not any(store.copies(row.id, copies) for row in rows):
            raise UserError(f"--copies: {features} has no perturbed copies; `shala-audio features --copies` makes them")
        if kind == "linear":
            from shala_audio.training.linear import train_linear

            line = train_linear(rows, store, chosen, store.encoder["layers"], copies)
            predicted = dict(line.predictions)
            settings: dict[str, Any] = {"layer": line.layer, "penalty": line.penalty, "copies": line.copies}
            words, distance = f"layer {line.layer}, penalty {line.penalty:g}, {line.copies} copies", line.dev_jsd
        else:
            from shala_audio.training.attentive import train_attentive

            found = train_attentive(rows, store, chosen, seed, copies)
            predicted = dict(found.predictions)
            settings = {"learning_rate": found.learning_rate, "passes": found.epochs, "copies": found.copies}
            words = f"rate {found.learning_rate:g}, {found.epochs} passes, {found.copies} copies"
            distance = found.dev_jsd
        print(f"{words} (chosen on dev: jsd {distance:.4f})")
        from shala_audio.training.cost import cost_record, shorten

        # What dev chose is no setting: it differs between seeds.
        heard_with = {**store.encoder, "encoder": shorten(str(store.encoder["encoder"]))}
        offered = {"settings": {"copies": copies}, "model": heard_with}
        record = {
            "method": kind,
            "task": chosen.name,
            "data": corpus,
            **offered,
            **cost_record(seed, time.monotonic() - started, manifest),
        }
        write_json(out.parent / "training.json", {**record, "chosen": settings})
    for name, place in places.items():
        write_predictions(place, predicted[name])
    print(out)
