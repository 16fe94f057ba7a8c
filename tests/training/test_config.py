from __future__ import annotations

import pytest

from shala_audio.training import config
from tests.training.helpers import config as settings


@pytest.mark.parametrize(("slowdown", "used"), [(40.0, False), (0.6, True)])
def test_a_cpu_without_bf16_instructions_trains_in_float32(tmp_path, monkeypatch, capsys, slowdown, used):
    """A CPU with AVX2 alone takes some 40 times longer for bfloat16: a demo of minutes would take hours."""
    monkeypatch.setattr(config, "bf16_slowdown", lambda: slowdown)
    assert settings(tmp_path, bf16=True, use_cpu=True).bf16 is used
    assert ("40 times slower" in capsys.readouterr().err) is not used


def test_the_slowdown_is_measured():
    assert 0.05 < config.bf16_slowdown() < 1000
