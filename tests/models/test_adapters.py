from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from shala_audio.models.adapters import add_lora


def stock(module: nn.Module) -> None:
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=["0"]), module)


def test_small_updates_count_under_autocast():
    def kept(inject) -> float:
        """Share of an update's size that is left of it under autocast, on average."""
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(64, 64, bias=False))
        inject(module)
        x = torch.randn(256, 64)
        adapter = module[0].lora_B["default"].weight
        adapter.data = 0.0003 * torch.randn(64, 4)
        update = module[0].lora_B["default"](module[0].lora_A["default"](x)).detach()

        def answer() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):  # which keeps what it has rounded until it ends
                return module(x).float()

        adapted = answer()
        adapter.data.zero_()
        return float(((adapted - answer()) * update).sum() / update.square().sum())

    assert abs(kept(lambda module: add_lora(module, 4, 4, ["0"])) - 1) < 0.02
    assert kept(stock) < 0.8, "stock PEFT rounds them away; if this fails, the hook is no longer needed"


def test_without_autocast_nothing_changes():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8)).to(torch.bfloat16)
    add_lora(module, 2, 4, ["0"])
    assert module[0].base_layer(torch.ones(1, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert [name for name, p in module.named_parameters() if p.requires_grad] == [
        "0.lora_A.default.weight",
        "0.lora_B.default.weight",
    ]
