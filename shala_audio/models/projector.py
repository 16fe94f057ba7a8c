"""From encoder frames to tokens of the language model: mix layers, stack frames, project."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
    valid = torch.arange(time, device=frames.device) < lengths[:, None]
    frames = frames.masked_fill(~valid[..., None], 0.0)
    frames = nn.functional.pad(frames, (0, 0, 0, -time % stack))
    return frames.reshape(batch, -1, stack * width)


class Projector(nn.Module):
    """Softmax-weighted sum of encoder layers, frame stacking, and a two-layer perceptron into the model's width.

    The last normalisation starts with the gain `scale`, the spread of the language model's own embeddings, so that
    sound enters as loud as words do. Frame stacking as in SLAM-LLM (arXiv 2402.08846), layer weights as in SUPERB (arXiv
    2105.01051).

    Args:
        layers: S, how many encoder layers come in.
        encoder_width: D of the encoder.
        stack: frames that become one token.
        hidden_width: width between the two linear layers.
        lm_width: D of the language model.
        scale: gain of the last LayerNorm at the start.
    """

    def __init__(
        self, layers: int, encoder_width: int, stack: int, hidden_width: int, lm_width: int, scale: float
    ) -> None:
        super().__init__()
        self.stack = stack
        self.layer_logits = nn.Parameter(torch.zeros(layers))
        self.norm_in = nn.LayerNorm(stack * encoder_width)
        self.linear_in = nn.Linear(stack * encoder_width, hidden_width)
        self.linear_out = nn.Linear(hidden_width, lm_width)
        self.norm_out = nn.LayerNorm(lm_width)
        nn.init.constant_(self.norm_out.weight, scale)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, T, D) features and (B,) frame counts to (B, tokens, lm_width) and (B,) token counts."""
        weights = self.layer_logits.softmax(dim=0)
        mixed = torch.einsum("s,bstd->btd", weights, features.to(weights.dtype))
        hidden = self.norm_in(stack_frames(mixed, lengths, self.stack))
        tokens = self.norm_out(self.linear_out(nn.functional.gelu(self.linear_in(hidden))))
        return tokens, (lengths + self.stack - 1) // self.stack
