"""Rows, features and trainers of tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from shala_audio.audio.features import augmented_id
from shala_audio.manifest import Audio, Row
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.ambiguity import AmbiguityWeights
from shala_audio.training.config import METHOD_ALIASES, METHODS, DirectConfig, GrpoConfig, draws_answers
from shala_audio.training.data import Batcher, build_dataset
from shala_audio.training.direct import DirectTrainer
from shala_audio.training.grpo import GrpoTrainer
from shala_audio.votes import vote_counts
from tests.tiny import random_features

VOTES = ({"anger": 5}, {"disgust": 3, "anger": 2}, {"disapproval": 2, "disgust": 2, "anger": 1}, {"disgust": 5})


class TinyStore:
    """Features of rows in memory, with the reading side of `FeatureStore`."""

    def __init__(self, features: dict[str, Tensor]) -> None:
        self.features = features

    def augmentations(self, row_id: str, most: int) -> list[str]:
        return [key for number in range(1, most + 1) if (key := augmented_id(row_id, number)) in self.features]

    def frames(self, row_id: str) -> int:
        return self.features[row_id].shape[1]

    def __getitem__(self, row_id: str) -> Tensor:
        return self.features[row_id]


def tiny_rows(model: SpeechLM, count: int = 8) -> tuple[list[Row], TinyStore | None]:
    speech = model.task.has_audio
    rows = [
        Row(
            f"row{index}",
            model.task.name,
            "train",
            f"s{index}",
            Audio(f"{index}.wav") if speech else None,
            {} if speech else {"comment": f"comment number {index}"},
            VOTES[index % len(VOTES)],
        )
        for index in range(count)
    ]
    store = TinyStore(dict(zip([row.id for row in rows], random_features(count), strict=True))) if speech else None
    return rows, store


def config(out: Path, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "per_device_train_batch_size": 8,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "bf16": False,
        "disable_tqdm": True,
        "logging_steps": 1,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        **options,
    }
    method = METHOD_ALIASES.get(settings.get("method", "shala"), settings.get("method", "shala"))
    if method in METHODS and draws_answers(method, settings.get("readout", "label_token")):
        return GrpoConfig(**{"num_generations": 4, "max_completion_length": 24, **settings})
    return DirectConfig(**settings)


def shala_trainer(model: SpeechLM, out: Path, count: int = 8, rows: list[Row] | None = None, **options: Any) -> Any:
    """Of a method that is not supervised; "shala" if not given."""
    made, store = tiny_rows(model, count)
    rows = rows or made
    settings = config(out, readout=model.readout.name, **options)
    dataset = build_dataset(rows, model, store)  # type: ignore[arg-type]
    weights = AmbiguityWeights(vote_counts(rows, model.task.label_names), settings.ambiguity_settings())
    trainer = GrpoTrainer if isinstance(settings, GrpoConfig) else DirectTrainer
    return trainer(model, settings, dataset, Batcher(model, store), weights)  # type: ignore[arg-type]


def supervised_trainer(model: SpeechLM, out: Path, count: int = 8, **options: Any) -> DirectTrainer:
    rows, store = tiny_rows(model, count)
    dataset = build_dataset(rows, model, store)  # type: ignore[arg-type]
    settings = config(out, readout=model.readout.name, **{"method": "warm_start", **options})
    return DirectTrainer(model, settings, dataset, Batcher(model, store))  # type: ignore[arg-type]
