"""`weights: 4bit` with bitsandbytes itself, which also computes on CPUs."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch

from shala_audio.errors import UserError
from shala_audio.inference.predictor import Predictor
from shala_audio.models.config import model_config_from_dict
from shala_audio.models.memory import reckon
from shala_audio.models.speech_lm import SpeechLM
from tests.tiny import TEXT_TASK, make_tiny_lm, tiny_config
from tests.training.helpers import shala_trainer

bitsandbytes = pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def lm_of_128(tmp_path_factory):
    """Four bits go by 64 weights of a row."""
    return make_tiny_lm(tmp_path_factory.mktemp("lm"), 128)


def four_bit(lm, readout: str = "label_token") -> SpeechLM:
    values = {**tiny_config(lm).to_dict(), "weights": "4bit"}
    return SpeechLM.build(model_config_from_dict(values, "test"), TEXT_TASK, readout, "auto")


def test_linear_layers_hold_four_bits_and_nothing_else_does(lm_of_128):
    model = four_bit(lm_of_128)
    layer = model.model.decoder.layers[0].mlp.up_proj.get_base_layer()
    assert isinstance(layer, bitsandbytes.nn.Linear4bit) and layer.weight.numel() == 128 * 256 / 2
    assert model.lm_head.weight.dtype == model.model.decoder.embed_tokens.weight.dtype == torch.float32
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained and all(parameter.dtype == torch.float32 for parameter in trained)


def test_it_learns_is_saved_and_answers_the_same(lm_of_128, tmp_path):
    model = four_bit(lm_of_128)
    before = Predictor(model, device="cpu").predict(text="comment 1").probs
    shala_trainer(model, tmp_path / "run", max_steps=4, learning_rate=1e-2).train()
    after = Predictor(model, device="cpu").predict(text="comment 1").probs
    assert np.abs(after - before).max() > 1e-3
    model.save_pretrained(tmp_path / "saved")
    again = Predictor.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.model.model_config.weights == "4bit"
    assert again.predict(text="comment 1").probs == pytest.approx(after, abs=1e-5)


def test_what_does_not_go_with_it_is_said(lm_of_128, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="vLLM cannot be sent weights of four bits"):
        shala_trainer(four_bit(lm_of_128, "verbalized"), tmp_path, use_vllm=True)
    with pytest.raises(UserError, match="4bit does not go with audio_lm"):
        model_config_from_dict({"audio_lm": "x", "weights": "4bit"}, "test")
    real = builtins.__import__

    def without(name, *rest):
        if name == "bitsandbytes":
            raise ImportError("No module named 'bitsandbytes'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"weights 4bit: .*pip install '.\[qlora\]'"):
        four_bit(lm_of_128)


def test_it_takes_what_is_reckoned(lm_of_128):
    """Bytes of the layers, with their scales."""
    model = four_bit(lm_of_128)
    linear = [one for one in model.model.decoder.modules() if isinstance(one, bitsandbytes.nn.Linear4bit)]
    values = {**tiny_config(lm_of_128).to_dict(), "weights": "4bit"}
    found = reckon(model_config_from_dict(values, "test"))
    rest = 4 * sum(
        p.numel() for name, p in model.named_parameters() if "lora_" not in name and p.dtype == torch.float32
    )
    held = 0
    for weight in (one.weight for one in linear):  # scales are rounded too, or on some CPUs unpacked
        nested = weight.quant_state.state2.absmax if weight.quant_state.nested else weight.new_zeros(0)
        parts = (weight.data, weight.quant_state.absmax, nested)
        held += sum(part.numel() * part.element_size() for part in parts)
    assert found.weights - rest == pytest.approx(held, rel=0.03)
