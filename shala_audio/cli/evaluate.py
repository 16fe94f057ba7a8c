"""`shala-audio evaluate score|compare|calibrate|report|baseline|choose|pool|merge|raters|labels`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shala_audio.errors import UserError, missing_extra, not_one_of

if TYPE_CHECKING:
    from shala_audio.baselines.linear import Fitted
    from shala_audio.distribution import Floats
    from shala_audio.manifest import Row
    from shala_audio.task import Task

app = typer.Typer(help="Score, compare, calibrate and report predictions, ours or any system's.", no_args_is_help=True)

TaskOption = Annotated[
    str | None, typer.Option(help="Task: a name in configs/tasks, or a YAML file; that of the rows if not given.")
]
Votes = Annotated[
    Path,
    typer.Argument(
        help="Manifest with the votes; or a CSV: id, a column a label with the number of raters who chose it.",
        metavar="VOTES",
    ),
]
SplitOption = Annotated[str | None, typer.Option(help="Rows of this split alone; all that are predicted if not given.")]


@app.command()
def score(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="JSON Lines (id, probs), CSV (id, a column a label), or JSON in ChaosNLI's format, as FILE.json:SYSTEM of several."
        ),
    ],
    votes: Votes,
    out: Annotated[
        Path | None, typer.Option(help="File for the metrics as JSON; a table on the terminal where not given.")
    ] = None,
    format: Annotated[str, typer.Option(help="On the terminal: table or json.")] = "table",
    task: TaskOption = None,
    bootstrap: Annotated[int, typer.Option(help="Draws for the 95 % intervals; 0 for none.", min=0)] = 1000,
    split: SplitOption = None,
) -> None:
    """Measure predictions against the raters' votes, beside the constant prior and the raters' own agreement.

    Of another system: a CSV with an id and a column a label for the predictions, another for the votes, with the same ids.

    Example: shala-audio evaluate score predictions.jsonl data/manifest.jsonl --out score.json
    """
    from shala_audio.evaluation.score import distances_beside
    from shala_audio.evaluation.score import score as measure
    from shala_audio.inference.hub import write_card
    from shala_audio.io import write_json
    from shala_audio.models.folder import SETTINGS
    from shala_audio.task import load_task

    if format not in ("table", "json"):
        raise not_one_of("--format", format, ("table", "json"))
    result = measure(predictions, votes, load_task(task) if task else None, bootstrap, split)
    _warn_of_splits(predictions, result["splits"])
    if result["unpredicted"]:
        print(
            f"{predictions}: {result['unpredicted']} rows with votes have no prediction and do not count",
            file=sys.stderr,
        )
    if "prior" not in result:
        print(f"{votes}: has no train rows with votes, so there is no constant prior", file=sys.stderr)
    # Kept apart, for `report`: they tell of single rows' votes, and a score is published.
    distances = result.pop("rows")
    if out is None and format == "json":
        print(json.dumps(result, indent=2))
    elif out is None:
        _show_score(result)
    else:
        write_json(out, result)
        write_json(distances_beside(out), distances)
        if out.name == "score.json" and (out.parent / SETTINGS).is_file():  # the model's own: its card shows it
            write_card(out.parent)
        print(f"{out}: {result['n']} rows, jsd {result['jsd']['value']:.4f}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Predictions of one system.")],
    second: Annotated[Path, typer.Argument(help="Predictions of the other.")],
    votes: Votes,
    task: TaskOption = None,
    split: SplitOption = None,
    out: Annotated[Path | None, typer.Option(help="File for the result as JSON.")] = None,
) -> None:
    """Test whether one system is closer to the raters than another: paired permutations of the rows both predict.

    Example: shala-audio evaluate compare exp/shala/predictions.jsonl exp/linear/predictions.jsonl data/manifest.jsonl
    """
    from rich.console import Console
    from rich.table import Table

    from shala_audio.evaluation.compare import compare as test
    from shala_audio.io import write_json
    from shala_audio.task import load_task

    result = test(first, second, votes, load_task(task) if task else None, split)
    _warn_of_splits(first, result["splits"])
    if out is not None:
        write_json(out, result)
    table = Table("measure", "first", "second", "difference", "95 % interval", "p")
    for name in ("jsd", "kl", "accuracy"):
        if name in result:
            found = result[name]
            numbers = [f"{found[part]:.4f}" for part in ("first", "second")]
            interval = "–" if found["low"] is None else f"{found['low']:+.4f} to {found['high']:+.4f}"
            table.add_row(name, *numbers, f"{found['difference']:+.4f}", interval, f"{found['p']:.4f}")
    console = Console()
    console.print(table)
    left = f"; {result['only_first']} only in the first, {result['only_second']} only in the second"
    console.print(f"{result['n']} rows in both{left if result['only_first'] or result['only_second'] else ''}")
    if (groups := result["jsd"]["groups"]) < result["n"]:
        together = "whose rows' signs are flipped together"
        console.print(f"{groups} speakers or premises, {together}")
    console.print("The p-values are not corrected for there being several.")


def _show_score(result: Mapping[str, Any]) -> None:
    """The metrics as a table, beside the constant prior and the human agreement bound."""
    from rich.console import Console
    from rich.table import Table

    from shala_audio.evaluation.report import cell

    columns = {"predictions": result}
    columns |= {name.replace("_", " "): result[name] for name in ("prior", "agreement_bound") if name in result}
    table = Table()
    for name in ("metric", *columns):
        table.add_column(name, no_wrap=name == "metric")
    for name, found in result.items():
        if isinstance(found, Mapping) and "value" in found:
            table.add_row(name, *(cell(one.get(name) or {}, interval=True) for one in columns.values()))
    console = Console()
    console.print(table)
    over = f" of {result['jsd']['groups']} speakers or premises" if result["jsd"].get("groups") else ""
    console.print(f"{result['n']} rows{over}; 95 % intervals in brackets", highlight=False, markup=False)


def _warn_of_splits(predictions: Path, splits: Mapping[str, int]) -> None:
    if len(splits) > 1:
        parts = ", ".join(f"{count} of {name}" for name, count in splits.items())
        print(
            f"{predictions}: rows of several splits are scored together ({parts}); --split test takes one",
            file=sys.stderr,
        )


@app.command()
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

    Example: shala-audio evaluate calibrate exp/shala exp/shala/dev.jsonl data/manifest.jsonl --kind dirichlet
    """
    import numpy as np

    from shala_audio.distribution import LabelDistribution
    from shala_audio.evaluation.calibration import fit
    from shala_audio.evaluation.predictions import by_id, read_attributes, read_predictions, write_predictions
    from shala_audio.evaluation.score import groups_of, load_judged
    from shala_audio.io import read_json, write_json
    from shala_audio.models.folder import SETTINGS
    from shala_audio.task import load_task, task_from_dict

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
    judged = load_judged(dev_predictions, manifest, judged_by, "dev" if by_id(dev_predictions) else None)
    if others := sorted({row.split for row in judged.rows} - {"dev"}):
        raise UserError(f"{dev_predictions}: has rows of {', '.join(others)}; a calibration is fitted on dev alone")
    found = fit(kind, judged.predicted, judged.human, judged.labels, groups_of(judged.rows))
    write_json(model / f"calibration_{kind}.json", found.to_dict())
    chosen = f"penalty {found.penalty:g}" if kind == "dirichlet" else f"temperature {1 / found.weight[0, 0]:.3f}"
    print(f"{model / f'calibration_{kind}.json'}: {chosen}, fitted on {found.rows} dev rows")
    if found.at_the_edge:
        print("the temperature is at the edge of its search: answers are nearly one-hot or uniform", file=sys.stderr)
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


