"""Watching a run on rows that it does not learn from: the distance to the raters, and a table of sample answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from shala_audio.audio.features import FeatureStore
from shala_audio.data.rows import Row
from shala_audio.data.votes import human_distributions
from shala_audio.distribution import LabelDistribution, entropy, jsd
from shala_audio.files import keep_steps
from shala_audio.inference.predictor import Predictor
from shala_audio.models.readouts.verbalized import write_answers
from shala_audio.models.speech_lm import SpeechLM

ROWS = 32  # of dev are asked about; a few seconds each time
SHOWN = 4  # of them stand in the table of sample answers
SAMPLES = "samples.jsonl"


class DevWatch(TrainerCallback):
    """Asks the model about dev rows several times in a run, and logs what it says.

    Logged are `eval_jsd` (mean distance to the raters), `eval_entropy` and `eval_human_entropy` (bits), and for `verbalized`
    answers `eval_valid`, the share that parses. `samples.jsonl` beside the model, and TensorBoard's text, show the first few
    rows. Nothing random is drawn, so a watched run computes what an unwatched one does.

    Args:
        trainer: whose model it is.
        model: the model itself.
        rows: the dev split; 32 with votes, drawn by a hash of their ids, are asked about.
        features: of their sound.
        times: in a run, evenly spread; the last is its end.
        out: folder of the run.
        step: from which an interrupted run goes on; 0 for a new one.
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
        judged = [row for row in rows if row.votes and (features is None or row.id in features)]
        self.rows = sorted(judged, key=lambda row: hashlib.sha256(row.id.encode()).digest())[
            :ROWS
        ]  # not of one speaker
        self.trainer, self.model, self.features, self.times = trainer, model, features, times
        self.path = out / SAMPLES
        keep_steps(self.path, step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        done, before = (
            step * self.times // max(state.max_steps, 1) for step in (state.global_step, state.global_step - 1)
        )
        if done > before and self.rows and state.is_world_process_zero:
            wanted = control.should_log  # which logging clears, as if it had been of training
            self._ask(state.global_step)
            control.should_log = wanted

    def _ask(self, step: int) -> None:
        training = self.model.training
        predictor = Predictor(self.model, str(self.trainer.args.device))  # puts the model into evaluation mode
        found = dict(predictor.predict_rows(self.rows, self.features))
        labels = self.model.task.label_names
        human = human_distributions(self.rows, labels)
        stated = np.stack([found[row.id].probs for row in self.rows])
        logs = {
            "eval_jsd": float(jsd(human, stated).mean()),
            "eval_entropy": float(entropy(stated).mean()),
            "eval_human_entropy": float(entropy(human).mean()),
        }
        if self.model.readout == "verbalized":
            logs["eval_valid"] = 1 - predictor.unparsed / len(self.rows)
        self._show(step, predictor, human, stated)
        self.trainer.log(logs)  # in evaluation mode still: TRL then leaves the averages of training alone
        self.model.train(training)

    def _show(self, step: int, predictor: Predictor, human: Any, stated: Any) -> None:
        labels = self.model.task.label_names
        written: list[str | None] = [None] * SHOWN
        if self.model.readout == "verbalized":
            rows = self.rows[:SHOWN]
            states = None if self.features is None else [self.features[row.id] for row in rows]
            written = list(write_answers(self.model, predictor.inputs(states, [row.text for row in rows])))
        table = ["| row | raters | model |", "|---|---|---|"]
        with open(self.path, "a", encoding="utf-8") as file:
            for row, people, said, answer in zip(self.rows, human, stated, written, strict=False):
                sample = {
                    "step": step,
                    "id": row.id,
                    "text": dict(row.text),
                    "human": dict(zip(labels, np.round(people, 4).tolist(), strict=True)),
                    "stated": dict(zip(labels, np.round(said, 4).tolist(), strict=True)),
                }
                file.write(
                    json.dumps(sample if answer is None else {**sample, "answer": answer}, ensure_ascii=False) + "\n"
                )
                name = " ".join([row.id, *row.text.values()]).replace("|", "\\|").replace("\n", " ")[:200]
                table.append(f"| {name} | {_likeliest(labels, people)} | {_likeliest(labels, said)} |")
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_text("eval/samples", "\n".join(table), step)


def _likeliest(labels: Sequence[str], probs: Any) -> str:
    """The labels of 5 % and more, likeliest first."""
    items = sorted(LabelDistribution(tuple(labels), probs).items(), key=lambda item: -item[1])
    return ", ".join(f"{label} {p:.0%}" for label, p in items if p >= 0.05)
