"""The language model's layers, with sound where the prompt has places for it.

Sound is merged *inside* the backbone, below the language-model head: TRL's loss runs the backbone and fuses the head, so
a merge in `forward` of the whole model would reach generation and not the loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from shala_audio.models.ear import Ear


class SpeechBackbone(nn.Module):
    """A decoder whose placeholder tokens are replaced by what the ear hears."""

    def __init__(self, decoder: PreTrainedModel, ear: Ear | None, audio_token_id: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.ear = ear
        self.audio_token_id = audio_token_id
        self.size = sum(parameter.numel() for parameter in decoder.parameters())

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed(input_ids, audio_features, audio_lengths)
        return self.decoder(inputs_embeds=inputs_embeds, **kwargs)

    def embed(self, input_ids: Tensor, audio_features: Tensor | None, audio_lengths: Tensor | None) -> Tensor:
        """Embeddings (B, L, D) of tokens (B, L), with sound where the placeholders stand."""
        is_audio = input_ids == self.audio_token_id
        embeds = self.decoder.get_input_embeddings()(input_ids.masked_fill(is_audio, 0))
        if not is_audio.any():
            return embeds
        if self.ear is None or audio_features is None or audio_lengths is None:
            raise ValueError("the prompt has a place for sound, but no sound was given")
        tokens, counts = self.ear(audio_features, audio_lengths)
        if not torch.equal(is_audio.sum(dim=1), counts):
            raise ValueError(f"places for sound {is_audio.sum(dim=1).tolist()}, tokens of sound {counts.tolist()}")
        valid = torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]
        return embeds.masked_scatter(is_audio[..., None], tokens[valid].to(embeds.dtype))

    def shares_prompts(self) -> bool:
        """Whether rows may share what was computed of their prompts, in a cache.

        Not in models whose layers keep less than all keys and values; nor where FSDP spreads the layers, because it gathers
        them for as many passes in every process, and for a backward pass through their outputs alone; nor in training where
        activations are computed again.
        """
        # Asked in every step, so of the decoder and its layers alone, where FSDP and checkpointing leave their marks: with
        # LoRA a decoder has thousands of modules.
        stacks = [child for child in self.decoder.children() if isinstance(child, nn.ModuleList)]
        layers = [layer for stack in stacks for layer in stack] or list(self.decoder.modules())
        parts = [self.decoder, *layers]
        spread = any(isinstance(next(part.parameters(), None), DTensor) for part in parts)
        if spread or not keeps_everything(self.decoder.config):
            return False
        return not self.training or not any(
            getattr(part, "gradient_checkpointing", False) or hasattr(part, "_checkpoint_wrapped_module")
            for part in parts
        )


def keeps_everything(config: Any) -> bool:
    """Whether every layer of a decoder keeps the keys and values of all tokens."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