KINDS = ("prior", "linear", "attentive", "encoder")


@app.command()
def baseline(
    kind: Annotated[str, typer.Argument(help="prior, linear, for sound attentive, for texts encoder.")],
    manifest: Annotated[Path, typer.Argument(help="Manifest with train, dev and test rows.")],
    out: Annotated[
        Path, typer.Option(help="File for the predictions of the test rows; those of dev go beside it, as NAME_dev.")
    ],
    features: Annotated[
        Path | None, typer.Option(help="Folder of features of the sound, for linear and attentive.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="For linear on texts: a name in configs/models or a YAML file, of whose language model states are taken. "
            "For encoder: what to fine-tune, a name on the hub or a folder."
        ),
    ] = None,
    task: TaskOption = None,
    seed: Annotated[int, typer.Option(help="Of attentive and encoder; on record for all.")] = 0,
    augmentations: Annotated[
        int,
        typer.Option(
            "--augmentations",
            "--copies",
            help="Of each training clip, of those that `features --augmentations` has made.",
            min=0,
        ),
    ] = 0,
) -> None:
    """Predict test and dev rows with a system to compare with: the constant prior, or a classifier.

    linear: softmax regression on mean and deviation over time of one layer of a frozen model, the audio encoder or the language
    model; layer and penalty are chosen on dev.
    attentive: learnt layer weights and attentive pooling over time; learning rate and passes are chosen on dev.
    encoder: a text encoder, fine-tuned whole with soft labels; learning rate and passes are chosen on dev.
    With --augmentations, dev also says whether they help.

    Example: shala-audio evaluate baseline linear data/manifest.jsonl --features features --out exp/linear/predictions.jsonl
    """
    import time

    from shala_audio.corpora.prepare import corpus_record
    from shala_audio.distribution import LabelDistribution
    from shala_audio.evaluation.predictions import write_predictions
    from shala_audio.io import read_json, write_json
    from shala_audio.manifest import rows_and_task
    from shala_audio.votes import mean_distribution

    if kind not in KINDS:
        raise not_one_of("the baseline", kind, KINDS)
    started = time.monotonic()
    rows, asked = rows_and_task(manifest, task)
    record: dict[str, Any] = {
        "method": kind,
        "task": asked.name,
        "data": corpus_record(manifest.with_name("summary.json")),
    }
    beside = out.parent / "training.json"
    if beside.is_file() and (of := read_json(beside).get("method")) not in ("prior", *KINDS):
        raise UserError(f"--out {out}: {out.parent} has the record of {of}; name another folder")
    places = {"test": out, "dev": out.with_name(f"{out.stem}_dev{out.suffix}")}
    if kind == "prior":
        if features is not None or augmentations or model:
            given = "augmentations" if augmentations else "model" if model else "features"
            raise UserError(f"--{given}: no part in the constant prior")
        train = [row for row in rows if row.split == "train" and row.votes]
        prior = LabelDistribution(asked.label_names, mean_distribution(train, asked.label_names))
        asked_of = {"test": (row for row in rows), "dev": (row for row in rows if row.votes)}
        predicted = {name: [(row.id, prior) for row in asked_of[name] if row.split == name] for name in places}
        record["seed"] = seed
    else:
        known = [row for row in rows if (row.votes and row.split in ("train", "dev")) or row.split == "test"]
        fitted, used = _fitted(kind, known, asked, features, model, seed, augmentations)
        predicted = dict(fitted.predictions)
        words = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in fitted.chosen.items())
        print(f"{words} (chosen on dev: jsd {fitted.dev_jsd:.4f})")
        from shala_audio.training.provenance import cost_record

        # What dev chose is no setting: it differs between seeds.
        record |= {"settings": {"augmentations": augmentations}, "model": used}
        record |= {**cost_record(seed, time.monotonic() - started, manifest), "chosen": dict(fitted.chosen)}
    write_json(beside, record)
    for name, place in places.items():
        write_predictions(place, predicted[name])
    print(out)


