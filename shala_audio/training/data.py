"""Training rows as a `datasets.Dataset` of prompts and human distributions, batches of them, and the order of the visits."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler

from shala_audio.audio.features import FeatureStore, pad_features
from shala_audio.corpora.splits import check_speakers
from shala_audio.distribution import Floats, entropy
from shala_audio.errors import UserError
from shala_audio.manifest import Row, row_attributes
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.targets import Targets, mix
from shala_audio.votes import human_distributions, plurality, to_distribution

# A batch's frames are a multiple of it: kernels and memory for one length serve the next batch as well. On a CPU a step takes
# a fifth less time and half the memory than with all lengths there are.
FRAMES_TOGETHER = 32
BATCHES_SORTED = 8  # rows are sorted by length within so many batches: little padding, and still a random order


def visit_order(
    lengths: Sequence[int], batch: int, seed: int, epoch: int, ranks: Sequence[float] | Floats | None = None
) -> list[int]:
    """Row numbers of one epoch, each once.

    Args:
        lengths: of every row, in tokens; neighbours in a batch come to have similar ones.
        batch: rows of one batch.
        seed, epoch: the order depends on both, and on nothing else.
        ranks: of every row, the lowest first in the first pass; in random order where None.

    >>> visit_order([3, 9, 3, 9], batch=2, seed=0, epoch=0) in ([0, 2, 1, 3], [2, 0, 1, 3], [1, 3, 0, 2], [1, 3, 2, 0])
    True
    """
    ranks = ranks if epoch == 0 else None
    rng = np.random.default_rng([seed, epoch])
    rows = rng.permutation(len(lengths))
    if ranks is not None:
        rows = rows[np.argsort(np.asarray(ranks)[rows], kind="stable")]
    measured = np.asarray(lengths)
    batches: list[list[int]] = []
    whole = len(rows) - len(rows) % batch  # a batch that is not full comes last
    for start in range(0, whole, batch * BATCHES_SORTED):
        chunk = rows[start : min(start + batch * BATCHES_SORTED, whole)]
        chunk = chunk[np.argsort(measured[chunk], kind="stable")]
        batches += [chunk[at : at + batch].tolist() for at in range(0, len(chunk), batch)]
    visits = rng.permutation(len(batches)) if ranks is None else range(len(batches))
    order = [row for index in visits for row in batches[index]]
    return order + rows[whole:].tolist()


def curriculum_ranks(dataset: Dataset) -> Floats:
    """Ranks of rows that begin with those that raters agree about: the entropy of what they said, in bits."""
    return entropy(np.asarray(dataset["human"]))


class RowSampler(Sampler[int]):
    """Rows in `visit_order`, and TRL's repetition of them where there are groups of rollouts.

    Args:
        order: epoch to row numbers.
        repeats: a sampler over positions in that order, such as TRL's `RepeatSampler` without shuffling; None visits each
            position once.
        rows: how many rows there are.
    """

    def __init__(self, order: Callable[[int], list[int]], rows: int, repeats: Any = None) -> None:
        self.order, self.repeats, self.rows = order, repeats, rows
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer when an epoch begins, or is resumed."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = self.order(self.epoch)
        positions = range(len(order)) if self.repeats is None else self.repeats
        return (order[position] for position in positions)

    def __len__(self) -> int:
        return self.rows if self.repeats is None else len(self.repeats)


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
        epoch: of training; each pass takes the next one of a clip and its augmentations. None: the clips themselves.
        augmentations: of each clip, of those that the features hold.
        targets: what a pass learns of each row, in place of its human distribution.
        mixing: share of clips that are mixed with another one of their batch.
    """

    def __init__(
        self,
        model: SpeechLM,
        features: FeatureStore | None,
        augmentations: int = 0,
        targets: Targets | None = None,
        mixing: float = 0.0,
    ) -> None:
        self.builder = PromptBuilder(model)
        self.features, self.augmentations = features, augmentations
        self.targets, self.mixing = targets, mixing
        self.epoch: int | None = None

    def augmented(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with `sound`, the key of the features that this pass takes, and placeholders for it in their `prompt`."""
        if self.features is None or self.epoch is None or not self.augmentations:
            return list(rows)
        found = []
        for row in rows:
            choices = [row["id"], *self.features.augmentations(row["id"], self.augmentations)]
            sound = choices[(self.epoch + zlib.crc32(row["id"].encode())) % len(choices)]
            placeholders = self.builder.placeholders(self.features.frames(sound))
            own = self.builder.placeholders(self.features.frames(row["id"]))
            found.append({**row, "sound": sound, "prompt": row["prompt"].replace(own, placeholders)})
        return found

    def audio(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`audio_features` and `audio_lengths` of rows; empty for a task without sound."""
        if self.features is None:
            return {}
        features, lengths = pad_features([self.features[row.get("sound", row["id"])] for row in rows], FRAMES_TOGETHER)
        return {"audio_features": features, "audio_lengths": lengths}

    def learnt(self, rows: Sequence[dict[str, Any]]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Sound of rows as `audio` has it, what is learnt of them (B, K), and how much each counts (B,)."""
        audio = self.audio(rows)
        p = torch.tensor([row["human"] for row in rows], dtype=torch.float32)
        weight = torch.ones(len(rows))
        if self.targets is not None:
            p, weight = self.targets.of(np.array([row["row"] for row in rows]), self.epoch or 0)
        if self.mixing and audio:
            seed = self.targets.seed if self.targets is not None else 0
            rng = np.random.default_rng([seed, self.epoch or 0, *(row["row"] for row in rows)])
            weighted = weight[:, None] * p
            mixed, weighted = mix(audio["audio_features"], audio["audio_lengths"], weighted, self.mixing, rng)
            weight = weighted.sum(dim=1)
            audio, p = {**audio, "audio_features": mixed}, weighted / weight[:, None]
        return audio, p, weight

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rows = self.augmented(rows)
        audio, target, weight = self.learnt(rows)
        return {
            "prompt": {**self.builder.batch([row["prompt"] for row in rows]), **audio},
            "human": torch.tensor([row["human"] for row in rows], dtype=torch.float32),
            "target": target,
            "row_weight": weight,
            "attributes": torch.tensor([row["attributes"] for row in rows], dtype=torch.float32),
            "row": torch.tensor([row["row"] for row in rows]),
        }
