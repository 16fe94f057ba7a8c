"""Audio encoders: sound in, hidden states of chosen layers out. One interface for all of them.

Clips of different length share a batch under a mask, and a clip's result does not depend on its neighbours. Frames are
counted exactly. Which encoders there are: Whisper, WavLM, HuBERT and wav2vec 2.0 of any size through transformers, from a
folder or the hub, and `fbank`, Kaldi's filter banks, which need no download.

A slice of an encoder's transformer layers, run under a mask: the frozen ones, or those that are trained further.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from shala_audio.audio.io import SAMPLE_RATE, Samples
from shala_audio.devices import computes_bf16
from shala_audio.errors import UserError, first_line
from shala_audio.io import LOADING_ERRORS, at_commit, load_weights


class EncoderLayers(nn.Module):
    """Layers `start` + 1 to `start` + n of an encoder.

    Args:
        kind: `model_type` of the encoder: whisper, wav2vec2, hubert or wavlm.
        layers: the n layers.
        start: how many layers came before.
        norm: what follows the last layer, where the slice ends with the encoder's last one.
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

    def forward(self, hidden: Tensor, lengths: Tensor, count: int | None = None) -> list[Tensor]:
        """(B, T, D) and (B,) frame counts to n hidden states (B, T, D), or the first `count`; frames beyond a clip's end are
        masked."""
        valid = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        mask = None
        if not bool(valid.all()):
            mask = valid if self.kind == "wavlm" else valid[:, None, None].expand(-1, 1, hidden.shape[1], -1)
        bias = self._position_bias(hidden) if self.kind == "wavlm" else None
        states = []
        for layer in self.layers[:count]:
            if self.kind == "wavlm":
                mask_numbers = None if mask is None else mask.long()
                hidden, _ = layer(hidden, attention_mask=mask_numbers, position_bias=bias, index=1)
            else:
                hidden = layer(hidden, attention_mask=mask)
            states.append(hidden)
        if self.norm is not None and states and len(states) == len(self.layers):
            states[-1] = self.norm(states[-1])
        return states

    def _position_bias(self, hidden: Tensor) -> Tensor:
        assert self.relative is not None
        batch, frames, _ = hidden.shape
        bias = self.relative.compute_bias(frames, frames)
        return bias.unsqueeze(0).repeat(batch, 1, 1, 1).view(-1, frames, frames)


LONGEST = 30.0  # seconds encoded at once; attention grows with the square of it. Longer sound comes in windows
BATCH_SECONDS = 60.0  # of sound and padding that are encoded together