def _fitted(
    kind: str, rows: list[Row], task: Task, features: Path | None, model: str | None, seed: int, augmentations: int
) -> tuple[Fitted, dict[str, Any]]:
    """A classifier fitted to the rows, and which model it looked at."""
    from shala_audio.devices import default_device

    try:
        from shala_audio.training.provenance import shorten
    except ImportError as error:
        raise missing_extra(error, "a classifier", "train") from None
    if kind == "encoder" and (model is None or features is not None):
        raise UserError(
            "the encoder classifier needs --model, a text encoder of the hub or a folder, and no --features"
        )
    if (features is None) == (model is None):
        or_a_model = ", or of texts a --model" if kind == "linear" else ""
        raise UserError(f"the {kind} classifier needs --features of sound{or_a_model}")
    if model is not None:
        if kind == "attentive" or augmentations:
            raise UserError("--model: is of texts, for linear and encoder, and there are no augmentations of them")
        task = task.with_input("text")
        if kind == "encoder":
            from shala_audio.baselines.encoder import train_encoder
            from shala_audio.models.pretrained import base_sha256

            fitted = train_encoder(rows, model, task, seed, default_device())
            return fitted, {"encoder": shorten(model), "weights": base_sha256(model)}
        from shala_audio.baselines.linear import PooledTexts, train_linear
        from shala_audio.models.config import load_model_config

        config = load_model_config(model)
        return train_linear(rows, PooledTexts(rows, task, config, default_device()), task), {"lm": shorten(config.lm)}
    from shala_audio.audio.features import FeatureStore

    assert features is not None
    store = FeatureStore(features)
    store.check(rows)
    if augmentations and not any(store.augmentations(row.id, augmentations) for row in rows):
        raise UserError(f"--augmentations: {features} has none; `shala-audio features --augmentations` makes them")
    used = {**store.encoder, "encoder": shorten(str(store.encoder["encoder"]))}
    if kind == "linear":
        from shala_audio.baselines.linear import PooledClips, train_linear

        return train_linear(rows, PooledClips(store, store.encoder["layers"]), task, augmentations), used
    from shala_audio.baselines.attentive import train_attentive

    return train_attentive(rows, store, task, seed, augmentations), used


