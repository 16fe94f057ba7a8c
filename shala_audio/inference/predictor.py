"""`Predictor`: from clips or texts to label distributions."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import chain, islice
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from shala_audio.audio.clips import Clip, is_recording, samples_of
from shala_audio.audio.encoders import AudioEncoder, load_encoder
from shala_audio.audio.features import FeatureStore
from shala_audio.audio.io import (
    SAMPLE_RATE,
    Samples,
    frame_levels,
    read_row_audio,
    set_loudness,
    trim_silence,
    voiced_share,
)
from shala_audio.audio.speech import speech_remark
from shala_audio.devices import default_device, product_dtype
from shala_audio.distribution import LabelDistribution, LabelRates
from shala_audio.errors import Note, UserError, no_note, not_one_of
from shala_audio.evaluation.calibration import KINDS, Calibration, load_calibration
from shala_audio.inference.hub import find_model, push
from shala_audio.inference.windows import Moment, average, window_bounds
from shala_audio.io import read_json
from shala_audio.manifest import Row
from shala_audio.models.audio_adapter import AudioAdapter
from shala_audio.models.folder import SETTINGS
from shala_audio.models.lora import merge_adapters
from shala_audio.models.pretrained import language_model_without_weights, locate, published_dtype
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts.base import Prediction
from shala_audio.models.readouts.label_token import LabelTree, label_states
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import ASKED, YES, Task

log = logging.getLogger(__name__)

LOADING = RLock()  # transformers cannot load two models at once: it changes torch's defaults meanwhile

Text = str | Mapping[str, str]
BATCHES_HELD = 64  # among whose rows those of similar length are put together
NO_TREE = LabelTree([(0,), (1,)])  # of two words that part at once: nothing after the prompt is computed


class Predictor:
    """A trained model with its encoder in front.

    Args:
        model: the speech language model.
        device: where to compute; the accelerator where there is one.
        batch_size: rows computed at once.
        calibration: applied to what the model says; none where None.
        dtype: that products are computed in; where None, bfloat16 if the language model is held in it, else float32.

    Attributes:
        unparsed: how many `verbalized` answers did not parse and count as no opinion (uniform).
        folder: that the model was loaded from, if it was.
        note: told what is odd about a clip: its channels, or that there is no speech in it.
    """

    def __init__(
        self,
        model: SpeechLM,
        device: str | None = None,
        batch_size: int = 16,
        calibration: Calibration | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.device = device or default_device()
        spread = any(isinstance(parameter, DTensor) for parameter in model.parameters())
        self.model = model.eval() if spread else model.eval().to(self.device)  # FSDP says where its shards lie
        self.task = model.task
        self.batch_size, self.calibration = batch_size, calibration
        self.builder = PromptBuilder(model)
        self.unparsed = 0
        self.folder: Path | None = None
        held = model.get_input_embeddings().weight.dtype
        self.dtype = dtype or (held if held in (torch.bfloat16, torch.float16) else torch.float32)
        self._encoder: AudioEncoder | None = None
        self.note: Note = log.warning

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
            calibration: "temperature", "temperature_jsd" or "dirichlet", if `shala-audio evaluate calibrate` has fitted it.
            device: where to compute; the accelerator where there is one.
            dtype: of the language model's products; where None, bfloat16 on an accelerator that computes in it, float16 on
                another, and float32 on a CPU, but for models above a billion parameters where bfloat16 is faster there.
            revision: commit, branch or tag of a hub's model.
            options: `batch_size`.

        Raises:
            UserError: there is no such model, or it cannot be loaded.
        """
        folder = find_model(folder, revision)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; MODEL is a folder that `shala-audio train` or a recipe wrote")
        device = device or default_device()
        with LOADING:
            inside, model, fitted, dtype, encoder = _load(folder, calibration, device, dtype)
        predictor = cls(model, device, calibration=fitted, dtype=dtype, **options)
        predictor.folder = inside
        predictor._encoder = encoder
        return predictor

    def push_to_hub(self, repo_id: str, private: bool = True) -> str:
        """Put the model on the Hugging Face hub, with its card: see `hub.push`. Returns its address."""
        if self.folder is None:
            raise UserError("only a model that was loaded from a folder can be put on the hub; save it first")
        return push(self.folder, repo_id, private)

    def predict(
        self, clip: Clip | None = None, text: Text | None = None, channel: int | None = None
    ) -> LabelDistribution:
        """The distribution of human judgement of one clip or text.

        Args:
            clip: path, bytes, open binary file, (samples, sampling rate), or `datasets`' dict (`clips.samples_of` has all
                forms). Sound longer than the encoder takes at once (30 s) is cut into windows of that length, whose
                distributions are averaged.
            text: the text, or its fields by name where the task has several.
            channel: of the sound, from 0; the mean of all where None.

        Raises:
            UserError: the input is missing, unreadable or not what the task takes.
        """
        return self.predict_batch([(clip, text)], channel)[0]

    def timeline(self, clip: Clip, window: float = 4.0, hop: float = 2.0, channel: int | None = None) -> list[Moment]:
        """Distributions of windows over a long clip, which together cover all of it.

        Args:
            clip: as of `predict`.
            window: seconds of each, 0.025 to what the encoder takes at once (30).
            hop: seconds from one to the next, at most `window`.
            channel: as of `predict`.

        Raises:
            UserError: as of `predict`, or a window or hop beyond these bounds.
        """
        if window > self.encoder.longest:
            raise UserError(f"window {window:g} s: {self.encoder.longest:g} s at most are encoded at once")
        samples = samples_of(clip, channel, self.note)
        bounds = window_bounds(len(samples), window, hop)
        loudest = float(frame_levels(samples).max())
        answers: list[LabelDistribution] = []
        for at in range(0, len(bounds), self.batch_size):  # so that hours of sound need no more memory than minutes
            part = bounds[at : at + self.batch_size]
            answers += self._predict_parts([(samples[start:end], {}) for start, end in part])
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
        unparsed, read, unreadable = self.unparsed, [], set()

        def inputs() -> Iterator[tuple[tuple[Samples, int], Mapping[str, str] | None]]:
            for row in batch:
                try:
                    clip = sound_of(row, str(audio_root))
                except UserError as error:
                    unreadable.add(row.id)
                    _complain(error, row, complain)
                else:
                    read.append(row.id)
                    yield clip, row.text if "text" in self.task.modality else None

        try:
            if self.task.has_audio and features is None:  # long sound comes in windows, as that of a clip does
                answers = self.predict_batch(inputs())
                return list(zip(read, answers, strict=True))
            states = [features[row.id] if self.task.has_audio and features else None for row in batch]
            answers = self._answers(states, [row.text for row in batch])
            return list(zip([row.id for row in batch], answers, strict=True))
        except UserError as error:
            if unreadable and complain is None:
                raise
            self.unparsed = unparsed
            if len(batch) == 1:
                _complain(error, batch[0], complain)
                return []
            left = [row for row in batch if row.id not in unreadable and row.id not in done]
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

    def predict_batch(
        self,
        inputs: Iterable[Clip | tuple[Clip | None, Text | None]] = (),
        channel: int | None = None,
        texts: Iterable[Text] = (),
    ) -> list[LabelDistribution]:
        """Distributions of several inputs: clips, or (clip, text) pairs with None for what is absent; and of texts.

        They are gone through once, and the sound of one and a batch of windows are held.

        Args:
            inputs: clips as of `predict`.
            channel: of all clips, as of `predict`.
            texts: without sound; their answers come after those of `inputs`.

        Raises:
            UserError: as of `predict`.
        """
        both = chain(inputs, ((None, text) for text in texts))
        return [average(moments) for moments, _ in self._whole(both, channel, self._predict_parts)]

    def predict_rates(self, texts: Iterable[Text]) -> list[LabelRates]:
        """What share of people would choose each label of each text, by a model that is asked about one label at a time
        (`shala-audio data labels`).

        Args:
            texts: as of `predict`, without the label.

        Raises:
            UserError: as of `predict`, or the model's task has no labels to ask about.
        """
        asked = self.task.asked
        if not asked:
            raise UserError(f"task {self.task.name}: its answer is one distribution; ask for `predict`")
        questions = [{**named_fields(self.task, text), ASKED: label.word} for text in texts for label in asked]
        yes = [answer[YES] for answer in self.predict_batch(texts=questions)]
        names = [label.name for label in asked]
        return [
            LabelRates(dict(zip(names, yes[at : at + len(names)], strict=True)))
            for at in range(0, len(yes), len(names))
        ]

    def predict_with_states(
        self, inputs: Iterable[Clip | tuple[Clip | None, Text | None]]
    ) -> list[tuple[LabelDistribution, np.ndarray]]:
        """As `predict_batch`, and for each input the state (D,) float32 that its answer follows from; of long sound, the mean
        over its windows."""
        states: list[np.ndarray] = []  # of every window

        def read(parts: Sequence[tuple[Samples | None, Mapping[str, str]]]) -> list[LabelDistribution]:
            clips = [samples for samples, _ in parts if samples is not None]
            batch = self.inputs(self.encode(clips) if clips else None, [fields for _, fields in parts])
            found = self._read(batch)
            states.extend(self.states(batch) if found.states is None else found.states)
            return self._distributions(found)

        return [
            (average(moments), np.average([states[n] for n in windows], axis=0, weights=[one.end for one in moments]))
            for moments, windows in self._whole(inputs, None, read)
        ]

    def _whole(
        self,
        inputs: Iterable[Clip | tuple[Clip | None, Text | None]],
        channel: int | None,
        read: Callable[[Sequence[tuple[Samples | None, Mapping[str, str]]]], list[LabelDistribution]],
    ) -> list[tuple[list[Moment], list[int]]]:
        """For each input, what `read` says of its windows, and which of all windows they are."""
        answers: list[LabelDistribution] = []
        parts: list[tuple[int, float]] = []  # whose, and how long
        waiting: list[tuple[Samples | None, Mapping[str, str]]] = []  # a batch at most, however long the sound is
        found: list[tuple[list[Moment], list[int]]] = []
        for index, item in enumerate(inputs):
            found.append(([], []))
            for samples, fields, seconds in self.parts(*as_pair(item), channel):
                parts.append((index, seconds))
                waiting.append((samples, fields))
                if len(waiting) == self.batch_size:
                    answers += read(waiting)
                    waiting = []
        if waiting:
            answers += read(waiting)
        for number, ((index, seconds), answer) in enumerate(zip(parts, answers, strict=True)):
            found[index][0].append(Moment(0.0, seconds, answer))
            found[index][1].append(number)
        return found

    def parts(
        self, clip: Clip | None, text: Text | None, channel: int | None = None
    ) -> Iterable[tuple[Samples | None, Mapping[str, str], float]]:
        """Sound, text fields and seconds of an input; several of them where the clip is long."""
        if clip is None and self.task.has_audio:
            raise UserError(f"task {self.task.name} needs sound")
        if clip is not None and not self.task.has_audio:
            raise UserError(f"task {self.task.name} takes text, not sound")
        fields = named_fields(self.task, text)
        if clip is None:
            return [(None, fields, 1.0)]
        samples = samples_of(clip, channel, self.note)
        if self.note is not no_note and (remark := speech_remark(samples)):
            self.note(remark)
        longest = self.encoder.longest
        bounds = window_bounds(len(samples), longest, longest)
        if len(bounds) == 1:
            return [(samples, fields, len(samples) / SAMPLE_RATE)]
        # Copies, so that a window that waits for others does not hold hours of sound.
        return ((samples[start:end].copy(), fields, (end - start) / SAMPLE_RATE) for start, end in bounds)

    def _predict_parts(self, parts: Sequence[tuple[Samples | None, Mapping[str, str]]]) -> list[LabelDistribution]:
        """Distributions of a batch of (sound, text fields)."""
        states: Sequence[Tensor | None] = [None] * len(parts)
        if clips := [samples for samples, _ in parts if samples is not None]:
            states = self.encode(clips)
        return self._answers(states, [fields for _, fields in parts])

    def encode(self, clips: Sequence[Samples]) -> list[Tensor]:
        """Features as training saw them: rounded to float16, as the feature cache keeps them."""
        config = self.model.model_config
        if config.trim_db is not None:
            clips = [trim_silence(clip, config.trim_db) for clip in clips]
        if config.loudness_db is not None:
            clips = [set_loudness(clip, config.loudness_db) for clip in clips]
        return [clip.to(torch.float16) for clip in self.encoder.encode(clips)]

    @property
    def encoder(self) -> AudioEncoder:
        """The audio encoder, loaded when the first clip comes."""
        with LOADING:
            if self._encoder is None:
                config = self.model.model_config
                if config.encoder is None or not self.task.has_audio:
                    raise UserError(f"task {self.task.name} takes text, not sound")
                where = locate(config.encoder, sha256=self.model.encoder_sha256)
                self._encoder = load_encoder(where, config.cached_layers(), self.device)
            adapter = self.model.model.audio_adapter
            if isinstance(adapter, AudioAdapter):
                self._encoder.layers = adapter.layers_read  # no layer runs for nothing
            return self._encoder.to(self.device)

    def _answers(
        self, features: Sequence[Tensor | None], texts: Sequence[Mapping[str, str]]
    ) -> list[LabelDistribution]:
        """What the model says of each input of a batch."""
        inputs = self.inputs([clip for clip in features if clip is not None] or None, texts)
        return self._distributions(self._read(inputs))

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
            return label_states(self.model, NO_TREE, inputs)[:, 0].float().cpu().numpy()

    @torch.no_grad()  # not inference mode: what FSDP gathers in it, training cannot use again
    def _read(self, batch: dict[str, Any]) -> Prediction:
        watched = contextlib.nullcontext()
        if self.dtype == torch.float16:  # whose numbers end at 65,504
            watched = self.model.model.register_forward_hook(_check_finite)
        with self._precision(), watched:
            return self.model.readout.predict(batch)

    def _distributions(self, found: Prediction) -> list[LabelDistribution]:
        self.unparsed += found.unparsed
        probs = found.probs if self.calibration is None else self.calibration(found.probs)
        return [
            LabelDistribution(self.task.label_names, p, numbers, self.task.ordered)
            for p, numbers in zip(probs, found.attributes, strict=True)
        ]

    def _precision(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, self.dtype, enabled=self.dtype != torch.float32)


