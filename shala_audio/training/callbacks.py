"""What watches a run: its log, its predictions of dev rows, its checkpoints, and reasons to stop it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from shala_audio.audio.features import FeatureStore
from shala_audio.distribution import LabelDistribution, entropy, jsd
from shala_audio.errors import Stopped, UserError
from shala_audio.inference.predictor import Predictor
from shala_audio.io import is_main_process, keep_steps, read_json, write_json
from shala_audio.manifest import Row
from shala_audio.models.folder import TRAINED
from shala_audio.models.readouts import READOUTS
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.config import METHODS, DirectConfig, GrpoConfig, draws_answers, precision_dtype
from shala_audio.votes import human_distributions

log = logging.getLogger(__name__)


class JsonLog(TrainerCallback):
    """Writes what a trainer logs, one JSON object a line.

    Args:
        path: of the file.
        step: that the run is resumed from; lines of later steps, of before an interruption, are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        keep_steps(path, step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


# Dev rows --------------------------------------------------------------------------------------------------------------

DEV_ROWS = 32  # are predicted; a few seconds each time
SAMPLED_ROWS = 4  # of them stand in the table of sample answers
SAMPLES = "samples.jsonl"


def watched_rows(rows: Sequence[Row], model: SpeechLM, features: FeatureStore | None) -> list[Row]:
    """32 dev rows of the model's task with votes, drawn by a hash of their ids.

    Raises:
        UserError: the prompt of one cannot be written.
    """
    own = (row for row in rows if row.votes and row.task == model.task.name)
    judged = [row for row in own if features is None or row.id in features]
    chosen = sorted(judged, key=lambda row: hashlib.sha256(row.id.encode()).digest())[:DEV_ROWS]  # not of one speaker
    for row in chosen:
        try:
            model.task.question(row.text)
        except UserError as error:
            raise UserError(f"row {row.id}: {error}") from None
    return chosen


class DevEvaluation(TrainerCallback):
    """Predicts dev rows several times in a run, and logs how close it comes.

    Logged are `eval_jsd` (mean distance to the raters), `eval_entropy` and `eval_human_entropy` (bits), and, of answers
    that are written freely, `eval_valid`, the share that parses. `samples.jsonl` beside the model, and TensorBoard's text,
    show the first few rows. Nothing random is drawn, so a run computes the same with and without it.

    Args:
        trainer: whose model it is.
        model: the model itself.
        rows: `watched_rows`, which are predicted.
        features: of their sound.
        times: in a run, evenly spread; the last is its end.
        out: folder of the run.
        step: from which an interrupted run is resumed; 0 for a new one.
    """

    def __init__(
        self,
        trainer: Any,
        model: SpeechLM,
        rows: Sequence[Row],
        features: FeatureStore | None,
        times: int,
        out: Path,
        step: int = 0,
    ) -> None:
        self.rows = rows
        self.trainer, self.model, self.features, self.times = trainer, model, features, times
        self.path = out / SAMPLES
        if is_main_process():
            keep_steps(self.path, step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        done, before = (
            step * self.times // max(state.max_steps, 1) for step in (state.global_step, state.global_step - 1)
        )
        spread = self.trainer.is_fsdp_enabled  # then every process has to go through the layers
        if done > before and self.rows and (state.is_world_process_zero or spread):
            wanted = control.should_log  # which logging clears, as if it had been of training
            whole = self.trainer.model_wrapped if spread else self.model
            training, device = self.model.training, self.trainer.args.device
            # Not in the model's forward, where FSDP has gathered what `to` moves. It puts the model into evaluation mode.
            predictor = Predictor(self.model, str(device), dtype=precision_dtype(self.trainer.args))
            whole(compute=lambda: self._evaluate(predictor, state.global_step, state.is_world_process_zero))
            for module in self.model.modules():
                if isinstance(module, FSDPModule):  # may stay gathered otherwise, with nothing to learn from
                    module.reshard()
            self.model.train(training)
            control.should_log = wanted

    def _evaluate(self, predictor: Predictor, step: int, writes: bool) -> None:
        found = dict(predictor.predict_rows(self.rows, self.features))
        labels = self.model.task.label_names
        human = human_distributions(self.rows, labels)
        predicted = np.stack([found[row.id].probs for row in self.rows])
        logs = {
            "eval_jsd": float(jsd(human, predicted).mean()),
            "eval_entropy": float(entropy(predicted).mean()),
            "eval_human_entropy": float(entropy(human).mean()),
        }
        if self.model.readout.writes_freely:
            logs["eval_valid"] = 1 - predictor.unparsed / len(self.rows)
        shown = self.rows[:SAMPLED_ROWS]
        states = None if self.features is None else [self.features[row.id] for row in shown]
        answers = self.model.readout.answers(predictor.inputs(states, [row.text for row in shown]))
        if writes:
            self._show(step, human, predicted, answers or [None] * SAMPLED_ROWS)
        self.trainer.log(logs)  # in evaluation mode still: the averages of training are left alone

    def _show(self, step: int, human: Any, predicted: Any, written: Sequence[str | None]) -> None:
        labels = self.model.task.label_names
        table = ["| row | raters | model |", "|---|---|---|"]
        with open(self.path, "a", encoding="utf-8") as file:
            for row, people, found, answer in zip(self.rows, human, predicted, written, strict=False):
                sample = {
                    "step": step,
                    "id": row.id,
                    "text": dict(row.text),
                    "human": dict(zip(labels, np.round(people, 4).tolist(), strict=True)),
                    "predicted": dict(zip(labels, np.round(found, 4).tolist(), strict=True)),
                }
                sample |= {} if answer is None else {"answer": answer}
                file.write(json.dumps(sample, ensure_ascii=False) + "\n")
                name = " ".join([row.id, *row.text.values()]).replace("|", "\\|").replace("\n", " ")[:200]
                table.append(f"| {name} | {_likeliest(labels, people)} | {_likeliest(labels, found)} |")
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_text("eval/samples", "\n".join(table), step)


def _likeliest(labels: Sequence[str], probs: Any) -> str:
    """The labels of 5 % and more, likeliest first."""
    items = sorted(LabelDistribution(tuple(labels), probs).items(), key=lambda item: -item[1])
    return ", ".join(f"{label} {p:.0%}" for label, p in items if p >= 0.05)


# Checkpoints -----------------------------------------------------------------------------------------------------------

UNFINISHED = "unfinished"  # folder of a checkpoint that is being written


class CheckpointMoments(TrainerCallback):
    """Has a checkpoint written only where resuming from it is as if there had been no interruption: when all rollouts
    that were drawn are used, since they are not kept, and with everything logged that waits for its mean.

    Args:
        every: steps that rollouts are used for before new ones are drawn; a checkpoint that is due in between waits.
    """

    def __init__(self, every: int) -> None:
        self.every, self.due = every, False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.due |= control.should_save
        control.should_save = self.due and state.global_step % self.every == 0
        if control.should_save:
            self.due, control.should_log = False, True

    on_epoch_end = on_step_end


def checkpoints(out: Path) -> list[Path]:
    """A run's checkpoints, by their steps."""
    found = [folder for folder in out.glob("checkpoint-*") if folder.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("checkpoint-")))


def resolve_resume_checkpoint(config: DirectConfig | GrpoConfig, fingerprint: dict[str, Any]) -> str | None:
    """The newest checkpoint to resume from.

    Raises:
        UserError: there is one, but of other settings, rows or another start than `fingerprint`, or it is not to be resumed.
    """
    out = Path(str(config.output_dir))
    found = str(checkpoints(out)[-1]) if checkpoints(out) else None
    if found is not None and not config.resume:
        raise UserError(
            f"{found}: of a run that was interrupted; --resume continues it, or remove {out} to start afresh"
        )
    if found is not None and (out / "run.json").is_file():
        theirs, fingerprint = comparable(read_json(out / "run.json")), comparable(fingerprint)
        both = fingerprint.keys() | theirs.keys()
        if other := sorted(key for key in both if fingerprint.get(key) != theirs.get(key)):
            raise UserError(
                f"{found}: of a run with other {', '.join(other)}; remove {out} to start afresh, or use the settings it had"
            )
    return found


def is_finished(out: Path, fingerprint: dict[str, Any]) -> bool:
    """Whether the folder holds the end of the very run that is asked for."""
    names = ("run.json", "training.json", TRAINED)
    there = all((out / name).is_file() for name in names)
    return there and comparable(read_json(out / "run.json")) == comparable(fingerprint)


def comparable(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """A run without what only decides how much memory a step takes, which may be changed after it took too much.

    >>> whole = {"method": "shala", "readout": "label_token", "per_device_train_batch_size": 16}
    >>> parts = {**whole, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "gradient_checkpointing": True}
    >>> comparable(whole) == comparable(parts), comparable({**whole, "mixing": 0.5}) == comparable({**parts, "mixing": 0.5})
    (True, False)
    """
    same = {name: value for name, value in fingerprint.items() if name != "gradient_checkpointing"}
    known = same.get("method") in METHODS and same.get("readout") in READOUTS  # not of an earlier version
    # Drawn answers, concordance and mixing depend on which rows are together.
    if not known or draws_answers(same["method"], same["readout"]) or {"attribute_weight", "mixing"} & same.keys():
        return same
    at_once, times = same.pop("per_device_train_batch_size", 8), same.pop("gradient_accumulation_steps", 1)
    return {**same, "rows_per_step": at_once * times}


def step_of(checkpoint: str | None) -> int:
    """The step that a checkpoint was written after; 0 where there is none."""
    return int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0


# Reasons to stop -------------------------------------------------------------------------------------------------------

STEPS_WITHOUT_GRADIENT = 5  # in a row, after which a part counts as cut off


class GradientGuard(TrainerCallback):
    """Stops a run that can only waste time.

    Args:
        parts: trained parameters by what they belong to (`SpeechLM.trained_parts`).
        gradients: whether they can be read: not where they are spread over processes.
        silent: whether all advantages or weights at hand are 0, so that no gradient is no fault.

    Raises (in training):
        Stopped: a gradient is NaN or infinite; or for five steps in a row none has reached a part, though there was
            something to learn.
    """

    def __init__(
        self, parts: dict[str, list[torch.nn.Parameter]], gradients: bool = True, silent: Callable[[], bool] = bool
    ) -> None:
        self.parts, self.gradients, self.silent = parts, gradients, silent
        self.without = dict.fromkeys(parts, 0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.gradients:
            return
        norms = {part: _norm(parameters) for part, parameters in self.parts.items()}
        for part, norm in norms.items():
            if not math.isfinite(norm):
                raise Stopped(
                    f"step {state.global_step + 1}: the gradient of the {part} is NaN or infinite; use a lower "
                    "learning_rate or a longer warm-up (warmup_steps), or bf16 false"
                )
        if not any(norms.values()) and self.silent():
            return
        for part, norm in norms.items():
            self.without[part] = self.without[part] + 1 if norm == 0 else 0
            if self.without[part] >= STEPS_WITHOUT_GRADIENT:
                raise Stopped(
                    f"step {state.global_step + 1}: no gradient has reached the {part} for {STEPS_WITHOUT_GRADIENT} steps; "
                    "it would learn nothing"
                )


def check_loss(loss: Tensor | float, where: str, remedy: str) -> None:
    """Stop at a loss that is NaN or infinite, which transformers would leave out of its averages in silence.

    Raises:
        Stopped: naming the place, and what to do.
    """
    if not math.isfinite(loss):
        raise Stopped(f"{where}: the loss is {float(loss)}; use {remedy}")


def _norm(parameters: list[torch.nn.Parameter]) -> float:
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return float(torch.stack(torch._foreach_norm(found)).float().norm()) if found else 0.0


class ZeroVarianceGroups:
    """Batches of which nothing is learnt, because the answers of every group have equal rewards: counts them, says so, and
    stops a run that has had too many in a row.

    Args:
        patience: batches in a row that stop the run; 0 for never.
        aloud: whether this process is the one that says so.
    """

    STATE = "zero_variance.json"  # in a checkpoint
    ADVICE = "try a longer warm start, more rollouts (num_generations) or a higher temperature"

    def __init__(self, patience: int, aloud: bool) -> None:
        self.patience, self.aloud = patience, aloud
        self.batches = self.in_a_row = 0

    def see(self, groups: Tensor, step: int) -> bool:
        """Whether a batch is one of them.

        Args:
            groups: (prompts, G) rewards, of all processes.
            step: number of the training step, from 1.

        Raises:
            Stopped: it is one too many.
        """
        # Not by advantages that are exactly 0: a mean of equal numbers is off by a rounding error.
        silent = bool((groups.amax(dim=1) - groups.amin(dim=1)).max() < 1e-6)
        if not silent:
            self.in_a_row = 0
            return False
        self.batches += 1
        self.in_a_row += 1
        mean = f"({float(groups.mean()):.3f} on average)"
        if self.patience and self.in_a_row >= self.patience:
            raise Stopped(
                f"step {step}: all groups have had zero reward variance for {self.in_a_row} batches in a row {mean}, so "
                f"nothing is learnt; {self.ADVICE}"
            )
        if self.aloud and self.batches in (1, 10, 100, 1000):
            log.warning(
                "step %d: all groups have zero reward variance %s, so nothing is learnt from this batch (so far %d such); %s",
                step,
                mean,
                self.batches,
                self.ADVICE,
            )
        return True

    def save(self, folder: str | Path) -> None:
        """Keep the counts, so that a run which is interrupted again and again stops as well."""
        write_json(Path(folder) / self.STATE, {"batches": self.batches, "in_a_row": self.in_a_row})

    def load(self, folder: str | Path) -> None:
        """Take the counts of a checkpoint."""
        if (path := Path(folder) / self.STATE).is_file():
            found = read_json(path)
            self.batches, self.in_a_row = found["batches"], found["in_a_row"]
