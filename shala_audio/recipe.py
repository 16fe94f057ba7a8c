"""The stages of every recipe. A recipe's run.sh calls this with its own defaults, and then with yours.

    1 data   2 features   3 warm start   4 SHALA   5 predict   6 score   7 pack

A stage is a function that starts `shala-audio` commands, each through the launcher that the recipe's cmd.sh names for work of its
kind: `train_cmd` for training, `predict_cmd` for all else that a GPU helps, `cpu_cmd` for the rest. Every stage can be run again
alone. It writes its results whole or not at all, and leaves a marker, `.done_<stage>`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from shala_audio.corpora.lewidi import part_name
from shala_audio.errors import Stopped, UserError
from shala_audio.io import CONFIGS, file_sha256, read_json, read_yaml, write_text
from shala_audio.manifest import iterate_manifest
from shala_audio.task import load_task

METHODS_HELP = """Methods: zero_shot (for sound, with an untrained audio adapter), few_shot (text), warm_start, sft_hard, sft_soft,
shala, shala_unweighted, shala_dynamic, grpo_majority, grpo_jsd. All have as many passes in stage 4, after the same warm start (sft_hard
after one on hard labels, and it leaves out rows whose first place is tied). Every one also gets a temperature fitted to jsd on
dev; the method named last is calibrated in other ways too, and packed. The constant prior, a linear classifier and for sound an
attentive one stand in every table (prior, linear, attentive as --method: for a table of these and zero_shot alone)."""

UNTRAINED = ("zero_shot", "few_shot")
TRAINED = (
    "warm_start",
    "sft_hard",
    "sft_soft",
    "shala",
    "shala_unweighted",
    "shala_dynamic",
    "grpo_majority",
    "grpo_jsd",
)
ALIASES = {"shala_static": "shala", "shala_exact": "shala"}
CLASSIFIERS = ("linear", "attentive")  # the second for sound alone
READOUTS = ("label_token", "slots", "verbalized")
FOLDS = range(5)
LEAST_DEV_ROWS = 10  # to calibrate on


@dataclass
class Recipe:
    """A run of a recipe: what was asked for, and what follows from it.

    Args:
        given: options, by name; of those that are not given, None or the usual value.
        arguments: as they were given, for the runs of folds.
    """

    given: argparse.Namespace
    arguments: Sequence[str]

    def __post_init__(self) -> None:
        self.folder = Path(self.given.recipe)
        self.corpus: str = self.given.corpus
        self.has_audio = "audio" in self.given.modality
        self.model: str = self.given.model or self.usual_model
        self.part: str = part_name(self.given.part or ("snli" if self.corpus == "chaosnli" else ""))
        self.split_seed: int = self.given.seed if self.given.split_seed is None else self.given.split_seed
        self.augmentations: int = (
            self.given.usual_augmentations if self.given.augmentations is None else self.given.augmentations
        )
        self.learning_rates: list[str] = self.given.learning_rate.split(",") if self.given.learning_rate else []
        task = self.folder / "task.yaml"  # a corpus of one's own has its task and its first stage in the recipe
        self.own_task = task if task.is_file() else None
        self.methods = _methods(self.given, self.has_audio)
        self.check()

    def check(self) -> None:
        """Raise for options that do not go together."""
        given = self.given
        if given.part and self.corpus not in ("chaosnli", "lewidi"):
            raise UserError(f"--part: {self.corpus} has no parts")
        if self.corpus == "lewidi" and not given.part:
            raise UserError("--part: name the corpus of LeWiDi, such as md_agreement")
        if given.fold is not None and self.corpus not in ("chaosnli", "crema_d"):
            raise UserError(f"--fold: {self.corpus} has a split of its own")
        if given.split and (self.corpus != "crema_d" or given.fold is None):
            raise UserError("--split: emo_superb of crema_d alone, and with --fold")
        if given.encoder and self.has_audio:
            raise UserError("--encoder: reads texts, and sound goes in")
        if given.encoder and given.baselines == "none":
            raise UserError("--encoder: is a baseline, and --baselines none leaves them out")
        if not self.has_audio and (given.augmentations is not None or given.skip_bad):
            raise UserError("--augmentations and --skip_bad are for sound, and none goes in")
        if given.pretrain and (self.has_audio or given.init):
            why = (
                "texts alone; of sound, train on it first and name that model with --init"
                if self.has_audio
                else "not with --init"
            )
            raise UserError(f"--pretrain: {why}")
        if given.raters and given.pretrain:
            raise UserError("--pretrain: not with --raters")
        if given.raters and (weighted := [name for name in self.methods if name in ("shala", "shala_dynamic")]):
            raise UserError(
                f"--method {weighted[0]}: a single rater's answer is not contested; use sft_soft with --raters"
            )
        if given.raters and self.corpus != "lewidi":
            raise UserError(
                f"--raters: of lewidi alone; for {self.corpus}, `shala-audio data raters` makes a row for each rater"
            )
        if self.own_task and given.task:
            raise UserError(f"--task: {self.corpus} has one of its own, {self.own_task}")

    # What follows from the options ------------------------------------------------------------------------------------

    @property
    def usual_model(self) -> str:
        return self.given.usual_model or ("speech" if self.has_audio else "text")

    @property
    def split(self) -> str:
        """Name of the split: what decides which rows there are."""
        given = self.given
        parts = [
            f"{given.split}_" if given.split else "",
            f"{_name(given.task)}_" if given.task else "",
            f"seed{self.split_seed}",
        ]
        parts += [f"_max{given.max_rows}" if given.max_rows else ""]
        parts += [f"_secondary{given.secondary}" if given.secondary else ""]
        return "".join(parts) + (f"_{self.part}" if self.part else "")

    @cached_property
    def exp(self) -> Path:
        """The experiment's folder; its name says what is not the recipe's default."""
        given, other = self.given, ""
        if self.corpus in ("crema_d", "msp_podcast") and given.modality != "audio":
            other += f"_{given.modality}"
        if self.model != self.usual_model:
            other += f"_{_name(self.model)}"
        if self.augmentations != given.usual_augmentations:
            other += f"_augmentations{self.augmentations}"
        other += f"_init_{_name(given.init)}" if given.init else ""
        other += "_raters" if given.raters else ""
        other += f"_pretrain_{Path(given.pretrain).resolve().parent.name}" if given.pretrain else ""
        other += f"_{_name(given.config)}" if given.config else ""
        other += f"_train{given.seed}" if self.split_seed != given.seed else ""
        other += f"_lr{'+'.join(self.learning_rates)}" if self.learning_rates else ""
        other += "_skip_bad" if given.skip_bad else ""
        fold = "" if given.fold is None else f"_fold{given.fold}"
        method = given.method.replace(",", "+")
        name = given.exp or f"{method}_{given.readout}{other}_{self.split}{fold}"
        return Path(name) if "/" in name else self.folder / "exp" / name

    @property
    def data(self) -> Path:
        return self.folder / "data" / (self.split + ("" if self.given.fold is None else f"_fold{self.given.fold}"))

    @property
    def features(self) -> Path:
        """The same for every split and fold; but the sound of mini is another for each seed."""
        name = _name(self.model) + (f"_{self.split}" if self.corpus == "mini" else "")
        return self.folder / "features" / name

    @property
    def manifest(self) -> Path:
        """Of stage 1; or without the rows whose sound is bad."""
        usable = self.given.skip_bad and self.has_audio
        return self.data / ("usable.jsonl" if usable else "manifest.jsonl")

    @property
    def by_rater(self) -> Path:
        """Folder of the rows of single raters, and of their task."""
        return self.data / "raters"

    @property
    def learnt(self) -> Path:
        """The manifest that is learnt from and predicted."""
        return self.by_rater / "manifest.jsonl" if self.given.raters else self.manifest

    def corpus_root(self) -> Path:
        if self.corpus == "mini":
            return self.data
        if self.given.corpus_root:
            root = Path(self.given.corpus_root)
        elif os.environ.get("SHALA_CORPORA"):
            root = Path(os.environ["SHALA_CORPORA"]) / self.corpus
        else:
            raise UserError(f"--corpus_root: name the folder of {self.corpus}, or set SHALA_CORPORA")
        if not root.is_dir():
            raise UserError(f"--corpus_root {root}: no such folder")
        return root

    def conf(self, name: str) -> Path:
        """Settings of a stage: for this readout of this model, the readout, the model or labels in an order if there are any, else
        for all."""
        ordered = ["ordered"] if load_task(self.task).ordered else []
        readout, model = self.given.readout, _name(self.model)
        own = [f"{name}_{kind}" for kind in (f"{readout}_{model}", readout, model, *ordered)]
        files = [self.folder / "conf" / f"{settings}.yaml" for settings in (*own, name)]
        return next((file for file in files if file.is_file()), files[-1])

    @property
    def task(self) -> str:
        """Name or file of what is asked."""
        return str(self.own_task or self.given.task or (self.part if self.corpus == "lewidi" else self.corpus))

    @property
    def settings(self) -> Path:
        """Of stage 4."""
        return Path(self.given.config) if self.given.config else self.conf("shala")

    @property
    def title(self) -> str:
        part = f" ({self.part})" if self.part else ""
        return f"{self.corpus}{part}, {self.given.readout}, seed {self.given.seed}"

    @property
    def runs(self) -> list[str]:
        """Methods with a model of their own, in the order of the table."""
        warm = any(name not in (*UNTRAINED, "sft_hard") for name in self.methods)
        first = ["zero_shot", *(["warm_start"] if warm else [])]
        return first + [name for name in self.methods if name not in ("zero_shot", "warm_start")]

    @property
    def systems(self) -> list[str]:
        """All that stand in the table: methods and baselines."""
        if self.given.baselines == "none":
            return self.runs
        return ["prior", *self.runs, *self.classifiers]

    @property
    def classifiers(self) -> dict[str, list[Any]]:
        """Those of the table, with the options of what each looks at."""
        if self.has_audio:
            return {name: [*self.feature_options, *self.augmentation_options] for name in CLASSIFIERS}
        encoder = {"encoder": ["--model", self.given.encoder]} if self.given.encoder else {}
        return {"linear": ["--model", self.model], **encoder}

    # Options of commands ----------------------------------------------------------------------------------------------

    @property
    def feature_options(self) -> list[Any]:
        return ["--features", self.features] if self.has_audio else []

    @property
    def augmentation_options(self) -> list[Any]:
        return ["--augmentations", self.augmentations] if self.has_audio and self.augmentations else []

    @property
    def task_options(self) -> list[Any]:
        task = self.own_task or (self.given.task if self.corpus == "lewidi" else None)
        return ["--task", task] if task else []

    def train(self, out: Path, *options: Any, launcher: str = "train_cmd", manifest: Path | None = None) -> None:
        common = ["--manifest", manifest or self.learnt, "--seed", self.given.seed, *self.feature_options]
        run(launcher, "train", "--output_dir", out, *common, *options)

    def fresh(self, out: Path, method: str, *options: Any, launcher: str = "train_cmd") -> None:
        """Train, or write, a model that starts from the base models."""
        task = self.by_rater / "task.yaml" if self.given.raters else self.task
        new = ["--task", task, "--modality", self.given.modality, "--model", self.model]
        settings: list[Any] = ["--config", self.conf("warm_start"), "--method", method, "--readout", self.given.readout]
        init = self.given.init
        if self.given.pretrain and method not in UNTRAINED:
            init = out.with_name(f"{out.name}_pretrained")
            self.train(init, *settings, *new, "--resume", launcher=launcher, manifest=Path(self.given.pretrain))
        start = ["--init", init] if init and method not in UNTRAINED else new
        self.train(out, *settings, *start, *options, launcher=launcher)

    def predict(self, folder: Path, split: str, out: Path) -> None:
        said = out.with_name(f"raters_{out.name}") if self.given.raters else out
        options = ["--split", split, *self.feature_options, "--resume", "--format", "jsonl", "--out", said]
        run("predict_cmd", "predict", folder, self.learnt, *options)
        if self.given.raters:
            run("cpu_cmd", "evaluate", "raters", said, self.learnt, "--out", out)


def _methods(given: argparse.Namespace, has_audio: bool) -> list[str]:
    """The methods that were asked for, each once, without the baselines that are in every table."""
    names = given.method.split(",")
    if names == ["all"]:
        names = ["zero_shot", "sft_hard", "sft_soft", "grpo_majority", "grpo_jsd"]
        names += [] if has_audio else ["few_shot"]
        names += [*(["shala_unweighted"] if given.readout == "label_token" else []), "shala_dynamic", "shala"]
    for name in names:
        if name == "attentive" and not has_audio:
            raise UserError(f"--method {name}: for sound only")
        if name == "few_shot" and has_audio:
            raise UserError("--method few_shot: for text only, an untrained projector says nothing")
        if name == "shala_exact" and given.readout != "label_token":
            raise UserError("--method shala_exact goes with --readout label_token")
        if name not in (*UNTRAINED, *TRAINED, *ALIASES, *CLASSIFIERS, "prior"):
            raise UserError(f"--method {name}: see --help")
    kept = dict.fromkeys(ALIASES.get(name, name) for name in names)
    return [name for name in kept if name not in ("prior", *CLASSIFIERS)]


# Stages ----------------------------------------------------------------------------------------------------------------


def data(recipe: Recipe) -> None:
    given, rows = recipe.given, []
    if given.max_rows:
        rows = ["--max-rows", given.max_rows]
    if recipe.corpus == "mini":
        run("cpu_cmd", "data", "prepare", "mini", "--out", recipe.data, "--seed", recipe.split_seed, *rows)
    elif recipe.own_task:
        script = recipe.folder / "local" / "data.sh"
        call([str(script), str(recipe.corpus_root()), str(recipe.data), str(recipe.split_seed), *map(str, rows)])
    else:
        of_corpus: list[Any] = ["--part", recipe.part] if recipe.part else []
        for name in ("fold", "split", "task", "secondary"):
            if getattr(given, name) is not None:
                of_corpus += [f"--{name}", getattr(given, name)]
        source = ["--source", recipe.corpus_root(), "--out", recipe.data, "--seed", recipe.split_seed]
        run("cpu_cmd", "data", "prepare", recipe.corpus, *source, *of_corpus, *rows)
    if given.raters:
        run("cpu_cmd", "data", "raters", recipe.manifest, "--out", recipe.by_rater, "--seed", recipe.split_seed)


def features(recipe: Recipe) -> None:
    need(recipe.data / "manifest.jsonl", 1)
    given = recipe.given
    root = recipe.corpus_root() / (given.audio_dir or "")
    options = ["--model", recipe.model, "--audio-root", root, "--out", recipe.features]
    options += ["--augmentations", recipe.augmentations]
    options += ["--nproc", given.nproc] if given.nproc else []
    options += ["--skip-bad", "--good", recipe.manifest] if given.skip_bad else []
    run("predict_cmd", "features", recipe.data / "manifest.jsonl", *options)


def warm_start(recipe: Recipe) -> None:
    need(recipe.learnt, 1)
    if silent := [split for split in ("train", "dev") if not has_votes(recipe, split)]:
        raise UserError(
            f"{recipe.manifest}: no row of {' or '.join(silent)} has votes; a recipe learns from train and chooses on dev"
        )
    if recipe.given.pretrain:
        _check_apart(Path(recipe.given.pretrain), recipe.manifest)
    for method in UNTRAINED:
        if method in recipe.runs:
            recipe.fresh(recipe.exp / method, method, launcher="predict_cmd")
    starts = {"sft_hard": "warm_start_hard"} if "sft_hard" in recipe.methods else {}
    starts |= {"warm_start": "warm_start"} if "warm_start" in recipe.runs else {}
    for method, folder in starts.items():
        recipe.fresh(recipe.exp / folder, method, *recipe.augmentation_options, "--resume")
    for method in recipe.methods:  # checkpoints that began from an older warm start cannot be resumed
        trained = recipe.exp / _start_of(method) / "trained.safetensors"
        tried = [recipe.exp / method, *(recipe.exp / "tuning" / method).glob("*")]
        for record in (folder / "run.json" for folder in tried):
            if record.is_file() and trained.is_file() and read_json(record).get("init") != file_sha256(trained):
                for checkpoint in record.parent.glob("checkpoint-*"):
                    shutil.rmtree(checkpoint)


def shala(recipe: Recipe) -> None:
    need(recipe.exp / ".done_3", 3)
    settings = recipe.settings
    for method in recipe.methods:
        if method in (*UNTRAINED, "warm_start"):
            continue
        options = ["--config", settings, "--method", method, "--init", recipe.exp / _start_of(method)]
        options += [*recipe.augmentation_options, "--resume", *_batch(recipe, method, settings)]
        if method.startswith("grpo_") and recipe.given.readout == "label_token":
            options += ["--zero_variance_patience", 0]  # all on one label is a result, too
        out = recipe.exp / method
        if len(recipe.learning_rates) < 2:
            record = out / "training.json"
            if record.is_file() and "tuned" in read_json(record):
                shutil.rmtree(out)  # a copy of a run in tuning/
            own = ["--learning_rate", recipe.learning_rates[0]] if recipe.learning_rates else []
            recipe.train(out, *options, *own)
            continue
        tried = [recipe.exp / "tuning" / method / rate for rate in recipe.learning_rates]
        for folder, rate in zip(tried, recipe.learning_rates, strict=True):
            recipe.train(folder, *options, "--learning_rate", rate)
            recipe.predict(folder, "dev", folder / "predictions_dev.jsonl")
        run("cpu_cmd", "evaluate", "choose", *tried, "--manifest", recipe.manifest, "--out", out)


def predict(recipe: Recipe, interrupted: bool = False) -> None:
    """`interrupted`: whether this stage was begun and not finished, so that what it has made counts."""
    need(recipe.exp / ".done_3", 3)
    made = [recipe.exp / f".done_{stage}" for stage in (3, 4)]
    newest = max((marker.stat().st_mtime for marker in made if marker.is_file()), default=0.0)

    def is_there(file: Path) -> bool:
        there = interrupted and file.is_file() and file.stat().st_mtime > newest
        if there:
            print(f"{file} is there already")
        return there

    for system in recipe.systems:
        for pattern in ("score*.json", "calibration*.json", "predictions_temperature*", "predictions_dirichlet*"):
            for stale in (recipe.exp / system).glob(pattern):
                stale.unlink()
    baseline = ["--seed", recipe.given.seed, *recipe.task_options]
    if "prior" in recipe.systems:
        out = recipe.exp / "prior" / "predictions.jsonl"
        run("cpu_cmd", "evaluate", "baseline", "prior", recipe.manifest, *baseline, "--out", out)
    for system in recipe.runs:
        if system not in (*UNTRAINED, "warm_start"):
            need(recipe.exp / ".done_4", 4)
        for split, name in (("test", "predictions.jsonl"), ("dev", "predictions_dev.jsonl")):
            if not is_there(recipe.exp / system / name):
                recipe.predict(recipe.exp / system, split, recipe.exp / system / name)
    for kind, states in recipe.classifiers.items():
        if kind == "encoder":
            asked = recipe.exp / kind / ".asked"
            if asked.is_file() and asked.read_text(encoding="utf-8") != recipe.given.encoder:
                shutil.rmtree(asked.parent)  # of another one
            write_text(asked, recipe.given.encoder)
        # Predictions of dev are written last.
        if kind in recipe.systems and not is_there(recipe.exp / kind / "predictions_dev.jsonl"):
            out = recipe.exp / kind / "predictions.jsonl"
            options = [*states, *baseline, "--out", out]
            run("predict_cmd", "evaluate", "baseline", kind, recipe.manifest, *options)
    if recipe.given.raters:
        return  # what a model says of one rater is not what is scored, and a temperature of that would not be its own
    last = recipe.runs[-1]
    with open(recipe.exp / last / "predictions_dev.jsonl", encoding="utf-8") as file:
        enough = sum(1 for _ in file) >= LEAST_DEV_ROWS
    if not enough:
        print(f"fewer than {LEAST_DEV_ROWS} dev rows: nothing is calibrated")
        return
    for system in recipe.systems:
        folder = recipe.exp / system
        for kind in ("temperature_jsd", "temperature", "dirichlet") if system == last else ("temperature_jsd",):
            dev, test = folder / "predictions_dev.jsonl", folder / "predictions.jsonl"
            options = [
                "--kind",
                kind,
                *recipe.task_options,
                "--apply",
                test,
                "--out",
                folder / f"predictions_{kind}.jsonl",
            ]
            run("cpu_cmd", "evaluate", "calibrate", folder, dev, recipe.manifest, *options)


def score(recipe: Recipe) -> None:
    need(recipe.exp / ".done_5", 5)
    if not has_votes(recipe, "test"):
        print(
            f"{recipe.manifest}: the votes of test are withheld, so nothing is scored; each system's predictions.jsonl is there"
        )
        return
    for system in recipe.systems:
        for stale in (recipe.exp / system).glob("score*.json"):
            stale.unlink()
        for file in sorted((recipe.exp / system).glob("predictions*.jsonl")):
            if not file.stem.endswith("_dev"):
                options = [*recipe.task_options, "--out", score_file(file)]
                run("cpu_cmd", "evaluate", "score", file, recipe.manifest, *options)
    fold = "" if recipe.given.fold is None else f", fold {recipe.given.fold}"
    table = [
        "--data",
        recipe.data,
        "--out",
        recipe.exp / "RESULTS.md",
        "--title",
        recipe.given.title or recipe.title + fold,
    ]
    run("cpu_cmd", "evaluate", "report", *(recipe.exp / system for system in recipe.systems), *table)


def pack(recipe: Recipe) -> None:
    need(recipe.exp / ".done_6", 6)
    best = recipe.exp / recipe.runs[-1]
    beside = recipe.exp / ".pack"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    model = ["shala.json", "trained.safetensors", "training.json", "score*.json", "*config.json", "README.md"]
    wanted = [file for pattern in (*model, "calibration_*.json") for file in sorted(best.glob(pattern))]
    for file in (*wanted, *recipe.exp.glob("RESULTS.md"), *recipe.exp.glob("RESULTS_*.png")):
        shutil.copy(file, beside / file.name)
    shutil.copy(recipe.data / "summary.json", beside / "data.json")
    shutil.rmtree(recipe.exp / "pack", ignore_errors=True)
    beside.rename(recipe.exp / "pack")
    # What `serve` shows beside an answer. It stays here: it holds the corpus's votes, and its texts.
    run("predict_cmd", "models", "neighbours", best, recipe.learnt, *recipe.feature_options)
    print(recipe.exp / "pack")


def pool(recipe: Recipe) -> None:
    """Every fold in turn, then their predictions together."""
    given, exp = recipe.given, recipe.exp
    asked = _asked(recipe)
    for fold in FOLDS:
        folder = exp / f"fold{fold}"
        marker = folder / ".asked"
        before = marker.read_text(encoding="utf-8").strip() if marker.is_file() else ""
        if given.stage == 1 and before == asked and (folder / f".done_{given.stop_stage}").exists():
            print(f"fold {fold} is done; remove {folder} to do it again")
            continue
        if given.stage == 1 and before and before != asked:
            for stale in folder.glob("*/predictions*.jsonl"):
                stale.unlink()  # of other systems, which would be pooled with these
        write_text(marker, asked + "\n")  # before, so that an interrupted fold is known as well
        arguments = [*recipe.arguments, "--fold", str(fold), "--exp", str(folder)]
        run_stages(Recipe(parse(arguments), arguments))
    if given.stop_stage < 6:
        return
    splits = [recipe.folder / "data" / f"{recipe.split}_fold{fold}" for fold in FOLDS]
    pairs = [f"{exp / f'fold{fold}'}:{split / 'manifest.jsonl'}" for fold, split in zip(FOLDS, splits, strict=True)]
    shutil.rmtree(exp / "pooled", ignore_errors=True)
    run("cpu_cmd", "evaluate", "pool", *pairs, "--out", exp / "pooled")
    for file in sorted((exp / "pooled").glob("*/predictions*.jsonl")):
        run("cpu_cmd", "evaluate", "score", file, exp / "pooled" / "manifest.jsonl", "--out", score_file(file))
    hashes = " ".join(read_json(split / "summary.json")["split_sha256"][:16] for split in splits)
    note = (
        "Every row is predicted by the one of five models that did not learn from its fold. Splits of the folds, sha256: "
        f"{hashes}; counts of rows below are fold 0's."
    )
    title = given.title or f"{recipe.title}, five folds pooled"
    table = ["--data", splits[0], "--out", exp / "RESULTS.md", "--title", title, "--note", note]
    run("cpu_cmd", "evaluate", "report", exp / "pooled", *table)


STAGES = {1: data, 2: features, 3: warm_start, 4: shala, 5: predict, 6: score, 7: pack}


def run_stages(recipe: Recipe) -> None:
    """The stages that were asked for, in turn."""
    recipe.exp.mkdir(parents=True, exist_ok=True)
    for number, stage in STAGES.items():
        if not recipe.given.stage <= number <= recipe.given.stop_stage or (number == 2 and not recipe.has_audio):
            continue
        print(f"{time.strftime('%H:%M:%S')} stage {number}: {stage.__name__.replace('_', ' ')}", flush=True)
        interrupted = not (recipe.exp / f".done_{number}").exists()
        for later in range(number, 8):  # what it and the later ones made is no longer current
            (recipe.exp / f".done_{later}").unlink(missing_ok=True)
        shutil.rmtree(recipe.exp / "pack", ignore_errors=True)
        try:
            if number == 5:
                predict(recipe, interrupted)
            else:
                stage(recipe)
        except BaseException:  # also an interruption
            print(
                f"To resume from here: {recipe.folder}/run.sh --stage {number} ... (the same options)", file=sys.stderr
            )
            raise
        (recipe.exp / f".done_{number}").touch()


# Helpers ---------------------------------------------------------------------------------------------------------------


def run(launcher: str, *words: Any) -> None:
    """Start a `shala-audio` command through a launcher of cmd.sh."""
    if launcher not in os.environ:
        raise UserError(f'{launcher}: not in the environment; cmd.sh exports it: export {launcher}="shala-audio"')
    call([*shlex.split(os.environ[launcher]), *map(str, words)])


def call(command: Sequence[str]) -> None:
    """Run a command; what fails ends the recipe with its status."""
    try:
        done = subprocess.run(command, check=False)
    except OSError as error:
        raise UserError(
            f"{command[0]}: {(error.strerror or str(error)).lower()}; cmd.sh names what starts commands"
        ) from None
    if done.returncode in (-9, 137):
        raise Stopped(
            "the command was killed, as it is where the memory is full: take fewer rows at once "
            "(per_device_train_batch_size in the settings), or a smaller model"
        )
    if done.returncode:
        raise SystemExit(done.returncode if done.returncode > 0 else 1)


def _check_apart(other: Path, manifest: Path) -> None:
    """Raise where the train rows of another manifest have a text of this one's dev or test rows."""
    held_out = {tuple(row.text.items()): row for row in iterate_manifest(manifest) if row.split != "train"}
    for row in iterate_manifest(other):
        if row.split == "train" and (same := held_out.get(tuple(row.text.items()))):
            raise UserError(
                f"--pretrain {other}: its train row {row.id} has the text of {same.id}, which is of {same.split}"
            )


