"""From encoder frames to tokens of the language model, in three ways. None of them drops the tail of a clip.

`stack` joins neighbouring frames and passes them through a two-layer perceptron (SLAM-LLM, arXiv 2402.08846); `conv` goes
over them with strided convolutions; `qformer` asks learnt questions of each window of frames (SALMONN, arXiv 2310.13289).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WINDOW_TOKENS = 4  # tokens that a window of the Q-Former becomes


def token_count(frames: int, stack: int) -> int:
    """Tokens that T frames become: the tail is padded, not dropped.

    >>> token_count(16, 8), token_count(17, 8)
    (2, 3)
    """
    return -(-frames // stack)


def stack_frames(frames: Tensor, lengths: Tensor, stack: int) -> Tensor:
    """Join every `stack` neighbouring frames into one vector; what lies beyond a clip's length counts as 0.

    Args:
        frames: (B, T, D).
        lengths: (B,) frames of each clip.
        stack: how many frames to join.

    Returns:
        (B, ceil(T / stack), stack · D).

    >>> stack_frames(torch.arange(3.0).reshape(1, 3, 1) + 1, torch.tensor([3]), 2).tolist()
    [[[1.0, 2.0], [3.0, 0.0]]]
    """
    batch, time, width = frames.shape
    frames = frames * valid_frames(time, lengths)[..., None]
    frames = nn.functional.pad(frames, (0, 0, 0, -time % stack))
    return frames.reshape(batch, -1, stack * width)


def valid_frames(time: int, lengths: Tensor) -> Tensor:
    """(B, T) bool: which frames are a clip's own."""
    return torch.arange(time, device=lengths.device) < lengths[:, None]


class StackProjector(nn.Module):
    """(B, T, D) frames to (B, ceil(T / stack), width): frames stacked, LayerNorm, linear, GELU, linear."""

    def __init__(self, encoder_width: int, stack: int, hidden_width: int, lm_width: int) -> None:
        super().__init__()
        self.stack = stack
        self.norm = nn.LayerNorm(stack * encoder_width)
        self.linear_in = nn.Linear(stack * encoder_width, hidden_width)
        self.linear_out = nn.Linear(hidden_width, lm_width)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.norm(stack_frames(frames, lengths, self.stack))
        return self.linear_out(nn.functional.gelu(self.linear_in(hidden)))


class ConvProjector(nn.Module):
    """(B, T, D) frames to (B, ceil(T / stack), width): a convolution over `stack` frames and their neighbours on each side,
    one step a token, then GELU and a linear layer."""

    def __init__(self, encoder_width: int, stack: int, hidden_width: int, lm_width: int) -> None:
        super().__init__()
        self.stack = stack
        self.norm = nn.LayerNorm(encoder_width)
        self.linear_in = nn.Linear(encoder_width, hidden_width // 2)
        self.conv = nn.Conv1d(hidden_width // 2, hidden_width, 2 * stack, stride=stack)
        self.linear_out = nn.Linear(hidden_width, lm_width)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        time = frames.shape[1]
        hidden = nn.functional.gelu(self.linear_in(self.norm(frames))) * valid_frames(time, lengths)[..., None]
        before = self.stack // 2  # so that a token's own frames lie in the middle of what it sees
        tail = -time % self.stack + self.stack - before
        hidden = nn.functional.pad(hidden.transpose(1, 2), (before, tail))
        return self.linear_out(nn.functional.gelu(self.conv(hidden)).transpose(1, 2))


class QFormerProjector(nn.Module):
    """(B, T, D) frames to (B, ceil(T / stack), width): in windows of `WINDOW_TOKENS` · stack frames, learnt queries attend to
    the frames, each query becoming one token; the tokens of frames beyond a clip's end are cut off."""

    def __init__(self, encoder_width: int, stack: int, hidden_width: int, lm_width: int, heads: int = 4) -> None:
        super().__init__()
        self.window, self.heads = WINDOW_TOKENS * stack, heads
        self.norm = nn.LayerNorm(encoder_width)
        self.linear_in = nn.Linear(encoder_width, hidden_width)
        self.places = nn.Parameter(0.02 * torch.randn(self.window, hidden_width))
        self.queries = nn.Parameter(0.02 * torch.randn(WINDOW_TOKENS, hidden_width))
        layer = nn.TransformerDecoderLayer(
            hidden_width, heads, 2 * hidden_width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, num_layers=2)
        self.linear_out = nn.Linear(hidden_width, lm_width)
        self.stack = stack

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        batch, time, _ = frames.shape
        count = -(-time // self.window)
        hidden = nn.functional.pad(self.linear_in(self.norm(frames)), (0, 0, 0, -time % self.window))
        hidden = hidden.view(batch * count, self.window, -1) + self.places
        unheard = ~valid_frames(count * self.window, lengths).view(batch * count, self.window)
        unheard = unheard & ~unheard.all(dim=1, keepdim=True)  # a window of nothing attends to nothing in particular
        queries = self.queries.expand(batch * count, -1, -1)
        tokens = self.layers(queries, hidden, memory_key_padding_mask=unheard)
        return self.linear_out(tokens).view(batch, count * WINDOW_TOKENS, -1)[:, : token_count(time, self.stack)]


def build_projector(kind: str, encoder_width: int, stack: int, hidden_width: int, lm_width: int) -> nn.Module:
    """A fresh projector of one of the kinds that a model's configuration may name."""
    classes = {"stack": StackProjector, "conv": ConvProjector, "qformer": QFormerProjector}
    return classes[kind](encoder_width, stack, hidden_width, lm_width)