def _complain(error: UserError, row: Row, complain: Callable[[UserError], None] | None) -> None:
    """Name the row in an error, and hand it to `complain`; raised where None."""
    named = error if row.id in str(error) else UserError(f"row {row.id}: {error}")
    if complain is None:
        raise named from None
    complain(named)


def as_pair(item: Any) -> tuple[Clip | None, Text | None]:
    """(clip, text) of an input, which may be a clip alone; samples and their rate are a clip."""
    if isinstance(item, tuple) and not is_recording(item):
        if len(item) != 2:
            raise UserError(f"a tuple of {len(item)}: give (clip, text), or (samples, sampling rate)")
        clip, text = item
        if not isinstance(text, (str, Mapping, type(None))):
            raise UserError(f"a text of type {type(text).__name__}: a string, or the text's fields by name, is needed")
        return clip, text
    return item, None


def named_fields(task: Task, text: Text | None) -> Mapping[str, str]:
    """A text's fields by the names that the task's prompt has for them; none where there is no text."""
    if text and "text" not in task.modality:
        raise UserError(f"this model of task {task.name} takes sound alone, and no text")
    if isinstance(text, str):
        names = task.given_fields()
        if len(names) != 1:
            raise UserError(f"task {task.name} has the text fields {', '.join(names) or 'none'}; name them")
        return {names[0]: text}
    return text or {}


