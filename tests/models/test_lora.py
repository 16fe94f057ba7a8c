from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

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
    """If this fails, PEFT's own sum is good enough."""
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
        assert layer.forward.__name__ in ("_forward_in_one_product", "_forward_of_summed_weights")


def test_layers_of_other_layouts_sum_in_float32():
    module = nn.Sequential(Conv1D(6, 8)).to(torch.bfloat16)  # GPT-2's
    ours(module)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(torch.ones(2, 8)).dtype == torch.float32
        assert module[0].get_base_layer()(torch.ones(2, 8)).dtype == torch.float32


def test_one_product_gives_the_same_outputs_and_gradients():
    """Against PEFT's layers in float32, with a bias and without."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 16, bias=False))
    add_lora(module, 4, 8, ["0", "2"])
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    x, found = torch.randn(3, 5, 32), []
    for low in (False, True):
        module.zero_grad()
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            output = module(inputs)
        output.float().square().sum().backward()
        found.append([output.float(), inputs.grad, *(p.grad.clone() for p in module.parameters() if p.requires_grad)])
    assert len(found[0]) == 6 and found[1][0].shape == (3, 5, 16)
    for exact, rounded in zip(*found, strict=True):
        assert float((rounded - exact).norm() / exact.norm()) < 0.02


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
        assert (module[0].forward.__name__ == "_forward_of_summed_weights") != low
    x, layer = torch.randn(256, 64), module[0]
    layer.lora_B["default"].weight.data = 0.003 * torch.randn(64, 4)
    update = layer.lora_B["default"](layer.lora_A["default"](x)).detach()

    def answer() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return module(x).float().detach()

    adapted = answer()
    layer.lora_B["default"].weight.data.zero_()
    assert float(((adapted - answer()) * update).sum() / update.square().sum()) == pytest.approx(1, abs=0.1)
