from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from shala_audio.audio.encoders import load_encoder
from shala_audio.errors import UserError
from shala_audio.inference.predictor import Predictor
from shala_audio.models.audio_adapter import AudioAdapter
from shala_audio.models.config import ModelConfig, model_config_from_dict
from shala_audio.models.speech_lm import SpeechLM
from tests.tiny import SPEECH_TASK, make_tiny_wave_encoder, tiny_config

CONFIG = {"lm": "x", "frame_stack": 4, "projector_width": 16}


def clips(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(length).astype(np.float32) * 0.1 for length in lengths]


def tokens_of(adapter: AudioAdapter, states: list[torch.Tensor]) -> list[torch.Tensor]:
    lengths = torch.tensor([clip.shape[1] for clip in states])
    padded = torch.full((len(states), states[0].shape[0], int(lengths.max()), states[0].shape[2]), 7.0)
    for index, clip in enumerate(states):
        padded[index, :, : clip.shape[1]] = clip
    tokens, counts = adapter(padded, lengths)
    assert counts.tolist() == [adapter.token_count(int(length)) for length in lengths]
    return [tokens[index, :count] for index, count in enumerate(counts.tolist())]


@pytest.fixture(params=["whisper", "wavlm", "hubert", "wav2vec2", "fbank"])
def source(request, tiny_encoder, tmp_path_factory):
    if request.param == "whisper":
        return str(tiny_encoder)
    return (
        "fbank"
        if request.param == "fbank"
        else str(make_tiny_wave_encoder(tmp_path_factory.mktemp("e"), request.param))
    )


@pytest.mark.parametrize(("lora_r", "summary"), [(0, False), (2, True)])
def test_a_clip_alone_equals_the_clip_in_a_batch_and_every_part_learns(source, lora_r, summary):
    layers, trained = ((0,), 0) if source == "fbank" else ((1, 2), 1)
    config = ModelConfig(
        **CONFIG,
        encoder=source,
        encoder_layers=layers,
        encoder_trained_layers=trained,
        encoder_lora_r=lora_r,
        summary_token=summary,
    )
    encoder = load_encoder(source, config.cached_layers())
    torch.manual_seed(0)
    adapter = AudioAdapter(config, encoder, lm_width=32, scale=0.13).eval()
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:  # LoRA begins at 0, where its other half gets no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    states = encoder.encode(clips(16_000, 5_001, 9_999))
    for state, tokens in zip(states, tokens_of(adapter, states), strict=True):
        (alone,) = tokens_of(adapter, [state])
        torch.testing.assert_close(tokens, alone, atol=1e-5, rtol=1e-4)
        assert tokens.std().item() == pytest.approx(0.13, rel=0.15), "sound enters on the scale of words"
    torch.cat(tokens_of(adapter, states)).square().mul(torch.arange(32)).sum().backward()
    learning = {name for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    silent = {name for name in learning if not adapter.get_parameter(name).grad.abs().sum() > 0}
    alone = {"layer_logits"} if source == "fbank" else set()  # one layer has nothing to be weighed against
    alone |= {"summary.statistics.attention.2.bias"} if summary else set()  # the softmax over time takes it out
    assert silent <= alone | {f"top.layers.0.{part}.k_proj.bias" for part in ("self_attn", "attention")}
    assert any(name.startswith("top.") for name in learning) == bool(trained)
    assert all("lora_" in name for name in learning if name.startswith("top.")) or not lora_r
    assert not any("relative" in name or name.startswith("top.norm") for name in learning)


def test_layers_that_are_trained_begin_as_the_frozen_ones(source):
    """Before any training, an adapter with trained layers hears what one on frozen features hears."""
    if source == "fbank":
        pytest.skip("fbank has no layers")
    frozen = ModelConfig(**CONFIG, encoder=source, encoder_layers=(1, 2))
    trained = ModelConfig(**CONFIG, encoder=source, encoder_layers=(1, 2), encoder_trained_layers=2)
    assert trained.cached_layers() == [0, 1, 2] and frozen.cached_layers() == [1, 2]
    encoder = load_encoder(source, [0, 1, 2])
    (states,) = encoder.encode(clips(8_000))
    adapters = []
    for config in (frozen, trained):
        torch.manual_seed(0)
        adapters.append(AudioAdapter(config, encoder, lm_width=32, scale=0.13).eval())
    (expected,) = tokens_of(adapters[0], [states[1:]])
    (found,) = tokens_of(adapters[1], [states])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_features_are_masked_in_training_alone(tiny_encoder):
    config = ModelConfig(**CONFIG, encoder=str(tiny_encoder), encoder_layers=(1,), spec_augment=True)
    encoder = load_encoder(str(tiny_encoder), [1])
    adapter = AudioAdapter(config, encoder, lm_width=32, scale=0.13)
    states = encoder.encode(clips(32_000))
    torch.manual_seed(1)
    first, second = (tokens_of(adapter.train(), states)[0] for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (tokens_of(adapter.eval(), states)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projector": "magic"}, "projector is 'magic'"),
        ({"encoder_trained_layers": 4}, "from 0 to 3"),
        ({"trim_db": -1.0}, "trim_db"),
        ({"encoder_layers": []}, "encoder_layers is empty"),
        ({"encoder_layers": 4}, "a list of whole numbers is needed"),
        ({"trim_db": "40"}, "trim_db is '40'"),
        ({"loudness_db": True}, "loudness_db is True"),
        ({"loudness_db": 26}, "loudness_db is 26; dB of full scale"),
        ({"loudness_db": float("nan")}, "loudness_db is nan"),
        ({"lora_r": -4}, "lora_r is -4; a whole number of 0 or more"),
        ({"lora_r": 16.0}, "lora_r is 16.0"),
        ({"encoder_lora_r": True}, "encoder_lora_r is True"),
        ({"spec_augment": "no"}, "spec_augment is 'no'; use true or false"),
        ({"projector": "qformer", "projector_width": 20}, "qformer needs a multiple of 8"),
    ],
)
def test_wrong_settings_are_refused_by_name(change, message):
    fields = {**CONFIG, "encoder": "fbank", "encoder_layers": [3], **change}
    with pytest.raises(UserError, match=f"m.yaml: .*{message}"):
        model_config_from_dict(fields, "m.yaml")


def test_fbank_counts_tokens_by_half_frames():
    config = ModelConfig(**CONFIG, encoder="fbank", encoder_layers=(0,))
    adapter = AudioAdapter(config, load_encoder("fbank", [0]), 32, 0.1)
    assert [adapter.token_count(frames) for frames in (1, 8, 9)] == [1, math.ceil(4 / 4), math.ceil(5 / 4)]


def test_a_cache_of_one_layer_gives_the_same_answer(tiny_lm, tiny_encoder, tmp_path):
    """Five layers of WavLM-large would take 750 GB of MSP-Podcast."""
    clip = (0.1 * np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)
    answers = []
    for keep in (True, False):
        config = replace(
            tiny_config(tiny_lm, tiny_encoder),
            encoder_layers=(1, 2),
            encoder_trained_layers=2,
            cache_trained_layers=keep,
        )
        assert config.cached_layers() == ([0, 1, 2] if keep else [0])
        torch.manual_seed(0)
        model = SpeechLM.build(config, SPEECH_TASK, "label_token")
        model.save_pretrained(tmp_path / str(keep))
        predictor = Predictor.from_pretrained(tmp_path / str(keep))
        assert predictor.encode([clip])[0].shape[0] == 1, "what is not read is not computed"
        answers.append(predictor.predict((clip, 16_000)).probs)
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