def sound_of(row: Row, root: str | Path) -> tuple[Samples, int]:
    """A row's sound, and its rate.

    Raises:
        UserError: it has none, or it cannot be read.
    """
    if row.audio is None:
        raise UserError(f"row {row.id} has no sound")
    return read_row_audio(row.audio, root), SAMPLE_RATE


def _check_finite(_: nn.Module, __: Any, outputs: Any) -> None:
    if not bool(torch.isfinite(outputs.last_hidden_state[:, -1]).all()):
        raise UserError(
            "computed in float16, the model's numbers overflow; load it with dtype=torch.float32, or compute on the CPU "
            "(CUDA_VISIBLE_DEVICES= before the command)"
        )


def _load(
    folder: Path, calibration: str | None, device: str, dtype: torch.dtype | None
) -> tuple[Path, SpeechLM, Calibration | None, torch.dtype, AudioEncoder | None]:
    """The folder that holds the model, the model, its calibration, the type that products are computed in, and its encoder."""
    places = (folder, *(folder / name for name in ("shala", "shala_exact", "pack")))
    inside = next((place for place in places if (place / SETTINGS).is_file()), None)
    if inside is None:
        raise UserError(f"{folder}: holds no model ({SETTINGS} is missing)")
    on_cpu = torch.device(device).type == "cpu"
    if dtype is None:
        dtype = torch.float32 if on_cpu and not _is_worth_low(inside) else product_dtype(torch.device(device).type)
    model, encoder = SpeechLM.load(inside, torch.float32 if dtype == torch.float32 else "auto")
    fitted = None
    if calibration is not None:
        if calibration not in KINDS:
            raise not_one_of("calibration", calibration, KINDS)
        path = inside / f"calibration_{calibration}.json"
        if not path.is_file():
            raise UserError(f"{path}: no such file; `shala-audio evaluate calibrate` fits one on the dev split")
        fitted = load_calibration(str(path), model.task.label_names)
    if dtype == torch.float32:
        merge_adapters(model)
    elif model.model_config.weights != "4bit":
        # LoRA stays beside: added to weights that are published in bfloat16, most of it would be rounded away. Only what is
        # multiplied is cast: norms and the frequencies of positions are those that the model was trained with.
        for part in (*model.model.decoder.modules(), model.lm_head):
            if isinstance(part, nn.Linear):
                part.to(dtype)
    return inside, model, fitted, dtype, encoder


def _is_worth_low(folder: Path) -> bool:
    """Whether a CPU shall compute a model in bfloat16: a large one, or an audio LLM whose features were made so (`load_encoder`)."""
    settings = read_json(folder / SETTINGS)
    of_model = settings.get("model", {})
    try:
        if "audio_lm" in of_model:
            return published_dtype(locate(str(of_model["audio_lm"]))) == torch.bfloat16
        lm = language_model_without_weights(str(of_model.get("lm", "")), settings.get("lm_sha256") or "")
    except (UserError, OSError, ValueError):  # loading it says why
        return False
    return lm.num_parameters() > 1e9
