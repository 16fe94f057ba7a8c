"""Frozen audio encoders: sound in, hidden states of chosen layers out.

Whisper was trained on sound padded to 30 s. Here it hears only the clip, with the first positions of its table: ten times
faster for short clips; the output differs from the padded one, so a model must be used the way it was trained. Clips of
different length share a batch under a mask, and a clip's result does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from shala_audio.audio.sound import SAMPLE_RATE, Samples
from shala_audio.errors import UserError


class WhisperFrontEnd:
    """The encoder of a Whisper model of any size, frozen.

    Args:
        source: folder or hub id of a Whisper model or of its encoder alone.
        layers: which hidden states to return: 0 is what enters the first layer, n what leaves layer n.
        device: where to compute.
    """

    frames_per_second = 50

    def __init__(self, source: str, layers: Sequence[int], device: str = "cpu") -> None:
        from transformers import AutoConfig, WhisperFeatureExtractor, WhisperModel
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        try:
            config = AutoConfig.from_pretrained(source)
            whole = "WhisperEncoder" not in (config.architectures or [])
            loaded = (WhisperModel if whole else WhisperEncoder).from_pretrained(source, use_safetensors=True)
            self.extractor = WhisperFeatureExtractor.from_pretrained(source)
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"encoder {source}: cannot be loaded ({str(error).splitlines()[0]})") from None
        self.encoder: nn.Module = (loaded.encoder if whole else loaded).eval().requires_grad_(False).to(device)
        self.width: int = config.d_model
        self.longest = config.max_source_positions / self.frames_per_second  # seconds
        self.device = device
        if not layers or not all(0 <= layer <= config.encoder_layers for layer in layers):
            raise UserError(f"encoder_layers: {list(layers)}; choose from 0 to {config.encoder_layers} for {source}")
        self.layers = list(layers)

    def lengths(self, samples: int) -> int:
        """Frames T of a clip of so many samples."""
        return (samples // self.extractor.hop_length + 1) // 2

    @torch.inference_mode()
    def encode(self, clips: Sequence[Samples]) -> list[Tensor]:
        """Hidden states of the chosen layers, one tensor (S, T, D) float32 for each clip.

        Args:
            clips: mono float32 at 16 kHz, each of 25 ms to 30 s.

        Raises:
            UserError: a clip is longer than the encoder can hear at once.
        """
        for clip in clips:
            if len(clip) > self.longest * SAMPLE_RATE:
                seconds = len(clip) / SAMPLE_RATE
                raise UserError(f"{seconds:.1f} s of sound; {self.longest:.0f} s at once, use windows for more")
        mels = [self._mel(clip) for clip in clips]
        lengths = [mel.shape[1] for mel in mels]
        batch = torch.zeros(len(mels), mels[0].shape[0], max(lengths))
        for index, mel in enumerate(mels):
            batch[index, :, : mel.shape[1]] = mel
        mel_lengths = torch.tensor(lengths)
        states = self._states(batch.to(self.device), mel_lengths.to(self.device))
        return [states[index, :, : (length + 1) // 2].cpu() for index, length in enumerate(lengths)]

    def _mel(self, clip: Samples) -> Tensor:
        features = self.extractor(clip, sampling_rate=SAMPLE_RATE, padding=False, truncation=False, return_tensors="np")
        return torch.from_numpy(np.asarray(features["input_features"][0], dtype=np.float32))

    def _states(self, mel: Tensor, mel_lengths: Tensor) -> Tensor:
        """(B, mel bins, 2T) to (B, S, T, D). What lies beyond a clip's end is zeroed between the convolutions, as their
        own padding is, and hidden from attention."""
        encoder = self.encoder
        valid = torch.arange(mel.shape[2], device=mel.device) < mel_lengths[:, None]
        hidden = nn.functional.gelu(encoder.conv1(mel)) * valid[:, None]
        hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        lengths = (mel_lengths + 1) // 2
        mask = None
        if lengths.min() < hidden.shape[1]:
            mask = (torch.arange(hidden.shape[1], device=mel.device) < lengths[:, None])[:, None, None]
            mask = mask.expand(-1, 1, hidden.shape[1], -1)
        wanted = {0: hidden}
        for index, layer in enumerate(encoder.layers[: max(self.layers)], start=1):
            hidden = layer(hidden, mask)
            wanted[index] = encoder.layer_norm(hidden) if index == len(encoder.layers) else hidden
        return torch.stack([wanted[layer] for layer in self.layers], dim=1)
