"""Our models under transformers' Auto classes, so that `transformers.pipeline` takes them.

    import shala_audio
    from transformers import pipeline

    shala_audio.register()
    pipeline("audio-classification", model="exp/crema_d/shala", top_k=None)({"raw": samples, "sampling_rate": 16_000})
    pipeline("text-classification", model="exp/goemotions/shala", top_k=None)("Thanks, I guess?")

The scores are the distribution of human judgement and sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import ByT5Tokenizer, PreTrainedModel, SequenceFeatureExtractor
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pipelines.audio_classification import AudioClassificationPipeline

from shala_audio.audio.clips import is_array, samples_of
from shala_audio.audio.io import SAMPLE_RATE, scale
from shala_audio.io import atomic_write
from shala_audio.models.folder import MODEL_TYPE, TRAINED

if TYPE_CHECKING:
    from shala_audio.inference.predictor import Predictor


LEAST = 1e-12  # of a probability, before its logarithm


class DistributionConfig(PreTrainedConfig):
    """Labels in the task's order; what the model is made of stands in `shala.json` beside it."""

    model_type = MODEL_TYPE


class SoundExtractor(SequenceFeatureExtractor):
    """Mono sound at 16 kHz as it is, padded: `input_values` (B, samples) float32, `attention_mask`.

    What the encoder makes of it, and windows of long sound, are the model's own affair.
    """

    model_input_names = ("input_values", "attention_mask")

    def __init__(
        self, feature_size: int = 1, sampling_rate: int = SAMPLE_RATE, padding_value: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)

    def __call__(
        self,
        clips: np.ndarray | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **_: Any,
    ) -> Any:
        """Pad one clip (samples,) or several.

        Raises:
            ValueError: another sampling rate than 16 kHz.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"sound at {sampling_rate} Hz: resample it to {self.sampling_rate} Hz first")
        one = isinstance(clips, np.ndarray) and clips.ndim == 1
        values = [scale(np.asarray(clip)) for clip in ([clips] if one else clips)]
        return self.pad(
            {"input_values": values}, padding=True, return_attention_mask=True, return_tensors=return_tensors
        )


class SoundPipeline(AudioClassificationPipeline):
    """transformers' pipeline; of our models it takes every form of a clip that `predict` takes, and reads it in the same way."""

    def preprocess(self, inputs: Any, **options: Any) -> Any:
        if not isinstance(self.feature_extractor, SoundExtractor):
            return super().preprocess(inputs, **options)
        if isinstance(inputs, str) and inputs.startswith(("http://", "https://")):
            import httpx  # transformers' own

            inputs = httpx.get(inputs, follow_redirects=True).content
        clip = (inputs, SAMPLE_RATE) if is_array(inputs) else inputs
        return self.feature_extractor(samples_of(clip), sampling_rate=SAMPLE_RATE, return_tensors="pt")


