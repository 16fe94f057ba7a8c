"""What a process may compute on."""

from __future__ import annotations

import pytest
import torch

from shala_audio import devices
from shala_audio.devices import accelerator_computes_bf16, product_dtype


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_that_a_gpu_imitates_does_not_count(monkeypatch, native):
    """torch calls it supported on NVIDIA GPUs before Ampere, where it is slower than float32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert accelerator_computes_bf16() is native


def test_gpus_without_bfloat16_compute_in_float16(monkeypatch):
    """They computed in float32, so that a model of 7 billion parameters did not fit a card of 16 GB."""
    monkeypatch.setattr(devices, "accelerator_computes_bf16", lambda: False)
    monkeypatch.setattr(devices, "bf16_slowdown", lambda: 40.0)
    assert (product_dtype("cuda"), product_dtype("cpu")) == (torch.float16, torch.float32)
    monkeypatch.setattr(devices, "accelerator_computes_bf16", lambda: True)
    assert product_dtype("cuda") == torch.bfloat16
