"""A stretch of an encoder's transformer layers, run under a mask: the frozen ones, or those that training goes on with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class EncoderLayers(nn.Module):
    """Layers `start` + 1 to `start` + n of an encoder.

    Args:
        kind: `model_type` of the encoder: whisper, wav2vec2, hubert or wavlm.
        layers: the n layers.
        start: how many layers came before.
        norm: what follows the last layer, where the stretch ends with the encoder's last one.
        relative: WavLM: the attention whose relative position bias all layers share (the first layer's).
    """

    def __init__(
        self, kind: str, layers: Iterable[nn.Module], start: int, norm: nn.Module | None, relative: nn.Module | None
    ) -> None:
        super().__init__()
        self.kind, self.start = kind, start
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.relative = relative

    def forward(self, hidden: Tensor, lengths: Tensor) -> list[Tensor]:
        """(B, T, D) and (B,) frame counts to n hidden states (B, T, D); frames beyond a clip's end are heard by none."""
        valid = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        mask = None
        if not bool(valid.all()):
            mask = valid if self.kind == "wavlm" else valid[:, None, None].expand(-1, 1, hidden.shape[1], -1)
        bias = self._position_bias(hidden) if self.kind == "wavlm" else None
        states = []
        for layer in self.layers:
            if self.kind == "wavlm":
                mask_numbers = None if mask is None else mask.long()
                hidden, _ = layer(hidden, attention_mask=mask_numbers, position_bias=bias, index=1)
            else:
                hidden = layer(hidden, attention_mask=mask)
            states.append(hidden)
        if self.norm is not None and states:
            states[-1] = self.norm(states[-1])
        return states

    def _position_bias(self, hidden: Tensor) -> Tensor:
        assert self.relative is not None
        batch, frames, _ = hidden.shape
        bias = self.relative.compute_bias(frames, frames)
        return bias.unsqueeze(0).repeat(batch, 1, 1, 1).view(-1, frames, frames)
