"""The ears of a pretrained audio LLM: its own encoder and projector, as its decoder would hear a clip.

Families differ in how sound enters, and their own code knows it: a clip goes through the model's processor and its own forward,
which is stopped where the decoder would begin. What stands there at the places of the sound are its sound tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shala_audio.audio.encoders import AudioEncoder
from shala_audio.audio.io import SAMPLE_RATE, Samples
from shala_audio.errors import UserError, first_line
from shala_audio.io import at_commit, load_weights

SHORTEST = SAMPLE_RATE // 5  # samples; less is followed by silence up to there, since it would become no token
# Where the projector is, in families that differ. It works on each frame alone, so what goes into it can be kept while it goes
# on learning.
PROJECTORS = ("multi_modal_projector", "audio_tower.proj", "audio_tower.proj2")
# Models that can speak, of which the part that listens and writes is taken.
THINKERS = {
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration",
}


def audio_llm_class(config: Any) -> Any:
    """The transformers class of an audio LLM by its configuration; None where it is none."""
    import transformers
    from transformers.models.auto import modeling_auto

    if config.model_type in THINKERS:
        return getattr(transformers, THINKERS[config.model_type])
    if not (hasattr(config, "audio_config") or hasattr(config, "encoder_config")):
        return None
    for names in (
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    ):
        if name := names.get(config.model_type):
            return getattr(transformers, name)
    return None


class _Heard(Exception):
    """Ends a forward where the decoder would begin."""


class AudioLLMEncoder(AudioEncoder):
    """A clip's sound tokens, or what enters the projector that makes them.

    Clips are encoded one by one, as they are, so that none depends on its neighbours.

    Args:
        model: the audio LLM; of its decoder nothing but the embeddings is used.
        processor: of the audio LLM.
        layers: [1] for sound tokens, [0] for what enters the projector.

    Attributes:
        around: what the audio LLM writes before and behind its sound tokens.

    Raises:
        UserError: states are asked of a family whose projector is not known here; in `encode`, its processor or its forward does not
            take a clip as those of most families do (Voxtral's).
    """

    def __init__(self, model: Any, processor: Any, layers: Sequence[int]) -> None:
        super().__init__("audio_llm", model.config.get_text_config().hidden_size, 1, layers)  # the width of tokens
        self.model, self.processor = model, processor
        self.around = (
            getattr(processor, "audio_bos_token", None) or "",
            getattr(processor, "audio_eos_token", None) or "",
        )
        self.projector = _projector(model) if self.layers == [0] else None

    @torch.inference_mode()
    def encode(self, clips: Sequence[Samples]) -> list[Tensor]:
        """(1, T, D) float32 for each clip: T sound tokens, or the states that become them."""
        self.check_length(clips)
        try:
            return [self._encode(clip)[None].float().cpu() for clip in clips]
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            kind = type(self.model).__name__
            raise UserError(f"audio_lm: {kind} does not take a clip as is known here ({first_line(error)})") from None

    def _encode(self, clip: Samples) -> Tensor:
        clip = np.pad(clip, (0, max(0, SHORTEST - len(clip))))
        text = self.processor.audio_token.join(self.around)
        inputs = self.processor(text=[text], audio=[clip], sampling_rate=SAMPLE_RATE, return_tensors="pt")
        is_sound = inputs["input_ids"][0] == self.processor.tokenizer.convert_tokens_to_ids(self.processor.audio_token)
        states: list[Tensor] = []
        embeds: list[Tensor] = []

        def stop(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
            embeds.append(kwargs["inputs_embeds"][0])
            raise _Heard

        hooks = [self.model.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)]
        if self.projector is not None:
            hooks.append(self.projector.register_forward_pre_hook(lambda _module, args: states.append(args[0])))
        try:
            self.model(**inputs.to(self.model.device, self.model.dtype))
        except _Heard:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        if not embeds:
            raise UserError(f"audio_lm: {type(self.model).__name__} does not hand its sound tokens to a decoder")
        if self.projector is None:
            return embeds[0][is_sound.to(embeds[0].device)]
        return states[0].reshape(-1, states[0].shape[-1])[: int(is_sound.sum())]  # what is behind them is padding


def _projector(model: nn.Module) -> nn.Module:
    found = [module for name, module in model.named_modules() if name.endswith(PROJECTORS)]
    if len(found) != 1:
        raise UserError(
            f"audio_projector: trained needs a projector that is known here, {type(model).__name__} has none; use frozen"
        )
    return found[0]


def load_audio_llm(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """An audio LLM and its processor.

    Args:
        source: its folder or hub id.
        dtype: of the weights in memory.

    Raises:
        UserError: it is no audio LLM. Errors of transformers go through.
    """
    from transformers import AutoConfig, AutoProcessor

    config = AutoConfig.from_pretrained(**at_commit(source), trust_remote_code=False)
    kind = audio_llm_class(config)
    if kind is None:
        raise UserError(
            f"audio_lm {source}: is {config.model_type}, which takes no sound; `lm` and `encoder` are for such"
        )
    model = load_weights(kind, source, dtype=dtype)
    return model.eval(), AutoProcessor.from_pretrained(**at_commit(source), trust_remote_code=False)
