"""Training rows: prompts and human distributions, as a `datasets.Dataset`, and batches of them."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset

from shala_audio.audio.features import FeatureStore, pad_features
from shala_audio.data.rows import Row, row_attributes
from shala_audio.data.splits import check_speakers
from shala_audio.data.votes import human_distributions, plurality, to_distribution
from shala_audio.errors import UserError
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.tasks import AUDIO_TOKEN


def training_rows(rows: Sequence[Row], model: SpeechLM) -> list[Row]:
    """The rows to learn from, checked.

    Raises:
        UserError: none has votes, a row is of another task or has votes for a label that the model does not have, or a
            speaker is also in another split.
    """
    chosen = [row for row in rows if row.split == "train" and row.votes]
    if not chosen:
        raise UserError("the manifest has no `train` row with votes")
    for row in chosen:
        if row.task != model.task.name:
            raise UserError(f"row {row.id} is of task {row.task}, but the model answers {model.task.name}")
        if model.task.modality == "text" and not row.text:
            raise UserError(
                f"row {row.id}: has no text, and sound does not go in; leave it out, or let sound go in too"
            )
    known = set(model.task.label_names)
    for row in rows:  # of the other splits too: dev is asked about in the middle of the run
        if row.task == model.task.name and (unknown := sorted(set(row.votes) - known)):
            raise UserError(
                f"row {row.id}: votes for {', '.join(unknown)}, which the model of task {row.task} does not have "
                f"({', '.join(model.task.label_names)})"
            )
    check_speakers([row for row in rows if row.votes])
    return chosen


def hard_rows(rows: Sequence[Row], labels: Sequence[str]) -> list[Row]:
    """Rows with their plurality label as the only vote; rows whose first place is shared have none and are left out."""
    kept = []
    for row in rows:
        first = plurality(to_distribution(row.votes, labels))
        if first is not None:
            kept.append(replace(row, votes={labels[first]: 1}))
    return kept


def few_shot_examples(rows: Sequence[Row], model: SpeechLM, count: int, seed: int) -> tuple[dict[str, Any], ...]:
    """Text and votes of some training rows, for the prompt of a model that is not trained.

    Raises:
        UserError: the task has sound (a projector that was not trained says nothing), or there are too few rows.
    """
    if model.task.has_audio:
        raise UserError(
            f"method few_shot: task {model.task.name} has sound, which only a trained projector can pass on"
        )
    if not 1 <= count <= len(rows):
        raise UserError(f"few_shot_examples is {count}; use 1 to {len(rows)}")
    chosen = random.Random(seed).sample(sorted(rows, key=lambda row: row.id), count)
    return tuple({"text": dict(row.text), "votes": dict(row.votes)} for row in chosen)


def build_dataset(rows: Sequence[Row], model: SpeechLM, features: FeatureStore | None) -> Dataset:
    """Rows as TRL wants them: `prompt`, and beside it `id`, `row` (its number), `human` (K,), `length` in tokens and
    `attributes` (A,).

    Raises:
        UserError: a task with sound and no features.
    """
    if model.task.has_audio and features is None:
        raise UserError("features: the task has sound; make them with `shala-audio features` and name the folder")
    builder = PromptBuilder(model)
    prompts = [builder.prompt(row.text, features.frames(row.id) if features else None) for row in rows]
    lengths = [len(ids) for ids in builder.token_ids(prompts)]
    human = human_distributions(rows, model.task.label_names)
    attributes = row_attributes(rows, model.task)
    return Dataset.from_list(
        [
            {
                "id": row.id,
                "row": number,
                "prompt": prompt,
                "human": p.tolist(),
                "length": length,
                "attributes": a.tolist(),
            }
            for number, (row, prompt, p, length, a) in enumerate(
                zip(rows, prompts, human, lengths, attributes, strict=True)
            )
        ]
    )


class Batcher:
    """Dataset rows to tensors: a data collator for `Trainer`.

    Attributes:
        epoch: of training; each pass hears the next one of a clip and its perturbed copies. None: the clips themselves.
        copies: how many perturbed copies of a clip are heard, of those that the features hold.
    """

    def __init__(self, model: SpeechLM, features: FeatureStore | None, copies: int = 0) -> None:
        self.builder = PromptBuilder(model)
        self.features, self.copies = features, copies
        self.epoch: int | None = None

    def hear(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with `sound`, the key of the features that this pass hears, and room for it in their `prompt`."""
        if self.features is None or self.epoch is None or not self.copies:
            return list(rows)
        heard = []
        for row in rows:
            choices = [row["id"], *self.features.copies(row["id"], self.copies)]
            sound = choices[(self.epoch + zlib.crc32(row["id"].encode())) % len(choices)]
            places = self.builder.places(self.features.frames(sound))
            own = AUDIO_TOKEN * row["prompt"].count(AUDIO_TOKEN)
            heard.append({**row, "sound": sound, "prompt": row["prompt"].replace(own, places)})
        return heard

    def audio(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`audio_features` and `audio_lengths` of rows; empty for a task without sound."""
        if self.features is None:
            return {}
        features, lengths = pad_features([self.features[row.get("sound", row["id"])] for row in rows])
        return {"audio_features": features, "audio_lengths": lengths}

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rows = self.hear(rows)
        return {
            "prompt": {**self.builder.batch([row["prompt"] for row in rows]), **self.audio(rows)},
            "human": torch.tensor([row["human"] for row in rows], dtype=torch.float32),
            "attributes": torch.tensor([row["attributes"] for row in rows], dtype=torch.float32),
            "row": torch.tensor([row["row"] for row in rows]),
        }
