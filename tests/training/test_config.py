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


def test_a_resumed_run_computes_as_it_began(tmp_path, monkeypatch):
    """On a machine that is busier now, or less so, the timing may say otherwise."""
    (tmp_path / "run.json").write_text('{"precision": "fp32"}')
    monkeypatch.setattr(config, "bf16_slowdown", lambda: 0.5)
    assert settings(tmp_path, bf16=True, use_cpu=True, resume=True).bf16 is False
    (tmp_path / "run.json").write_text('{"precision": "bf16"}')
    monkeypatch.setattr(config, "bf16_slowdown", lambda: 40.0)
    assert settings(tmp_path, bf16=True, use_cpu=True, resume=True).bf16 is True


def test_the_slowdown_is_measured():
    assert 0.05 < config.bf16_slowdown() < 1000


def test_off_in_a_file_is_off(tmp_path):
    """YAML reads `off` as false."""
    from shala_audio.cli.train import parse

    file = tmp_path / "settings.yaml"
    file.write_text("ambiguity: off\nexact_loss: off\n")
    flags = ["--config", file, "--manifest", "m.jsonl", "--task", "mini", "--model", "speech", "--output_dir", tmp_path]
    found = parse([str(flag) for flag in flags])
    assert (found.ambiguity, found.exact_loss) == ("off", "off")
