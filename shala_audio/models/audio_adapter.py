"""The audio adapter: from cached features of a frozen encoder to tokens of the language model.

On the way lie the encoder's top layers, where they are trained, or a convolution over filter banks; the learnt mixture of
layers (SUPERB, arXiv 2105.01051); the projector; and a LayerNorm that starts with the language model's own scale.

Three projectors make tokens of frames, and none drops the tail of a clip. `stack` joins neighbouring frames and passes them
through a two-layer perceptron (SLAM-LLM, arXiv 2402.08846); `conv` goes over them with strided convolutions; `qformer` asks
learnt queries of each window of frames (SALMONN, arXiv 2310.13289). A summary token may stand before them: mean and deviation
of the whole clip's frames under learnt attention (Okabe et al. 2018, arXiv 1803.10963).
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from shala_audio.audio.audio_llm import AudioLLMEncoder
from shala_audio.audio.augment import mask_features
from shala_audio.audio.encoders import AudioEncoder, EncoderLayers
from shala_audio.models.config import ModelConfig
from shala_audio.models.lora import add_lora, sum_weights

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

    def __init__(self, encoder_width: int, stack: int, hidden_width: int, lm_width: int) -> None:
        super().__init__()
        self.window = WINDOW_TOKENS * stack
        self.norm = nn.LayerNorm(encoder_width)
        self.linear_in = nn.Linear(encoder_width, hidden_width)
        self.positions = nn.Parameter(0.02 * torch.randn(self.window, hidden_width))
        self.queries = nn.Parameter(0.02 * torch.randn(WINDOW_TOKENS, hidden_width))
        layer = nn.TransformerDecoderLayer(
            hidden_width, 4, 2 * hidden_width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, num_layers=2)
        self.linear_out = nn.Linear(hidden_width, lm_width)
        self.stack = stack

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        batch, time, _ = frames.shape
        count = -(-time // self.window)
        hidden = nn.functional.pad(self.linear_in(self.norm(frames)), (0, 0, 0, -time % self.window))
        hidden = hidden.view(batch * count, self.window, -1) + self.positions
        padding = ~valid_frames(count * self.window, lengths).view(batch * count, self.window)
        padding = padding & ~padding.all(dim=1, keepdim=True)  # a window of nothing attends to nothing in particular
        queries = self.queries.expand(batch * count, -1, -1)
        tokens = self.layers(queries, hidden, memory_key_padding_mask=padding)
        return self.linear_out(tokens).view(batch, count * WINDOW_TOKENS, -1)[:, : token_count(time, self.stack)]


class AttentiveStatistics(nn.Module):
    """(B, T, D) frames and (B,) lengths to (B, 2 · D): their mean and standard deviation under learnt attention over time."""

    def __init__(self, width: int, hidden_width: int = 128) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(width, hidden_width), nn.Tanh(), nn.Linear(hidden_width, 1))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        scores = self.attention(frames).squeeze(-1).float()
        scores = scores.masked_fill(~valid_frames(frames.shape[1], lengths), float("-inf"))
        weights = scores.softmax(dim=1)[..., None].to(frames.dtype)
        mean = (weights * frames).sum(dim=1)
        variance = (weights * (frames - mean[:, None]).square()).sum(dim=1)
        return torch.cat([mean, variance.clamp(min=1e-6).sqrt()], dim=1)


class Summary(nn.Module):
    """(B, T, D) frames to (B, lm_width): LayerNorm, attentive statistics, LayerNorm, dropout, linear."""

    def __init__(self, encoder_width: int, lm_width: int) -> None:
        super().__init__()
        self.norm_in, self.statistics = nn.LayerNorm(encoder_width), AttentiveStatistics(encoder_width)
        self.norm_out, self.dropout = nn.LayerNorm(2 * encoder_width), nn.Dropout(0.2)
        self.linear = nn.Linear(2 * encoder_width, lm_width)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        return self.linear(self.dropout(self.norm_out(self.statistics(self.norm_in(frames), lengths))))


def build_projector(kind: str, encoder_width: int, stack: int, hidden_width: int, lm_width: int) -> nn.Module:
    """A fresh projector of one of the kinds that a model's configuration may name."""
    classes = {"stack": StackProjector, "conv": ConvProjector, "qformer": QFormerProjector}
    return classes[kind](encoder_width, stack, hidden_width, lm_width)


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
    sum_weights(top.layers)


