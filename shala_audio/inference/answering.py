"""A model that answers batches: on its device, in its precision, with its calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shala_audio.cores import default_device
from shala_audio.distribution import LabelDistribution
from shala_audio.evaluation.calibration import Calibration
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts.answers import Answers, answer_form, read_out
from shala_audio.models.readouts.label_token import LabelTree, label_states
from shala_audio.models.speech_lm import SpeechLM

PROMPT_ALONE = LabelTree([(0,), (1,)])  # two words that part at once: nothing after the prompt is computed


class Answering:
    """From features and texts to distributions; `Predictor` adds how sound, rows and folders become those.

    Args:
        model: the speech language model.
        device: where to compute; the accelerator where there is one.
        batch_size: rows computed at once.
        calibration: applied to what the model says; none where None.
    """

    def __init__(
        self,
        model: SpeechLM,
        device: str | None = None,
        batch_size: int = 16,
        calibration: Calibration | None = None,
    ) -> None:
        self.device = device or default_device()
        self.model = model.eval().to(self.device)
        self.task = model.task
        self.batch_size, self.calibration = batch_size, calibration
        self.builder, self.form = PromptBuilder(model), answer_form(model)
        self.unparsed = 0
        self.folder: Path | None = None
        self.dtype = torch.float32

    def _answers(
        self, features: Sequence[Tensor | None], texts: Sequence[Mapping[str, str]]
    ) -> list[LabelDistribution]:
        """What the model says of each input of a batch."""
        return self._batch(self.inputs([clip for clip in features if clip is not None] or None, texts))

    def inputs(self, features: Sequence[Tensor] | None, texts: Sequence[Mapping[str, str]]) -> dict[str, Tensor]:
        """A batch for the model: prompts (B, L), left-padded, and features of the sound where there is any."""
        frames = [clip.shape[1] for clip in features] if features else [None] * len(texts)
        prompts = [self.builder.prompt(text, count) for text, count in zip(texts, frames, strict=True)]
        batch = self.builder.batch(prompts, features)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    @torch.inference_mode()
    def states(self, inputs: dict[str, Tensor]) -> np.ndarray:
        """(B, D) float32: the language model's last state of each prompt, from which the answer follows."""
        with self._precision():
            return label_states(self.model, PROMPT_ALONE, inputs)[:, 0].float().cpu().numpy()

    def _batch(self, batch: dict[str, Any]) -> list[LabelDistribution]:
        """B distributions by the model's readout, with the attributes that it states."""
        return self._distributions(self._read(batch))

    @torch.inference_mode()
    def _read(self, batch: dict[str, Any]) -> Answers:
        with self._precision():
            return read_out(self.model, self.form, batch)

    def _distributions(self, found: Answers) -> list[LabelDistribution]:
        self.unparsed += found.unparsed
        probs = found.probs if self.calibration is None else self.calibration(found.probs)
        return [
            LabelDistribution(self.task.label_names, p, numbers)
            for p, numbers in zip(probs, found.attributes, strict=True)
        ]

    def _precision(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, self.dtype, enabled=self.dtype != torch.float32)
