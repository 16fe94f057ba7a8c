"""A model that answers to what people hand over: clips and texts, through the audio encoder in front of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from shala_audio.audio.encoders import AudioEncoder, load_encoder
from shala_audio.audio.sound import SAMPLE_RATE, Samples, trim_silence
from shala_audio.distribution import LabelDistribution
from shala_audio.errors import UserError
from shala_audio.inference.answering import Answering
from shala_audio.inference.inputs import Clip, Text, as_pair, named_fields, samples_of
from shala_audio.inference.windows import Moment, average, window_bounds
from shala_audio.models.sources import locate


class Hearing(Answering):
    """From clips and texts to distributions; `Predictor` adds folders of models, timelines and rows.

    Its arguments are those of `Answering`.
    """

    _encoder: AudioEncoder | None = None

    @property
    def encoder(self) -> AudioEncoder:
        """The audio encoder, loaded when the first clip comes."""
        if self._encoder is None:
            config = self.model.model_config
            if config.encoder is None or not self.task.has_audio:
                raise UserError(f"task {self.task.name} takes text, not sound")
            self._encoder = load_encoder(
                locate(config.encoder, sha256=self.model.encoder_sha256), config.cached_layers(), self.device
            )
        return self._encoder

    def predict_batch(self, inputs: Iterable[Clip | tuple[Clip | None, Text | None]]) -> list[LabelDistribution]:
        """Distributions of several inputs: clips, or (clip, text) pairs with None for what is absent.

        They are gone through once, and the sound of one and a batch of windows are held.

        Raises:
            UserError: as of `predict`.
        """
        answers: list[LabelDistribution] = []
        parts: list[tuple[int, float]] = []  # whose, and how long
        waiting: list[tuple[Samples | None, Mapping[str, str]]] = []  # a batch at most, however long the sound is
        moments: list[list[Moment]] = []
        for index, item in enumerate(inputs):
            moments.append([])
            for samples, fields, seconds in self.parts(*as_pair(item)):
                parts.append((index, seconds))
                waiting.append((samples, fields))
                if len(waiting) == self.batch_size:
                    answers += self._hear(waiting)
                    waiting = []
        if waiting:
            answers += self._hear(waiting)
        for (index, seconds), answer in zip(parts, answers, strict=True):
            moments[index].append(Moment(0.0, seconds, answer))
        return [average(mine) for mine in moments]

    def parts(self, clip: Clip | None, text: Text | None) -> Iterable[tuple[Samples | None, Mapping[str, str], float]]:
        """Sound, text fields and seconds of an input; several of them where the clip is long."""
        if clip is None and self.task.has_audio:
            raise UserError(f"task {self.task.name} needs sound")
        if clip is not None and not self.task.has_audio:
            raise UserError(f"task {self.task.name} takes text, not sound")
        fields = named_fields(self.task, text)
        if clip is None:
            return [(None, fields, 1.0)]
        samples = samples_of(clip)
        longest = self.encoder.longest
        bounds = window_bounds(len(samples), longest, longest)
        if len(bounds) == 1:
            return [(samples, fields, len(samples) / SAMPLE_RATE)]
        # Copies, so that a window that waits for others does not hold hours of sound.
        return ((samples[start:end].copy(), fields, (end - start) / SAMPLE_RATE) for start, end in bounds)

    def _hear(self, parts: Sequence[tuple[Samples | None, Mapping[str, str]]]) -> list[LabelDistribution]:
        """Answers to a batch of (sound, text fields)."""
        states: Sequence[Tensor | None] = [None] * len(parts)
        if clips := [samples for samples, _ in parts if samples is not None]:
            states = self.encode(clips)
        return self._answers(states, [fields for _, fields in parts])

    def encode(self, clips: Sequence[Samples]) -> list[Tensor]:
        """Features as training saw them: rounded to float16, as the feature cache keeps them."""
        trim_db = self.model.model_config.trim_db
        if trim_db is not None:
            clips = [trim_silence(clip, trim_db) for clip in clips]
        return [clip.to(torch.float16) for clip in self.encoder.encode(clips)]

    def predict_with_state(self, clip: Clip | None, text: Text | None) -> tuple[LabelDistribution, np.ndarray]:
        """As `predict`, and the state (D,) that the answer follows from; of long sound, the mean over its windows."""
        moments, states = [], []
        for samples, fields, seconds in self.parts(clip, text):
            inputs = self.inputs(None if samples is None else self.encode([samples]), [fields])
            found = self._read(inputs)
            (answer,) = self._distributions(found)
            moments.append(Moment(0.0, seconds, answer))
            states.append((self.states(inputs) if found.states is None else found.states)[0])
        return average(moments), np.average(states, axis=0, weights=[moment.end for moment in moments])
