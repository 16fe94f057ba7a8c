"""The ear: from the cached features of a frozen encoder to tokens of the language model.

On the way lie the encoder's top layers, where they are trained, or a convolution over filter banks; the learnt mixture of
layers (SUPERB, arXiv 2105.01051); the projector; and a LayerNorm with the language model's own loudness.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shala_audio.audio.augment import mask_features
from shala_audio.audio.encoders import AudioEncoder
from shala_audio.audio.layers import EncoderLayers
from shala_audio.models.adapters import add_lora
from shala_audio.models.config import ModelConfig
from shala_audio.models.projector import build_projector, token_count, valid_frames

FBANK_WIDTH = 256


class FbankConvolution(nn.Module):
    """(B, T, bins) filter banks to (B, ceil(T / 2), width): two small convolutions over time, the second with stride 2."""

    def __init__(self, bins: int, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(bins, width, 3, padding=1), nn.Conv1d(width, width, 3, stride=2, padding=1)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        valid = valid_frames(frames.shape[1], lengths)[:, None]
        hidden = nn.functional.gelu(self.conv1(frames.transpose(1, 2) * valid)) * valid
        return nn.functional.gelu(self.conv2(hidden)).transpose(1, 2), (lengths + 1) // 2


def _add_lora(top: EncoderLayers, r: int) -> None:
    """LoRA on the linear layers. Not on WavLM's attention, which takes its weights out of them and passes adapters by."""
    names = [
        name
        for name, module in top.layers.named_modules()
        if isinstance(module, nn.Linear) and not (top.kind == "wavlm" and ".attention." in name)
    ]
    add_lora(top.layers, r, 2 * r, names)


class Ear(nn.Module):
    """Features (B, S, T, D) and frame counts (B,) to tokens (B, L, lm_width) and token counts (B,).

    The last normalisation starts with the gain `scale`, the spread of the language model's own embeddings, so that sound
    enters as loud as words do.

    Args:
        config: which layers are mixed, which are trained, the projector.
        encoder: the frozen encoder, whose trained layers are copied.
        lm_width: D of the language model.
        scale: gain of the last LayerNorm at the start.
    """

    def __init__(self, config: ModelConfig, encoder: AudioEncoder, lm_width: int, scale: float) -> None:
        super().__init__()
        self.stack, self.augment = config.frame_stack, config.spec_augment
        self.cached, self.mixed = config.cached_layers(), list(config.encoder_layers)
        self.convolution = FbankConvolution(encoder.width, FBANK_WIDTH) if encoder.kind == "fbank" else None
        self.top: EncoderLayers | None = None
        if config.encoder_trained_layers:
            self.top = encoder.stretch(max(self.mixed) - config.encoder_trained_layers, max(self.mixed))
            if config.encoder_lora_r:
                _add_lora(self.top, config.encoder_lora_r)
            else:
                self.top.layers.requires_grad_(True)
        self.layer_logits = nn.Parameter(torch.zeros(len(self.mixed)))
        width = FBANK_WIDTH if self.convolution is not None else encoder.width
        self.projector = build_projector(config.projector, width, config.frame_stack, config.projector_width, lm_width)
        self.norm = nn.LayerNorm(lm_width)
        nn.init.constant_(self.norm.weight, scale)

    def token_count(self, frames: int) -> int:
        """Tokens that T cached frames become."""
        return token_count((frames + 1) // 2 if self.convolution is not None else frames, self.stack)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        features = features.to(self.layer_logits.dtype)
        if self.training and self.augment:
            features = mask_features(features, lengths)
        states = dict(zip(self.cached, features.unbind(dim=1), strict=True))
        if self.top is not None:
            start = self.top.start
            states |= dict(enumerate(self.top(states[start], lengths), start=start + 1))
        if self.convolution is not None:
            states[0], lengths = self.convolution(states[0], lengths)
        weights = self.layer_logits.softmax(dim=0)
        frames = torch.stack([states[layer] for layer in self.mixed], dim=-1) @ weights
        tokens = self.norm(self.projector(frames, lengths))
        return tokens, (lengths + self.stack - 1) // self.stack
