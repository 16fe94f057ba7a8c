"""LoRA whose small updates count in mixed precision too.

PEFT adds the adapter's output to that of the frozen layer and rounds the sum to the frozen layer's type. Under autocast to
bfloat16 the frozen layer's output lies on bfloat16's grid already, so an update of less than half a step of it (0.2 to 0.4
per cent of the number) is rounded away, every time. Adapters are that small for most of a short training: 0.1 per cent on
CREMA-D after one pass. Here the product with the frozen weights is added to the update while it is in float32 still, and the sum
is rounded once: on average all of the update is left. That is quicker, too, than to add two outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # else it tells all, on CPUs, what it lacks


def add_lora(module: nn.Module, r: int, alpha: int, targets: list[str] | None = None) -> None:
    """Put LoRA of rank r on linear layers of a module, in place; nothing else in it is trained from then on.

    Args:
        module: a decoder, or layers of an encoder.
        r, alpha: rank, and the scale's numerator: the update is alpha / r · B A x.
        targets: names of the layers; None: all linear ones, but neither routers nor experts that are one array.
    """
    if targets is None:
        targets = [
            name
            for name, layer in module.named_modules()
            if isinstance(layer, (nn.Linear, Conv1D))
            and {"router", "gate", "shared_expert_gate"}.isdisjoint(name.split("."))
            and "Router" not in type(layer).__name__
        ]
    inject_adapter_in_model(LoraConfig(r=r, lora_alpha=alpha, target_modules=targets), module)
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            if type(layer.get_base_layer()) is nn.Linear:
                layer.forward = MethodType(_forward_in_one_product, layer)
            else:  # of other layouts, or in four bits
                layer.get_base_layer().register_forward_hook(_sum_in_float32)
            for adapter in (layer.lora_A, layer.lora_B):
                adapter.float()  # PEFT gives them the type of the frozen layer


def _forward_in_one_product(layer: Any, x: Tensor) -> Tensor:
    kind = x.device.type
    if layer.merged or layer.disable_adapters or not torch.is_autocast_enabled(kind):
        output: Tensor = type(layer).forward(layer, x)
        return output
    base = layer.get_base_layer()
    rows = x.flatten(0, -2).to(torch.get_autocast_dtype(kind))
    update = nn.functional.linear(rows, layer.lora_A["default"].weight)
    update = nn.functional.linear(update, layer.lora_B["default"].weight * layer.scaling["default"])
    output = torch.addmm(update, rows, base.weight.T).unflatten(0, x.shape[:-1])
    return output if base.bias is None else output.float() + base.bias.float()


def sum_weights(module: nn.Module) -> None:
    """Let LoRA of plain linear layers be added to their weights, in float32, in every pass, and not to what they put out.

    In training that is a third quicker where a batch has many more frames than a layer has columns: the sound encoder's. Not
    of weights that lie on bfloat16's grid, where small updates would be rounded away under autocast.
    """
    for layer in module.modules():
        if not (isinstance(layer, LoraLayer) and isinstance(layer.get_base_layer(), nn.Linear)):
            continue
        weight = layer.get_base_layer().weight.detach()
        if not torch.equal(weight, weight.bfloat16().to(weight.dtype)):
            layer.forward = MethodType(_forward_of_summed_weights, layer)


def _forward_of_summed_weights(layer: Any, x: Tensor) -> Tensor:
    base = layer.get_base_layer()
    if layer.merged:
        return nn.functional.linear(x, base.weight, base.bias)
    with torch.autocast(x.device.type, enabled=False):
        update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        weight = base.weight + layer.scaling["default"] * update
    return nn.functional.linear(x, weight, base.bias)


def merge_adapters(module: nn.Module) -> None:
    """Fold LoRA into the weights it stands beside: the same answers by fewer products, but no training any more. Not into
    weights of four bits, which would be rounded again."""
    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer) and not hasattr(
            getattr(layer.get_base_layer(), "weight", None), "quant_state"
        ):
            layer.merge()


@torch.no_grad()
def plain_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights of a `SpeechLM`'s language model as they are called without us, with LoRA folded in: what vLLM is to load."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    seen: set[int] = set()
    for name, parameter in model.named_parameters():
        if not name.startswith(("model.decoder.", "lm_head.")) or ".lora_" in name or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        value = parameter.detach()
        owner, _, leaf = name.rpartition(".base_layer.")
        if owner and leaf == "weight":
            value = value + adapted[owner].get_delta_weight("default").to(value.dtype)
        yield name.replace("model.decoder.", "model.", 1).replace(".base_layer.", "."), value


def _sum_in_float32(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return output.float() if torch.is_autocast_enabled(output.device.type) else output
