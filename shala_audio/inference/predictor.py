"""`Predictor`: from clips or texts to label distributions."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from shala_audio.audio.encoders import AudioEncoder, load_encoder
from shala_audio.audio.features import FeatureStore
from shala_audio.audio.sound import SAMPLE_RATE, Samples, frame_levels, trim_silence, voiced_share
from shala_audio.data.rows import Row
from shala_audio.distribution import LabelDistribution
from shala_audio.errors import UserError
from shala_audio.inference.answering import Answering, default_device
from shala_audio.inference.hub import find_model, push
from shala_audio.inference.inputs import Clip, Text, as_pair, named_fields, read_clips, samples_of
from shala_audio.inference.loading import load_model
from shala_audio.inference.windows import Moment, average, window_bounds
from shala_audio.models.sources import locate

BATCHES_HELD = 64  # among whose rows those of similar length are put together


class Predictor(Answering):
    """A trained model with its encoder in front.

    Args:
        model: the speech language model.
        device: where to compute; the accelerator where there is one.
        batch_size: rows computed at once.
        calibration: applied to what the model says; none where None.

    Attributes:
        unparsed: how many `verbalized` answers did not parse and count as no opinion (uniform).
        folder: that the model was loaded from, if it was.
        dtype: that products are computed in.
    """

    _encoder: AudioEncoder | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        calibration: str | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> Predictor:
        """Load the model of a folder: a trained model's, or a recipe's experiment, of which SHALA's model is taken.

        Args:
            folder: where it is, or "user/name" of a model on the Hugging Face hub.
            calibration: "temperature", "temperature_jsd" or "dirichlet", if `shala-audio calibrate` has fitted it.
            device: where to compute; the accelerator where there is one.
            dtype: of the language model; where None, bfloat16 on an accelerator and float32 on a CPU.
            revision: commit, branch or tag of a hub's model.
            options: `batch_size`.

        Raises:
            UserError: there is no such model, or it cannot be loaded.
        """
        folder = find_model(folder, revision)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; MODEL is a folder that `shala-audio train` or a recipe wrote")
        device = device or default_device()
        inside, model, fitted, dtype = load_model(folder, calibration, device, dtype)
        predictor = cls(model, device, calibration=fitted, **options)
        predictor.dtype, predictor.folder = dtype, inside
        return predictor

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

    def push_to_hub(self, repo_id: str, private: bool = True) -> str:
        """Put the model on the Hugging Face hub, with its card: see `hub.push`. Returns its address."""
        if self.folder is None:
            raise UserError("only a model that was loaded from a folder can be put on the hub; save it first")
        return push(self.folder, repo_id, private)

    def predict(self, clip: Clip | None = None, text: Text | None = None) -> LabelDistribution:
        """The distribution of human judgement of one clip or text.

        Args:
            clip: path, open binary file, or (samples, sampling rate). Sound longer than the encoder hears at once
                (30 s) is cut into windows of that length, whose distributions are averaged.
            text: the text, or its fields by name where the task has several.

        Raises:
            UserError: the input is missing, unreadable or not what the task takes.
        """
        return self.predict_batch([(clip, text)])[0]

    def predict_batch(self, inputs: Sequence[Clip | tuple[Clip | None, Text | None]]) -> list[LabelDistribution]:
        """Distributions of several inputs: clips, or (clip, text) pairs with None for what is absent."""
        answers: list[LabelDistribution] = []
        parts: list[tuple[int, float]] = []  # whose, and how long
        waiting: list[tuple[Samples | None, Mapping[str, str]]] = []  # a batch at most, however long the sound is
        for index, item in enumerate(inputs):
            for samples, fields, seconds in self.parts(*as_pair(item)):
                parts.append((index, seconds))
                waiting.append((samples, fields))
                if len(waiting) == self.batch_size:
                    answers += self._hear(waiting)
                    waiting = []
        if waiting:
            answers += self._hear(waiting)
        moments: list[list[Moment]] = [[] for _ in inputs]
        for (index, seconds), answer in zip(parts, answers, strict=True):
            moments[index].append(Moment(0.0, seconds, answer))
        return [average(mine) for mine in moments]

    def timeline(self, clip: Clip, window: float = 4.0, hop: float = 2.0) -> list[Moment]:
        """Distributions of windows over a long clip, which together cover all of it.

        Args:
            clip: as of `predict`.
            window: seconds of each.
            hop: seconds from one to the next.
        """
        samples = samples_of(clip)
        bounds = window_bounds(len(samples), window, hop)
        loudest = float(frame_levels(samples).max())
        answers: list[LabelDistribution] = []
        for at in range(0, len(bounds), self.batch_size):  # so that hours of sound need no more memory than minutes
            part = bounds[at : at + self.batch_size]
            answers += self._hear([(samples[start:end], {}) for start, end in part])
        return [
            Moment(start / SAMPLE_RATE, end / SAMPLE_RATE, answer, voiced_share(samples[start:end], loudest))
            for (start, end), answer in zip(bounds, answers, strict=True)
        ]

    def predict_rows(
        self,
        rows: Iterable[Row],
        features: FeatureStore | None = None,
        audio_root: str | Path | None = None,
        total: int | None = None,
        complain: Callable[[UserError], None] | None = None,
    ) -> Iterator[tuple[str, LabelDistribution]]:
        """Predictions of rows, as `predict_batches` makes them, one after the other."""
        for batch in self.predict_batches(rows, features, audio_root, total, complain):
            yield from batch

    def predict_batches(
        self,
        rows: Iterable[Row],
        features: FeatureStore | None = None,
        audio_root: str | Path | None = None,
        total: int | None = None,
        complain: Callable[[UserError], None] | None = None,
        done: Container[str] = (),
    ) -> Iterator[list[tuple[str, LabelDistribution]]]:
        """Predictions of rows, from the feature cache where there is one, a batch at a time.

        Args:
            rows: any number, in constant memory: some are held at once, and go in order of length for speed.
            features: of their sound.
            audio_root: where their sound lies, if there are no features.
            total: how many rows there are, if `rows` does not know.
            complain: takes the error of a row whose sound cannot be read, which is then left out; raised where None.
            done: ids of rows that are not predicted again; the others share a batch with the same rows as without it.
        """
        if self.task.has_audio and features is None and audio_root is None:
            raise UserError("the rows have sound: name the audio root, or the folder of features")
        total = len(rows) if isinstance(rows, Sized) else total
        with tqdm(total=total, unit="row", desc="predict", disable=None) as bar:
            for batch in self.batches(rows, features):
                taken = len(batch)
                if all(row.id in done for row in batch):
                    bar.update(taken)
                    continue
                if self.task.has_audio and features is None:  # long sound comes in windows, as that of a clip does
                    assert audio_root is not None
                    batch, clips = read_clips(batch, audio_root, complain)
                    texts = [row.text if "text" in self.task.modality else None for row in batch]
                    answers = self.predict_batch(list(zip(clips, texts, strict=True)))
                else:
                    states = [features[row.id] if self.task.has_audio and features else None for row in batch]
                    answers = self._answers(states, [row.text for row in batch])
                yield [(row.id, answer) for row, answer in zip(batch, answers, strict=True) if row.id not in done]
                bar.update(taken)

    def batches(self, rows: Iterable[Row], features: FeatureStore | None) -> Iterator[list[Row]]:
        """Batches of rows of similar length."""
        source = iter(rows)
        while held := list(islice(source, BATCHES_HELD * self.batch_size)):
            held.sort(key=lambda row: (self._row_length(row, features), row.id))
            for start in range(0, len(held), self.batch_size):
                yield held[start : start + self.batch_size]

    def _row_length(self, row: Row, features: FeatureStore | None) -> float:
        if self.task.has_audio:
            if features:
                return features.frames(row.id)
            return (row.audio.duration if row.audio else None) or 0.0  # no sound at all is said where it is read
        return sum(map(len, row.text.values()))

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
        return [(samples[start:end], fields, (end - start) / SAMPLE_RATE) for start, end in bounds]

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
