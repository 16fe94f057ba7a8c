"""What a process may compute on."""

from __future__ import annotations

import pytest
import torch

from shala_audio.devices import accelerator_computes_bf16


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_that_a_gpu_imitates_does_not_count(monkeypatch, native):
    """torch calls it supported on NVIDIA GPUs before Ampere, where it is slower than float32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert accelerator_computes_bf16() is native
