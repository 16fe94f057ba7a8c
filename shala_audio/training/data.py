"""Training rows: prompts, human distributions and weights, as a `datasets.Dataset`, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset

from shala_audio.audio.features import FeatureStore
from shala_audio.data.rows import Row
from shala_audio.data.splits import check_speakers
from shala_audio.data.votes import human_distributions
from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.ambiguity import static_weights


def training_rows(rows: Sequence[Row], model: SpeechLM) -> list[Row]:
    """The rows to learn from, checked.

    Raises:
        UserError: none has votes, a row is of another task, or a speaker is also in another split.
    """
    chosen = [row for row in rows if row.split == "train" and row.votes]
    if not chosen:
        raise UserError("the manifest has no `train` row with votes")
    for row in chosen:
        if row.task != model.task.name:
            raise UserError(f"row {row.id} is of task {row.task}, but the model answers {model.task.name}")
    if model.task.name != "msp_podcast":  # that corpus's own partition is kept, and its summary names shared speakers
        check_speakers([row for row in rows if row.votes])
    return chosen


def build_dataset(
    rows: Sequence[Row], model: SpeechLM, features: FeatureStore | None, ambiguity: str, strength: float
) -> Dataset:
    """Rows as TRL wants them: `prompt`, and beside it `id`, `human` (K,) and `weight`.

    Raises:
        UserError: a task with sound and no features, or wrong ambiguity settings.
    """
    if model.task.has_audio and features is None:
        raise UserError("features: the task has sound; make them with `shala-audio features` and name the folder")
    if ambiguity not in ("static", "off"):
        raise UserError(f"ambiguity is {ambiguity!r}; use static or off")
    human: Floats = human_distributions(rows, model.task.label_names)
    weights = static_weights(human, strength if ambiguity == "static" else 0.0)
    builder = PromptBuilder(model)
    return Dataset.from_list(
        [
            {
                "id": row.id,
                "prompt": builder.prompt(row.text, features.frames(row.id) if features else None),
                "human": people.tolist(),
                "weight": float(weight),
            }
            for row, people, weight in zip(rows, human, weights, strict=True)
        ]
    )


class Batcher:
    """Dataset rows to tensors: a data collator for `Trainer`."""

    def __init__(self, model: SpeechLM, features: FeatureStore | None) -> None:
        self.builder = PromptBuilder(model)
        self.features = features

    def audio(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`audio_features` and `audio_lengths` of rows; empty for a task without sound."""
        if self.features is None:
            return {}
        from shala_audio.models.prompts import pad_features

        features, lengths = pad_features([self.features[row["id"]] for row in rows])
        return {"audio_features": features, "audio_lengths": lengths}

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "prompt": {**self.builder.batch([row["prompt"] for row in rows]), **self.audio(rows)},
            "human": torch.tensor([row["human"] for row in rows], dtype=torch.float32),
            "weight": torch.tensor([row["weight"] for row in rows], dtype=torch.float32),
        }