class AudioEncoder(nn.Module):
    """A frozen encoder.

    Attributes:
        kind: `model_type` of the encoder, or "fbank".
        width: D of its hidden states.
        longest: seconds it can take at once.
        depth: how many layers it has.
        layers: the hidden states that `encode` returns: 0 is what enters the first layer, n what leaves layer n.
        body: the layers up to the last of them.
    """

    longest = LONGEST

    def __init__(self, kind: str, width: int, depth: int, layers: Sequence[int]) -> None:
        super().__init__()
        if not layers or not all(0 <= layer <= depth for layer in layers):
            raise UserError(f"encoder_layers: {list(layers)}; choose from 0 to {depth} for this {kind} encoder")
        self.kind, self.width = kind, width
        self.depth, self.layers = depth, list(layers)
        self.body: EncoderLayers | None = None

    def lengths(self, samples: int) -> int:
        """Frames T of a clip of so many samples."""
        raise NotImplementedError

    def front(self, clips: Sequence[Samples]) -> tuple[Tensor, Tensor]:
        """What enters the first layer, (B, T, D), and the clips' frame counts (B,)."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def layer_slice(self, start: int, end: int) -> EncoderLayers:
        """Layers `start` + 1 to `end`, to be trained further."""
        assert self.body is not None
        norm = self.body.norm if end == self.depth else None
        return EncoderLayers(self.kind, self.body.layers[start:end], start, norm, self.body.relative)

    def check_length(self, clips: Sequence[Samples]) -> None:
        """Raise a UserError where a clip is longer than can be taken at once."""
        for clip in clips:
            if len(clip) > self.longest * SAMPLE_RATE:
                seconds = len(clip) / SAMPLE_RATE
                raise UserError(f"{seconds:.1f} s of sound; {self.longest:.0f} s at once, use windows for more")

    @torch.inference_mode()
    def encode(self, clips: Sequence[Samples]) -> list[Tensor]:
        """Hidden states of the chosen layers, one tensor (S, T, D) float32 for each clip, in their order.

        Args:
            clips: mono float32 at 16 kHz, each of 25 ms or more.

        Raises:
            UserError: a clip is longer than the encoder can take at once.
        """
        self.check_length(clips)
        found: dict[int, Tensor] = {}
        for batch in by_length([len(clip) for clip in clips]):
            hidden, lengths = self.front([clips[index] for index in batch])
            states = [hidden, *(self.body(hidden, lengths, max(self.layers)) if self.body is not None else [])]
            chosen = torch.stack([states[layer] for layer in self.layers], dim=1).float().cpu()
            found |= {index: chosen[row, :, : lengths[row]] for row, index in enumerate(batch)}
        return [found[index] for index in range(len(clips))]


def by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of clips of so many samples, in batches of similar length: a minute of sound each at most, or one clip.

    >>> by_length([16_000 * 25, 16_000 * 2, 16_000 * 25, 16_000 * 30])
    [[1, 0], [2, 3]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or lengths[index] * (len(batches[-1]) + 1) > BATCH_SECONDS * SAMPLE_RATE:
            batches.append([])
        batches[-1].append(index)
    return batches


class WhisperEncoder(AudioEncoder):
    """Whisper was trained on sound padded to 30 s. Here it sees only the clip, with the first positions of its table: ten
    times faster for short clips; the output differs from the padded one, so a model must be used the way it was trained."""

    def __init__(self, encoder: nn.Module, extractor: nn.Module, layers: Sequence[int]) -> None:
        config = encoder.config
        super().__init__("whisper", config.d_model, config.encoder_layers, layers)
        self.conv1, self.conv2 = encoder.conv1, encoder.conv2
        self.positions = encoder.embed_positions
        self.longest = min(LONGEST, config.max_source_positions / 50)  # of so many a second
        self.extractor = extractor
        last = max(self.layers)
        norm = encoder.layer_norm if last == self.depth else None
        self.body = EncoderLayers("whisper", encoder.layers[:last], 0, norm, None)

    def lengths(self, samples: int) -> int:
        return (samples // self.extractor.hop_length + 1) // 2

    def front(self, clips: Sequence[Samples]) -> tuple[Tensor, Tensor]:
        mels = [self._mel(clip) for clip in clips]
        counts = torch.tensor([mel.shape[1] for mel in mels], device=self.device)
        mel = nn.utils.rnn.pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2).to(self.device)
        # What lies beyond a clip's end is zeroed between the convolutions, as their own padding is.
        valid = torch.arange(mel.shape[2], device=mel.device) < counts[:, None]
        hidden = nn.functional.gelu(self.conv1(mel)) * valid[:, None]
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        return hidden + self.positions.weight[: hidden.shape[1]], (counts + 1) // 2

    def _mel(self, clip: Samples) -> Tensor:
        features = self.extractor(clip, sampling_rate=SAMPLE_RATE, padding=False, truncation=False, return_tensors="np")
        return torch.from_numpy(np.asarray(features["input_features"][0], dtype=np.float32))


class WaveEncoder(AudioEncoder):
    """wav2vec 2.0, HuBERT and WavLM: convolutions over the waveform, a convolution for positions, then the layers."""

    def __init__(self, model: nn.Module, normalize: bool, layers: Sequence[int]) -> None:
        config = model.config
        super().__init__(config.model_type, config.hidden_size, config.num_hidden_layers, layers)
        self.model_config, self.normalize = config, normalize
        self.extractor, self.projection = model.feature_extractor, model.feature_projection
        self.positions, self.norm = model.encoder.pos_conv_embed, model.encoder.layer_norm
        last = max(self.layers)
        norm = self.norm if config.do_stable_layer_norm and last == self.depth else None
        relative = model.encoder.layers[0].attention if self.kind == "wavlm" else None
        self.body = EncoderLayers(self.kind, model.encoder.layers[:last], 0, norm, relative)

    def lengths(self, samples: int) -> int:
        for kernel, stride in zip(self.model_config.conv_kernel, self.model_config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def front(self, clips: Sequence[Samples]) -> tuple[Tensor, Tensor]:
        waves = [torch.from_numpy(self._normalized(clip)).to(self.device) for clip in clips]
        counts = torch.tensor([self.lengths(len(wave)) for wave in waves], device=self.device)
        if self.model_config.feat_extract_norm == "group":  # normalises over time, so padding would count
            parts = [self.extractor(wave[None])[0].T for wave in waves]
            extracted = nn.utils.rnn.pad_sequence(parts, batch_first=True)
        else:
            extracted = self.extractor(nn.utils.rnn.pad_sequence(waves, batch_first=True)).transpose(1, 2)
        projected = self.projection(extracted)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        valid = torch.arange(hidden.shape[1], device=hidden.device) < counts[:, None]
        hidden = hidden * valid[..., None]
        hidden = hidden + self.positions(hidden)
        return hidden if self.model_config.do_stable_layer_norm else self.norm(hidden), counts

    def _normalized(self, clip: Samples) -> Samples:
        return (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7) if self.normalize else clip


class FbankEncoder(AudioEncoder):
    """Kaldi's filter banks: 80 log-mel energies of 25 ms every 10 ms, to mean 0 and deviation 1 over each clip."""

    bins = 80

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__("fbank", self.bins, 0, layers)

    def lengths(self, samples: int) -> int:
        return (samples - 400) // 160 + 1

    def front(self, clips: Sequence[Samples]) -> tuple[Tensor, Tensor]:
        banks = [self._banks(clip) for clip in clips]
        return nn.utils.rnn.pad_sequence(banks, batch_first=True), torch.tensor([len(bank) for bank in banks])

    def _banks(self, clip: Samples) -> Tensor:
        from torchaudio.compliance.kaldi import fbank

        bank = fbank(torch.from_numpy(clip)[None] * 2**15, num_mel_bins=self.bins, sample_frequency=SAMPLE_RATE)
        return (bank - bank.mean(dim=0)) / bank.std(dim=0, correction=0).clamp(min=1e-3)


