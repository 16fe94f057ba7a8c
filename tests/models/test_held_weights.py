"""Frozen weights held as they were published, against the same held in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from shala_audio.inference.predictor import Predictor
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.speech_lm import SpeechLM
from tests.tiny import SPEECH_TASK, random_features, tiny_config


def trained(start, dtype) -> tuple[torch.dtype, list[torch.Tensor]]:
    """The type of the frozen weights, and what three steps under autocast make of the trained ones."""
    model = SpeechLM.from_pretrained(start, dtype)
    clips = random_features(3)
    builder = PromptBuilder(model)
    batch = builder.batch([builder.prompt({}, clip.shape[1]) for clip in clips], clips)
    human = torch.tensor(np.random.default_rng(0).dirichlet(np.ones(3), 3), dtype=torch.float32)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-2)
    torch.manual_seed(0)  # of the summary's dropout
    model.train()
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            losses, _ = model(compute=lambda: model.readout.supervised_losses(batch, human))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    assert all(parameter.dtype == torch.float32 for parameter in parameters)
    return model.model.decoder.get_input_embeddings().weight.dtype, parameters


@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized"])
def test_training_is_the_same_bit_for_bit(tiny_low_lm, tiny_encoder, tmp_path, readout):
    torch.manual_seed(0)
    config = replace(tiny_config(tiny_low_lm, tiny_encoder), summary_token=True)
    SpeechLM.build(config, SPEECH_TASK, readout).save_pretrained(tmp_path)
    low, of_low = trained(tmp_path, "auto")
    high, of_high = trained(tmp_path, torch.float32)
    assert (low, high) == (torch.bfloat16, torch.float32)
    for ours, plain in zip(of_low, of_high, strict=True):
        assert torch.equal(ours, plain)


def test_a_configuration_may_ask_for_float32(tiny_low_lm):
    config = replace(tiny_config(tiny_low_lm), weights="float32")
    model = SpeechLM.build(config, replace(SPEECH_TASK, modality="text", prompt="how?"), "label_token", "auto")
    assert model.model.decoder.get_input_embeddings().weight.dtype == torch.float32


def test_what_was_published_in_float32_is_not_rounded(tiny_lm):
    model = SpeechLM.build(
        tiny_config(tiny_lm), replace(SPEECH_TASK, modality="text", prompt="how?"), "label_token", "auto"
    )
    assert model.model.decoder.get_input_embeddings().weight.dtype == torch.float32


def test_a_model_that_is_held_low_predicts_nearly_the_same(tiny_low_lm, tiny_encoder, tmp_path):
    torch.manual_seed(0)
    SpeechLM.build(tiny_config(tiny_low_lm, tiny_encoder), SPEECH_TASK, "label_token").save_pretrained(tmp_path)
    clip = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
    high, low = (
        Predictor.from_pretrained(tmp_path, device="cpu", dtype=dtype).predict((clip, 16_000)).probs
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert np.abs(high - low).max() < 0.02