class AudioAdapter(nn.Module):
    """Features (B, S, T, D) and frame counts (B,) to tokens (B, L, lm_width) and token counts (B,), a summary token first if
    there is one.

    The last normalisation starts with the gain `scale`, the spread of the language model's own embeddings, so that sound
    enters on the scale of words.

    Args:
        config: which layers are mixed, which are trained, the projector.
        encoder: the encoder, whose trained layers are shared; so what it gives for them follows the training, and is not read.
        lm_width: D of the language model.
        scale: gain of the last LayerNorm at the start.
    """

    around = ("", "")

    def __init__(self, config: ModelConfig, encoder: AudioEncoder, lm_width: int, scale: float) -> None:
        super().__init__()
        self.stack, self.augment = config.frame_stack, config.spec_augment
        self.cached, self.mixed = config.cached_layers(), list(config.encoder_layers)
        self.convolution = FbankConvolution(encoder.width, FBANK_WIDTH) if encoder.kind == "fbank" else None
        self.top: EncoderLayers | None = None
        if config.encoder_trained_layers:
            self.top = encoder.layer_slice(max(self.mixed) - config.encoder_trained_layers, max(self.mixed))
            if config.encoder_lora_r:
                _add_lora(self.top, config.encoder_lora_r)
            else:
                self.top.layers.requires_grad_(True)
        # The trained layers' own input is read, and not what the cache holds of them before training.
        self.read = [n for n, layer in enumerate(self.cached) if self.top is None or layer <= self.top.start]
        self.layers_read = [self.cached[n] for n in self.read]
        self.layer_logits = nn.Parameter(torch.zeros(len(self.mixed)))
        width = FBANK_WIDTH if self.convolution is not None else encoder.width
        self.projector = build_projector(config.projector, width, config.frame_stack, config.projector_width, lm_width)
        self.summary = Summary(width, lm_width) if config.summary_token else None
        self.norm = nn.LayerNorm(lm_width)
        nn.init.constant_(self.norm.weight, scale)

    def token_count(self, frames: int) -> int:
        """Tokens that T cached frames become."""
        frames = (frames + 1) // 2 if self.convolution is not None else frames
        return token_count(frames, self.stack) + (self.summary is not None)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        dtype, kind = self.layer_logits.dtype, features.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)  # of sums between the layers as well, not only of products
        if features.shape[1] > len(self.read):  # of the cache, which has more
            features = features[:, self.read]
        features = features.to(dtype)
        if self.training and self.augment:
            features = mask_features(features, lengths)
        states = dict(zip(self.layers_read, features.unbind(dim=1), strict=True))
        if self.top is not None:
            start = self.top.start
            states |= dict(enumerate(self.top(states[start], lengths), start=start + 1))
        if self.convolution is not None:
            states[0], lengths = self.convolution(states[0], lengths)
        weights = self.layer_logits.softmax(dim=0).to(dtype)
        frames = weights[0] * states[self.mixed[0]]
        for weight, layer in zip(weights[1:], self.mixed[1:], strict=True):
            frames = frames + weight * states[layer]
        tokens, counts = self.projector(frames, lengths), (lengths + self.stack - 1) // self.stack
        if self.summary is not None:
            tokens, counts = torch.cat([self.summary(frames, lengths)[:, None], tokens], dim=1), counts + 1
        return self.norm(tokens), counts


class PretrainedProjector(nn.Module):
    """Of an audio LLM: sound tokens (B, 1, T, D) pass, and of what enters its projector they are made by a copy of that, in
    float32, which goes on learning. Takes and gives what `AudioAdapter` does.

    Args:
        encoder: the audio LLM's.
    """

    top = None
    summary = None

    def __init__(self, encoder: AudioLLMEncoder) -> None:
        super().__init__()
        self.around = encoder.around
        self.projector: nn.Module | None = None
        if encoder.projector is not None:
            self.projector = deepcopy(encoder.projector).float().requires_grad_(True)

    def token_count(self, frames: int) -> int:
        """Tokens that T cached frames become: as many."""
        return frames

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = features[:, 0].float()
        return frames if self.projector is None else self.projector(frames), lengths
