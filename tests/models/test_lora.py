from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from shala_audio.models.lora import add_lora, sum_weights
from shala_audio.models.speech_lm import SpeechLM
from tests.tiny import SPEECH_TASK, tiny_config


def ours(module: nn.Module) -> None:
    add_lora(module, 4, 4, ["0"])


def stock(module: nn.Module) -> None:
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=["0"]), module)


def kept(inject, merged: bool = False) -> float:
    """Share of an update of 0.05 per cent of the output that is left of it in bfloat16, on average."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64, bias=False)).to(torch.bfloat16).float()  # as published in bfloat16
    inject(module)
    x = torch.randn(256, 64)
    adapter = module[0].lora_B["default"].weight
    adapter.data = 0.0003 * torch.randn(64, 4)
    update = module[0].lora_B["default"](module[0].lora_A["default"](x)).detach()

    def answer() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):  # which keeps what it has rounded until it ends
            return module(x).float()

    if merged:
        module[0].merge()
    adapted = answer()
    if merged:
        module[0].unmerge()
    adapter.data.zero_()
    return float(((adapted - answer()) * update).sum() / update.square().sum())


def test_small_updates_count_under_autocast():
    assert kept(ours) == pytest.approx(1, abs=0.02)


def test_they_would_be_lost_without_it():
    """If this fails, the sum in float32 is no longer needed."""
    assert kept(stock) < 0.8
    assert kept(ours, merged=True) < 0.8, "weights in bfloat16 take none of it up"


def test_without_autocast_nothing_changes_but_that_adapters_are_in_float32():
    outputs = []
    for inject in (ours, stock):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(8, 8)).to(torch.bfloat16)
        inject(module)
        module[0].lora_B["default"].weight.data.normal_()
        assert module[0].lora_A["default"].weight.dtype == (torch.float32 if inject is ours else torch.bfloat16)
        outputs.append(module(torch.ones(1, 8, dtype=torch.bfloat16)))
    assert outputs[0].dtype == torch.bfloat16
    torch.testing.assert_close(*outputs, atol=0.05, rtol=0.02)


def test_every_adapter_of_a_model_has_it(tiny_lm, tiny_encoder):
    config = replace(tiny_config(tiny_lm, tiny_encoder), encoder_trained_layers=1, encoder_lora_r=2)
    model = SpeechLM.build(config, SPEECH_TASK, "label_token")
    adapted = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    assert {name.split(".")[1] for name in adapted} == {"decoder", "audio_adapter"}
    for layer in adapted.values():
        base = layer.get_base_layer()
        with torch.autocast("cpu", torch.bfloat16):
            assert base(torch.ones(1, base.in_features)).dtype == torch.float32


def test_summed_weights_give_the_same_outputs_and_gradients():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 4))
    add_lora(module, 2, 4, ["0", "2"])
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    x, found = torch.randn(5, 8), []
    for summed in (False, True):
        if summed:
            sum_weights(module)
        module.zero_grad()
        output = module(x)
        output.square().sum().backward()
        found.append([output, *(p.grad.clone() for p in module.parameters() if p.requires_grad)])
    assert len(found[0]) == 5
    for plain, summed in zip(*found, strict=True):
        torch.testing.assert_close(plain, summed)
    for layer in (module[0], module[2]):
        layer.merge()
    torch.testing.assert_close(module(x), found[0][0])


def test_weights_on_the_grid_of_bfloat16_are_not_summed_with():
    """Small updates would be rounded away; of others, they are kept on average."""
    for low in (True, False):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(64, 64, bias=False))
        module = module.to(torch.bfloat16).float() if low else module
        ours(module)
        sum_weights(module)
        assert ("forward" in vars(module[0])) != low
    x, layer = torch.randn(256, 64), module[0]
    layer.lora_B["default"].weight.data = 0.003 * torch.randn(64, 4)
    update = layer.lora_B["default"](layer.lora_A["default"](x)).detach()

    def answer() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return module(x).float().detach()

    adapted = answer()
    layer.lora_B["default"].weight.data.zero_()
    assert float(((adapted - answer()) * update).sum() / update.square().sum()) == pytest.approx(1, abs=0.1)