class DistributionModel(PreTrainedModel):
    """A `Predictor` as transformers' classification models are: sound or text in, logits (B, K) out.

    The logits are logarithms of probabilities, so their softmax is the distribution. Text comes as UTF-8 bytes in the way of
    ByT5 (byte + 3; 1 ends a text, 0 pads); the language model's own tokenizer stays inside, with the prompt.
    """

    config_class = DistributionConfig
    base_model_prefix = "speech_lm"

    def __init__(self, config: DistributionConfig, predictor: Predictor) -> None:
        super().__init__(config)
        self.speech_lm = predictor.model
        self.predictor = predictor

    @property
    def dtype(self) -> torch.dtype:
        """Of what goes in; the language model inside may compute in bfloat16."""
        return torch.float32

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        name: str | Path,
        *_: Any,
        config: DistributionConfig | None = None,
        dtype: Any = None,
        revision: str | None = None,
        **__: Any,
    ) -> DistributionModel:
        """Load a folder, or a model of the hub.

        Args:
            name: which.
            config: read from the folder where None.
            dtype: of the language model; "auto" and None are `Predictor`'s choice.
            revision: of the hub's model.
        """
        from shala_audio.inference.predictor import Predictor

        wanted = dtype if isinstance(dtype, torch.dtype) else None
        predictor = Predictor.from_pretrained(name, dtype=wanted, revision=revision)
        labels = dict(enumerate(predictor.task.label_names))
        return cls(config or DistributionConfig(id2label=labels), predictor)

    def save_pretrained(self, folder: str | Path, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """As `SpeechLM.save_pretrained`; what was trained is kept as it was loaded, also where `dtype` has fewer bits."""
        source = self.predictor.folder
        exact = None
        if source is not None and self.predictor.dtype != torch.float32:
            exact = (source / TRAINED).read_bytes()  # before it may be written over
        self.speech_lm.save_pretrained(folder)
        if exact is not None:
            with atomic_write(Path(folder) / TRAINED) as beside:
                beside.write_bytes(exact)

    def forward(
        self,
        input_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Sound `input_values` (B, samples) at 16 kHz, or bytes `input_ids` (B, L)."""
        self.predictor.device = str(next(self.speech_lm.parameters()).device)
        inputs: list[Any]
        if input_values is not None:
            lengths = [input_values.shape[1]] * len(input_values)
            if attention_mask is not None:
                lengths = attention_mask.sum(dim=1).tolist()
            clips = input_values.float().cpu().numpy()
            inputs = [(clip[:length], SAMPLE_RATE) for clip, length in zip(clips, lengths, strict=True)]
        elif input_ids is not None:
            inputs = [(None, self._text(ids)) for ids in input_ids.tolist()]
        else:
            raise ValueError("neither sound (input_values) nor text (input_ids) was given")
        probs = np.stack([found.probs for found in self.predictor.predict_batch(inputs)])
        return SequenceClassifierOutput(logits=torch.from_numpy(np.log(np.maximum(probs, LEAST))).float())

    def _text(self, ids: Sequence[int]) -> str | dict[str, str]:
        """The text of ByT5's numbers; of two texts, the task's fields in the order of its prompt."""
        texts, current = [], bytearray()
        for token in ids:
            if token == 1:
                texts.append(current.decode("utf-8", errors="replace"))
                current = bytearray()
            elif 3 <= token < 259:
                current.append(token - 3)
        if current:
            texts.append(current.decode("utf-8", errors="replace"))
        if len(texts) < 2:
            return texts[0] if texts else ""
        fields = self.predictor.task.text_fields()
        if len(texts) != len(fields):
            raise ValueError(f"{len(texts)} texts were given; the task has {', '.join(fields)}")
        return dict(zip(fields, texts, strict=True))


def register() -> None:
    """Make the Auto classes know ours."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import AutoConfig
    from transformers.models.auto.feature_extraction_auto import AutoFeatureExtractor
    from transformers.models.auto.tokenization_auto import AutoTokenizer
    from transformers.pipelines import SUPPORTED_TASKS

    AutoConfig.register(MODEL_TYPE, DistributionConfig, exist_ok=True)
    for auto in (
        modeling_auto.AutoModel,
        modeling_auto.AutoModelForAudioClassification,
        modeling_auto.AutoModelForSequenceClassification,
    ):
        auto.register(DistributionConfig, DistributionModel, exist_ok=True)
    # Pipelines look classes up by these names too, and complain of one that is not among them.
    modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES[MODEL_TYPE] = DistributionModel.__name__
    modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[MODEL_TYPE] = DistributionModel.__name__
    AutoFeatureExtractor.register(DistributionConfig, SoundExtractor, exist_ok=True)
    AutoTokenizer.register(DistributionConfig, ByT5Tokenizer, exist_ok=True)
    SUPPORTED_TASKS["audio-classification"]["impl"] = SoundPipeline  # as it was, for the models of others