@app.command()
def choose(
    runs: Annotated[list[Path], typer.Argument(help="Folders of trained models with predictions_dev.jsonl.")],
    manifest: Annotated[Path, typer.Option(help="Manifest with the votes.")],
    out: Annotated[Path, typer.Option(help="Folder for a copy of the best one.")],
) -> None:
    """Of runs that differ in a setting, keep the one closest to the raters on dev, and put on record what was tried.

    Example: shala-audio evaluate choose tuning/3e-4 tuning/1e-3 --manifest data/manifest.jsonl --out exp/sft_soft
    """
    from shala_audio.evaluation.tuning import choose_run, in_words

    tried = choose_run(runs, manifest, out)
    for settings, distance in tried:
        print(f"{in_words(settings)}: jsd {distance:.4f} on dev")
    best, _ = min(tried, key=lambda one: one[1])
    print(f"{out}: {in_words(best)}")


@app.command()
def pool(
    folds: Annotated[
        list[str],
        typer.Argument(help="A fold's experiment, a colon, its manifest.", metavar="EXP:MANIFEST"),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pooled manifest and predictions.")],
) -> None:
    """Gather the test predictions of the folds of a cross-validation, checking that no row is missing or twice.

    Example: shala-audio evaluate pool exp/cv/fold0:data/fold0/manifest.jsonl exp/cv/fold1:data/fold1/manifest.jsonl
    --out exp/cv
    """
    from shala_audio.evaluation.cross_validation import Fold, pool_folds

    pairs = [text.rsplit(":", 1) for text in folds]
    if wrong := [text for text, pair in zip(folds, pairs, strict=True) if len(pair) != 2]:
        raise UserError(f"{wrong[0]}: write it as EXP:MANIFEST")
    systems = pool_folds([Fold(Path(experiment), Path(manifest)) for experiment, manifest in pairs], out)
    print(f"{out}: {', '.join(systems)}")


@app.command()
def merge(
    parts: Annotated[list[Path], typer.Argument(help="Predictions (.jsonl) of `predict --shard`.", metavar="PART...")],
    manifest: Annotated[Path, typer.Option(help="The manifest that was predicted.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    split: Annotated[str | None, typer.Option(help="Only the rows of this split, as in `predict`.")] = None,
) -> None:
    """Put the parts that several jobs predicted together, checking that no row is missing or twice.

    Example: shala-audio evaluate merge part1.jsonl part2.jsonl --manifest data/manifest.jsonl --split test
    --out predictions.jsonl
    """
    from shala_audio.evaluation.cross_validation import merge_predictions
    from shala_audio.manifest import iterate_manifest

    wanted = [row.id for row in iterate_manifest(manifest) if split is None or row.split == split]
    merge_predictions(parts, wanted, out)
    print(f"{out}: {len(wanted)} rows")


@app.command()
def raters(
    predictions: Annotated[Path, typer.Argument(help="Predictions of rows that `data raters` made.")],
    manifest: Annotated[Path, typer.Argument(help="Their manifest.")],
    out: Annotated[Path, typer.Option(help="File for the predictions of whole rows: the mean over a row's raters.")],
    task: TaskOption = None,
) -> None:
    """Score predictions of single raters, and put those of a row together, for `evaluate score` with the rows' own manifest.

    Example: shala-audio evaluate raters exp/raters/predictions.jsonl data/raters/manifest.jsonl --out exp/predictions.jsonl
    """
    from shala_audio.corpora.raters import mean_over_raters
    from shala_audio.distribution import LabelDistribution
    from shala_audio.evaluation.predictions import write_predictions

    asked, rows, probs = _predicted_rows(predictions, manifest, task)
    items, means, scores = mean_over_raters(rows, probs, asked)
    write_predictions(out, zip(items, LabelDistribution.of_rows(asked.label_names, means), strict=True))
    if scores.accuracy:
        shown = sorted(scores.accuracy.items(), key=lambda one: one[1])
        few = shown if len(shown) <= 12 else [*shown[:5], *shown[-5:]]
        print(
            f"error rate {scores.error_rate:.4f}: share of a row's raters (of labels, where they chose several) that is predicted "
            "wrongly, mean over rows"
        )
        if scores.distance is not None:
            print(
                f"distance {scores.distance:.4f}: of the predicted from the chosen label, in steps over the number of labels, "
                "mean over rows"
            )
        print(f"accuracy of {len(shown)} raters{'' if few is shown else ', lowest and highest'}:")
        for rater, accuracy in few:
            print(f"    {rater}  {accuracy:.3f}")
    print(out)


@app.command()
def labels(
    predictions: Annotated[Path, typer.Argument(help="Predictions of rows that `data labels` made.")],
    manifest: Annotated[Path, typer.Argument(help="Their manifest.")],
    out: Annotated[Path, typer.Option(help="File for the rates of whole rows, JSON Lines: id, and rates by label.")],
    task: TaskOption = None,
) -> None:
    """Score predictions of single labels, and put those of a row together: what share of people would choose each label.

    Example: shala-audio evaluate labels exp/labels/predictions.jsonl data/labels/manifest.jsonl --out exp/rates.jsonl
    """
    from rich.console import Console
    from rich.table import Table

    from shala_audio.corpora.single_labels import label_distances, mean_rates, rates
    from shala_audio.io import atomic_write
    from shala_audio.manifest import read_manifest
    from shala_audio.task import NO, YES

    asked, rows, probs = _predicted_rows(predictions, manifest, task)
    if asked.label_names != (YES, NO):
        raise UserError(f"task {asked.name}: its labels are not {YES} and {NO}; `data labels` writes such a task.yaml")
    stated = dict(zip((row.id for row in rows), probs[:, 0].tolist(), strict=True))
    try:
        found = rates(rows, stated)
    except UserError as error:
        raise UserError(f"{predictions}: {error}") from None
    with atomic_write(out) as beside, open(beside, "w", encoding="utf-8") as file:
        for identity, of_labels in found.items():
            file.write(json.dumps({"id": identity, "rates": of_labels}, ensure_ascii=False) + "\n")
    judged = [row for row in rows if row.votes]
    if judged:
        columns = {"distance": label_distances(judged, stated)}
        if constant := mean_rates(read_manifest(manifest, "train")):
            columns["constant prior"] = label_distances(
                judged, {row.id: constant[row.extra["label"]] for row in judged}
            )
        table = Table("label", *columns)
        for label in columns["distance"]:
            table.add_row(label, *(f"{distances[label]:.4f}" for distances in columns.values()))
        table.add_row("mean", *(f"{fmean(distances.values()):.4f}" for distances in columns.values()))
        Console().print(table)
        print("distance: Manhattan, of yes and no, 0 to 2, as LeWiDi 2025 has it for several labels")
    print(out)


def _predicted_rows(predictions: Path, manifest: Path, task: str | None) -> tuple[Task, list[Row], Floats]:
    """The task, the rows that were predicted, and their (N, K) probabilities.

    Raises:
        UserError: a prediction is of a row that the manifest does not have, or an item is not predicted whole.
    """
    from shala_audio.evaluation.predictions import read_predictions
    from shala_audio.manifest import rows_and_task

    rows, asked = rows_and_task(manifest, task)
    by_id = {row.id: row for row in rows}
    identities, probs = read_predictions(predictions, asked.label_names)
    if unknown := next((one for one in identities if one not in by_id), None):
        raise UserError(f"{predictions}: row {unknown} is not in {manifest}")
    predicted = [by_id[one] for one in identities]
    items, given = {row.extra["item"] for row in predicted if "item" in row.extra}, set(identities)
    if missing := next((row.id for row in rows if row.extra.get("item") in items and row.id not in given), None):
        raise UserError(f"{predictions}: has no row {missing}, but others of the same item")
    _warn_of_splits(predictions, Counter(row.split for row in predicted))
    return asked, predicted, probs


@app.command()
def report(
    experiments: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of systems with a score.json, or of experiments; or files of `score`.", metavar="EXP"
        ),
    ],
    out: Annotated[Path, typer.Option(help="Markdown file; CSV, LaTeX and pictures go beside it.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the manifest's summary.json: caveat and split.")] = None,
    title: Annotated[str, typer.Option(help="Heading.")] = "Results",
    note: Annotated[list[str] | None, typer.Option(help="A paragraph under the heading; repeat for several.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="System to test against every other, and to draw; SHALA if not given.")
    ] = None,
) -> None:
    """Write one table of several systems, with pictures, and what every run was. Runs of several seeds become one line.

    Example: shala-audio evaluate report exp/zero_shot exp/warm_start exp/shala --data data --out RESULTS.md
    """
    from shala_audio.evaluation.report import write_report

    write_report(experiments, out, data, title, note or [], reference)
    print(out)
