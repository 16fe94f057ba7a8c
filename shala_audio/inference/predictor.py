"""`Predictor`: from clips or texts to label distributions."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from shala_audio.audio.features import FeatureStore
from shala_audio.audio.sound import SAMPLE_RATE, Samples, frame_levels, voiced_share
from shala_audio.cores import default_device
from shala_audio.data.rows import Row
from shala_audio.distribution import LabelDistribution
from shala_audio.errors import UserError
from shala_audio.inference.hearing import Hearing
from shala_audio.inference.hub import find_model, push
from shala_audio.inference.inputs import Clip, Text, samples_of, sound_of
from shala_audio.inference.loading import load_model
from shala_audio.inference.windows import Moment, window_bounds

BATCHES_HELD = 64  # among whose rows those of similar length are put together


class Predictor(Hearing):
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
            dtype: of the language model; where None, bfloat16 on an accelerator that computes in it, else float32.
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

    def timeline(self, clip: Clip, window: float = 4.0, hop: float = 2.0) -> list[Moment]:
        """Distributions of windows over a long clip, which together cover all of it.

        Args:
            clip: as of `predict`.
            window: seconds of each, 0.025 to what the encoder hears at once (30).
            hop: seconds from one to the next, at most `window`.

        Raises:
            UserError: as of `predict`, or a window or hop beyond these bounds.
        """
        if window > self.encoder.longest:
            raise UserError(f"window {window:g} s: {self.encoder.longest:g} s at most are heard at once")
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
            complain: takes the error of a row that cannot be predicted, which is then left out; raised where None.
            done: ids of rows that are not predicted again; the others share a batch with the same rows as without it.

        Yields:
            (id, distribution) of the rows of a batch.

        Raises:
            UserError: neither features nor an audio root are given, or, naming the row, it cannot be predicted.
        """
        if self.task.has_audio and features is None and audio_root is None:
            raise UserError("the rows have sound: name the audio root, or the folder of features")
        if self.task.has_audio and features is None:
            _ = self.encoder  # what keeps it from being loaded is no row's fault
        total = len(rows) if isinstance(rows, Sized) else total
        with tqdm(total=total, unit="row", desc="predict", disable=None) as bar:
            for batch in self.batches(rows, features):
                taken = len(batch)
                if all(row.id in done for row in batch):
                    bar.update(taken)
                    continue
                answers = self._rows(batch, features, audio_root, complain, done)
                yield [answer for answer in answers if answer[0] not in done]
                bar.update(taken)

    def _rows(
        self,
        batch: Sequence[Row],
        features: FeatureStore | None,
        audio_root: str | Path | None,
        complain: Callable[[UserError], None] | None,
        done: Container[str],
    ) -> list[tuple[str, LabelDistribution]]:
        """Predictions of a batch of rows, without those whose sound cannot be read. Where it has another error, of its rows
        one by one, so that the row can be named."""
        unparsed, heard, silent = self.unparsed, [], set()

        def inputs() -> Iterator[tuple[tuple[Samples, int], Mapping[str, str] | None]]:
            for row in batch:
                try:
                    clip = sound_of(row, str(audio_root))
                except UserError as error:
                    silent.add(row.id)
                    _complain(error, row, complain)
                else:
                    heard.append(row.id)
                    yield clip, row.text if "text" in self.task.modality else None

        try:
            if self.task.has_audio and features is None:  # long sound comes in windows, as that of a clip does
                answers = self.predict_batch(inputs())
                return list(zip(heard, answers, strict=True))
            states = [features[row.id] if self.task.has_audio and features else None for row in batch]
            answers = self._answers(states, [row.text for row in batch])
            return list(zip([row.id for row in batch], answers, strict=True))
        except UserError as error:
            if silent and complain is None:
                raise
            self.unparsed = unparsed
            if len(batch) == 1:
                _complain(error, batch[0], complain)
                return []
            left = [row for row in batch if row.id not in silent and row.id not in done]
            return [answer for row in left for answer in self._rows([row], features, audio_root, complain, done)]

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


def _complain(error: UserError, row: Row, complain: Callable[[UserError], None] | None) -> None:
    """Name the row in an error, and hand it to `complain`; raised where None."""
    named = error if row.id in str(error) else UserError(f"row {row.id}: {error}")
    if complain is None:
        raise named from None
    complain(named)