def load_encoder(source: str, layers: Sequence[int], device: str = "cpu") -> AudioEncoder:
    """An encoder by "fbank", or the folder or hub id of a Whisper, WavLM, HuBERT or wav2vec 2.0 model, or of an audio LLM.

    Args:
        source: where it is.
        layers: which hidden states to return.
        device: where to compute.

    Raises:
        UserError: it cannot be loaded, is of another kind, or does not have these layers.
    """
    if source == "fbank":
        return FbankEncoder(layers)
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, WhisperModel
    from transformers.models.whisper import modeling_whisper

    from shala_audio.audio.audio_llm import AudioLLMEncoder, audio_llm_class, load_audio_llm

    encoder: AudioEncoder
    try:
        config = AutoConfig.from_pretrained(**at_commit(source), trust_remote_code=False)
        if audio_llm_class(config) is not None:
            # As it is held to predict.
            low = config.get_text_config().dtype == torch.bfloat16 and computes_bf16(device)
            audio_llm, processor = load_audio_llm(source, torch.bfloat16 if low else torch.float32)
            audio_llm.get_decoder().layers = nn.ModuleList()  # nobody asks it to answer
            return AudioLLMEncoder(audio_llm, processor, layers).eval().requires_grad_(False).to(device)
        if config.model_type not in ("whisper", "wav2vec2", "hubert", "wavlm"):
            raise UserError(f"encoder {source}: is {config.model_type}; whisper, wav2vec2, hubert or wavlm is needed")
        extractor = AutoFeatureExtractor.from_pretrained(**at_commit(source), trust_remote_code=False)
        if config.model_type == "whisper":
            alone = "WhisperEncoder" in (config.architectures or [])
            model = load_weights(
                modeling_whisper.WhisperEncoder if alone else WhisperModel, source, dtype=torch.float32
            )
            encoder = WhisperEncoder(model if alone else model.encoder, extractor, layers)
        else:
            encoder = WaveEncoder(load_weights(AutoModel, source, dtype=torch.float32), extractor.do_normalize, layers)
    except LOADING_ERRORS as error:
        raise UserError(f"encoder {source}: cannot be loaded ({first_line(error)})") from None
    return encoder.eval().requires_grad_(False).to(device)