def has_votes(recipe: Recipe, split: str) -> bool:
    return any(row.split == split and row.votes for row in iterate_manifest(recipe.manifest))


def need(path: Path, stage: int) -> None:
    if not path.exists():
        raise UserError(f"{path} is missing: run stage {stage} first")


def _name(settings: str) -> str:
    """What a file of settings is called: by its name, whatever dots are in it.

    >>> _name("configs/models/qwen2.5-0.5b.yaml"), _name("qwen2.5-0.5b")
    ('qwen2.5-0.5b', 'qwen2.5-0.5b')
    """
    return Path(settings).name.removesuffix(".yaml")


def score_file(predictions: Path) -> Path:
    """The file of the metrics of a file of predictions.

    >>> score_file(Path("exp/shala/predictions_temperature.jsonl")).name
    'score_temperature.json'
    """
    return predictions.with_name(f"score{predictions.stem.removeprefix('predictions')}.json")


def _start_of(method: str) -> str:
    """The folder of the model that a method starts from."""
    return "warm_start_hard" if method == "sft_hard" else "warm_start"


def _batch(recipe: Recipe, method: str, settings: Path) -> list[Any]:
    """Options under which a step sees as many prompts whatever the method. A file's batch counts rows with label_token and
    answers with another readout, but supervised methods learn from rows, and GRPO from answers."""
    values = read_yaml(settings)
    batch, group = int(values.get("per_device_train_batch_size", 8)), int(values.get("num_generations", 8))
    if recipe.given.readout == "label_token":
        return ["--per_device_train_batch_size", batch * group] if method.startswith("grpo_") else []
    if not method.startswith("sft_"):
        return []
    if batch % group:
        raise UserError(f"{settings}: per_device_train_batch_size must be a multiple of num_generations")
    return ["--per_device_train_batch_size", batch // group]


def _asked(recipe: Recipe) -> str:
    """A hash of what decides a fold's results: all options but those of what is done, how fast and where; and the files that
    they name."""
    given = recipe.given
    elsewhere = ("stage", "stop_stage", "fold", "exp", "title", "nproc", "corpus_root", "recipe")
    of_recipe = {"method": ",".join(recipe.methods), "model": recipe.model, "split_seed": recipe.split_seed}
    of_recipe |= {"part": recipe.part, "augmentations": recipe.augmentations}
    options = {name: value for name, value in vars(given).items() if name not in elsewhere} | of_recipe
    told = [f"{name}={value}" for name, value in sorted(options.items())]
    files = [recipe.conf("warm_start"), recipe.settings]
    model = Path(recipe.model)
    files.append(model if model.is_file() else CONFIGS / "models" / f"{recipe.model}.yaml")
    files += [Path(given.init) / "trained.safetensors"] if given.init else []
    files += [Path(given.pretrain)] if given.pretrain else []
    told += [file_sha256(file) for file in files if file.is_file()]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


class _Parser(argparse.ArgumentParser):
    """One-line errors that a recipe's user understands."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            word = message.split(": ", 1)[1].split()[0]
            kind = "unknown option" if word.startswith("-") else "unexpected argument"
            raise UserError(f"{kind} {word} (--help lists them)")
        raise UserError(message.replace("argument ", "", 1).replace(": expected one argument", " needs a value"))


def _whole(least: int) -> Any:
    def parsed(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {least} or more")
        return int(text)

    return parsed


def _rates(text: str) -> str:
    """One learning rate, or several with commas, as they are to be written."""
    rates = text.split(",")
    if not all(re.fullmatch(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", rate) for rate in rates):
        raise UserError(f"--learning_rate is '{text}': use 1e-3 or 3e-4,1e-3")
    if not all(float(rate) > 0 for rate in rates) or len(set(map(float, rates))) < len(rates):
        raise UserError(f"--learning_rate is '{text}': rates above 0, each once")
    return text


def _spelt(word: str) -> str:
    """An option with underscores in its name.

    >>> _spelt("--corpus-root=/data/CREMA-D"), _spelt("a-b")
    ('--corpus_root=/data/CREMA-D', 'a-b')
    """
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options in Kaldi's style, `--with_underscores value`; hyphens are taken too.

    Raises:
        UserError: an option is unknown, has no value or a wrong one.
    """
    parser = _Parser(
        usage="run.sh [options]",
        epilog=METHODS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    hidden: dict[str, Any] = {"help": argparse.SUPPRESS}
    number: dict[str, Any] = {"type": _whole(0), "metavar": "N"}
    # fmt: off
    option("--recipe", required=True, **hidden)  # this and the next three are given by a recipe's run.sh
    option("--corpus", required=True, **hidden)
    option("--usual_model", **hidden)
    option("--usual_augmentations", type=_whole(0), default=0, **hidden)
    option("--stage", **number, default=1, help="first stage to run (1)")
    option("--stop_stage", **number, default=7, help="last stage to run (7)")
    option("--corpus_root", metavar="DIR", help="the corpus as it was downloaded; $SHALA_CORPORA/<corpus> where not given")
    option("--method", metavar="NAME", help="one of the methods below, several with commas, or all (shala)")
    option("--baselines", choices=("all", "none"), default="all", help="none: no constant prior and no classifiers (all)")
    option("--readout", choices=READOUTS, default="label_token", help="how the model answers (label_token)")
    option("--init", metavar="FOLDER", help="a trained model of the same task, of any readout, that the warm start goes on from")
    option("--pretrain", metavar="FILE", help="text: manifest of another corpus of the same task, to learn a warm start from first")
    option("--config", metavar="FILE", help="settings of stage 4 (conf/shala_<readout>.yaml, shala_<model>.yaml or, of labels in "
           "an order, shala_ordered.yaml; else conf/shala.yaml)")
    option("--learning_rate", type=_rates, metavar="R", help="peak learning rate of stage 4 (as in --config; the audio adapter "
           "keeps its own there); of several with commas, each method that is trained keeps the one that is best on dev")
    option("--title", metavar="TEXT", help="title of the table")
    option("--exp", metavar="NAME", help="name in the recipe's exp/, or a path (<method>_<readout>_seed<seed>)")
    option("--nproc", type=_whole(1), metavar="N", help="CPU threads (all), and processes of stage 2 (1)")
    option("--max_rows", type=_whole(1), metavar="N", help="keep at most N rows of the corpus (all)")
    option("--seed", **number, default=0, help="of training, and of the split (0)")
    option("--split_seed", **number, help="of the split alone (as --seed): several runs can be tested on the same rows")
    option("--fold", choices=("all", *map(str, FOLDS)), help="chaosnli, crema_d: fold of a cross-validation, or all, pooled")
    option("--split", choices=("emo_superb",), help="crema_d: the speaker folds of EMO-SUPERB, with --fold (ours)")
    option("--model", metavar="NAME", help="a model in configs/models, or a YAML file (speech or text)")
    option("--modality", choices=("audio", "text", "audio+text"), default="text", help="crema_d, msp_podcast: sound, the "
           "transcript alone, or both (audio)")
    option("--part", metavar="NAME", help="chaosnli: snli, mnli or both (snli); lewidi: the corpus, such as md_agreement")
    option("--raters", choices=("in-prompt",), help="lewidi: learn what each rater says, with other answers of that rater before "
           "the question; the mean over a text's raters is its distribution")
    option("--encoder", metavar="NAME", help="text: a text encoder, of the hub or a folder, that is fine-tuned as one more "
           "classifier, such as roberta-base (none)")
    option("--augmentations", "--copies", **number, help="of each training clip: other speed, volume and noise (0; crema_d: 2)")
    option("--skip_bad", choices=("yes",), help="leave out rows whose sound cannot be used, and say how many")
    option("--task", metavar="NAME", help="msp_podcast: msp_podcast (8 classes), msp_podcast_9 (with Other) or msp_podcast_4 "
           "(msp_podcast); lewidi: of another corpus in its form, a YAML file with its labels and the question (as --part)")
    option("--secondary", metavar="SHARE", help="msp_podcast: share of a rater's vote for secondary choices, 0 to below 1 (0)")
    option("--audio_dir", metavar="DIR", help="of your own corpus: where the sound lies below --corpus_root")
    # fmt: on
    given = parser.parse_args([_spelt(word) for word in arguments])
    given.method = given.method or ("sft_soft" if given.raters else "shala")
    return given


def main(arguments: Sequence[str]) -> None:
    """Run a recipe: exit 0 done, 1 a stage failed, 2 the request was wrong."""
    folder = Path(next((value for name, value in itertools.pairwise(arguments) if name == "--recipe"), "."))
    try:
        recipe = Recipe(parse(arguments), arguments)
        if recipe.given.nproc:
            os.environ["OMP_NUM_THREADS"] = str(recipe.given.nproc)
        if recipe.given.fold == "all":
            pool(recipe)
        else:
            run_stages(recipe)
    except UserError as error:
        print(f"{folder.name}/run.sh: error: {error}", file=sys.stderr)
        sys.exit(2)
