"""Several models of one task answer together: the mean of their distributions, as of runs with other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from shala_audio.distribution import LabelDistribution
from shala_audio.errors import UserError
from shala_audio.inference.predictor import Predictor
from shala_audio.models.audio_adapter import AudioAdapter


class Ensemble(Predictor):
    """A `Predictor` whose answers are the mean of several models' answers.

    Args:
        members: of one task, with the same frozen encoder.

    Raises:
        UserError: fewer than two, or of other labels, inputs or encoders.
    """

    def __init__(self, members: Sequence[Predictor]) -> None:
        if len(members) < 2:
            raise UserError("an ensemble of one: name two models or more")
        first = members[0]
        for member in members[1:]:
            if any(
                getattr(member.task, part) != getattr(first.task, part) for part in ("label_names", "modality", "asked")
            ):
                raise UserError(f"{member.folder}: is of task {member.task.name} with other labels than {first.folder}")
            if first.task.has_audio and _frozen(member) != _frozen(first):
                raise UserError(
                    f"{member.folder}: has another frozen encoder, or other layers of it, than {first.folder}"
                )
        super().__init__(first.model, first.device, first.batch_size)
        self.members, self.folder, self.dtype, self._encoder = list(members), first.folder, first.dtype, first._encoder

    @classmethod
    def from_folders(cls, folders: Sequence[str | Path], *arguments: Any, **options: Any) -> Ensemble:
        """Load each as `Predictor.from_pretrained` does, whose other arguments follow."""
        return cls([Predictor.from_pretrained(folder, *arguments, **options) for folder in folders])

    def _answers(
        self, features: Sequence[Tensor | None], texts: Sequence[Mapping[str, str]]
    ) -> list[LabelDistribution]:
        answers = [member._answers(features, texts) for member in self.members]
        self.unparsed = sum(member.unparsed for member in self.members)
        return [_mean(of_input) for of_input in zip(*answers, strict=True)]


def _frozen(predictor: Predictor) -> Any:
    """What decides the features of a clip."""
    config = predictor.model.model_config
    adapter = predictor.model.model.audio_adapter
    read = adapter.layers_read if isinstance(adapter, AudioAdapter) else None
    return (
        read,
        config.cached_layers(),
        config.trim_db,
        config.loudness_db,
        predictor.model.encoder_sha256 or config.encoder,
    )


def _mean(answers: Sequence[LabelDistribution]) -> LabelDistribution:
    first = answers[0]
    attributes = {name: float(np.mean([answer.attributes[name] for answer in answers])) for name in first.attributes}
    probs = np.mean([answer.probs for answer in answers], axis=0)
    return replace(first, probs=probs / probs.sum(), attributes=attributes)
