from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from shala_audio.audio.encoders import AudioEncoder, load_encoder
from shala_audio.errors import UserError
from shala_audio.models.pretrained import is_pulled, model_folder
from tests.tiny import make_tiny_wave_encoder

WAVE = [(kind, norm) for kind in ("wav2vec2", "hubert", "wavlm") for norm in ("group", "layer")]


def clips(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(length).astype(np.float32) * 0.1 for length in lengths]


@pytest.fixture(scope="module", params=["whisper", "fbank", *WAVE], ids=str)
def encoder(request, tiny_encoder, tmp_path_factory) -> AudioEncoder:
    if request.param == "whisper":
        return load_encoder(str(tiny_encoder), [0, 1, 2])
    if request.param == "fbank":
        return load_encoder("fbank", [0])
    return load_encoder(str(make_tiny_wave_encoder(tmp_path_factory.mktemp("wave"), *request.param)), [0, 1, 2])


def test_a_clip_alone_equals_the_clip_in_a_padded_batch(encoder):
    batch = clips(16_000, 5_001, 9_999, 400)
    together = encoder.encode(batch)
    for clip, states in zip(batch, together, strict=True):
        (alone,) = encoder.encode([clip])
        assert states.shape == alone.shape == (len(encoder.layers), encoder.lengths(len(clip)), encoder.width)
        torch.testing.assert_close(states, alone, atol=1e-5, rtol=1e-4)


def test_neighbours_are_not_heard(encoder):
    """What another clip of the batch holds changes nothing, however loud it is."""
    quiet, loud = clips(5_000, 16_000)
    first, _ = encoder.encode([quiet, loud])
    second, _ = encoder.encode([quiet, 9 * loud[::-1].copy()])
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("kind", "norm"), WAVE)
def test_hidden_states_are_those_of_transformers(tmp_path, kind, norm):
    folder = make_tiny_wave_encoder(tmp_path, kind, norm)
    ours = load_encoder(str(folder), [0, 1, 2])
    stock = AutoModel.from_pretrained(folder).eval()
    (clip,) = clips(12_345)
    normal = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7) if norm == "layer" else clip
    with torch.no_grad():
        expected = stock(torch.from_numpy(normal)[None], output_hidden_states=True)
    torch.testing.assert_close(ours.encode([clip])[0][2], expected.last_hidden_state[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.encode([clip])[0][1], expected.hidden_states[1][0], atol=1e-5, rtol=1e-4)


def test_fbank_has_mean_0_and_deviation_1():
    encoder = load_encoder("fbank", [0])
    (clip,) = clips(16_000)
    (states,) = encoder.encode([clip])
    assert states.shape == (1, 98, 80)
    torch.testing.assert_close(states[0].mean(dim=0), torch.zeros(80), atol=1e-5, rtol=0)
    torch.testing.assert_close(states[0].std(dim=0, correction=0), torch.ones(80), atol=1e-4, rtol=0)


def test_agrees_with_transformers_on_thirty_seconds(tiny_encoder):
    """On sound that fills the whole window, ours is the stock encoder."""
    encoder = load_encoder(str(tiny_encoder), [2])
    (clip,) = clips(30 * 16_000)
    stock = WhisperEncoder.from_pretrained(tiny_encoder).eval()
    mel = encoder.extractor(clip, sampling_rate=16_000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        expected = stock(mel).last_hidden_state[0]
    torch.testing.assert_close(encoder.encode([clip])[0][0], expected, atol=1e-4, rtol=1e-4)


def test_too_long_and_wrong_layers_are_refused(tiny_encoder):
    with pytest.raises(UserError, match="use windows"):
        load_encoder(str(tiny_encoder), [1]).encode(clips(31 * 16_000))
    with pytest.raises(UserError, match="encoder_layers"):
        load_encoder(str(tiny_encoder), [3])
    with pytest.raises(UserError, match="choose from 0 to 0"):
        load_encoder("fbank", [1])


def test_another_kind_of_model_is_refused(tiny_lm):
    with pytest.raises(UserError, match="whisper, wav2vec2, hubert or wavlm is needed"):
        load_encoder(str(tiny_lm), [1])


@pytest.mark.skipif(not is_pulled("whisper-base"), reason="whisper-base is not in the cache: `shala-audio models pull`")
def test_the_real_whisper_is_that_of_transformers():
    folder = str(model_folder("whisper-base"))
    ours = load_encoder(folder, [6])
    (clip,) = clips(30 * 16_000)
    stock = WhisperEncoder.from_pretrained(folder).eval()
    mel = ours.extractor(clip, sampling_rate=16_000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        expected = stock(mel).last_hidden_state[0]
    torch.testing.assert_close(ours.encode([clip])[0][0], expected, atol=1e-4, rtol=1e-4)


def test_weights_published_as_pytorch_model_bin_are_read_and_run_nothing(tiny_encoder, tmp_path):
    """As WavLM's are on the hub."""
    from safetensors.torch import load_file

    shutil.copytree(tiny_encoder, tmp_path / "bin")
    torch.save(load_file(tmp_path / "bin" / "model.safetensors"), tmp_path / "bin" / "pytorch_model.bin")
    (tmp_path / "bin" / "model.safetensors").unlink()
    clip = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
    expected = load_encoder(str(tiny_encoder), [1, 2]).encode([clip])[0]
    assert torch.equal(load_encoder(str(tmp_path / "bin"), [1, 2]).encode([clip])[0], expected)

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"conv1.weight": Attack()}, tmp_path / "bin" / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"encoder .*: cannot be loaded \(its pytorch_model.bin holds more than weights"
    ):
        load_encoder(str(tmp_path / "bin"), [1, 2])
    assert not (tmp_path / "made").exists()
