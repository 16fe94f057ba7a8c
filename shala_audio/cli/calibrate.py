"""`shala-audio calibrate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from shala_audio.cli.score import TaskOption
from shala_audio.errors import UserError


def calibrate(
    model: Annotated[
        Path, typer.Argument(help="Folder of the model, or of another system, where the calibration is kept.")
    ],
    dev_predictions: Annotated[Path, typer.Argument(help="Its predictions of the dev split.")],
    manifest: Annotated[Path, typer.Argument(help="Manifest with the votes.")],
    kind: Annotated[str, typer.Option(help="temperature, temperature_jsd or dirichlet.")] = "temperature",
    apply: Annotated[Path | None, typer.Option(help="Predictions to calibrate as well, such as those of test.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for those.")] = None,
    task: TaskOption = None,
) -> None:
    """Fit a calibration on dev; `shala-audio predict MODEL ... --calibration temperature` then uses it.

    temperature and dirichlet bring the cross-entropy with the raters down, temperature_jsd the distance to them.

    Example: shala-audio calibrate exp/shala exp/shala/dev.jsonl data/manifest.jsonl --kind dirichlet
    """
    import numpy as np

    from shala_audio.distribution import LabelDistribution
    from shala_audio.evaluation.by_row import groups_of
    from shala_audio.evaluation.calibration import fit
    from shala_audio.evaluation.predictions import read_attributes, read_predictions, write_predictions
    from shala_audio.evaluation.score import load_judged
    from shala_audio.files import read_json, write_json
    from shala_audio.models.folder import SETTINGS
    from shala_audio.tasks import load_task, task_from_dict

    settings = model / SETTINGS
    judged_by = load_task(task) if task else None
    if not model.is_dir():
        raise UserError(f"{model}: no such folder")
    if settings.is_file():
        judged_by = task_from_dict(read_json(settings)["task"], str(settings))
        if task and load_task(task).label_names != judged_by.label_names:
            raise UserError(f"--task {task}: has other labels than {model}, which is a model of its own task")
    if (apply is None) != (out is None):
        raise UserError("--apply and --out go together")
    judged = load_judged(dev_predictions, manifest, judged_by)
    if others := sorted({row.split for row in judged.rows} - {"dev"}):
        raise UserError(f"{dev_predictions}: has rows of {', '.join(others)}; a calibration is fitted on dev alone")
    found = fit(kind, judged.predicted, judged.human, judged.labels, groups_of(judged.rows))
    write_json(model / f"calibration_{kind}.json", found.to_dict())
    chosen = f"penalty {found.penalty:g}" if kind == "dirichlet" else f"temperature {1 / found.weight[0, 0]:.3f}"
    print(f"{model / f'calibration_{kind}.json'}: {chosen}, fitted on {found.rows} dev rows")
    if apply is not None and out is not None:
        identities, probs = read_predictions(apply, judged.labels)
        calibrated = found(probs)
        named = LabelDistribution.of_rows(judged.labels, calibrated)
        if judged_by and judged_by.attributes:  # which go along as they are
            names = [attribute.name for attribute in judged_by.attributes]
            named = [
                replace(one, attributes={n: v for n, v in zip(names, values, strict=True) if np.isfinite(v)})
                for one, values in zip(named, read_attributes(apply, names).tolist(), strict=True)
            ]
        write_predictions(out, zip(identities, named, strict=True))
        print(out)
