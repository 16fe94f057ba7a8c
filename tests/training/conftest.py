from __future__ import annotations

import pytest

from shala_audio.corpora.mini import prepare
from shala_audio.corpora.prepare import write_prepared
from shala_audio.task import load_task
from tests.training.helpers import config


@pytest.fixture
def settings(tiny_lm, tmp_path):
    write_prepared(prepare(tmp_path, 0, rows=40, text=True), load_task("mini_text"), tmp_path, 0)
    (tmp_path / "model.yaml").write_text(f"lm: {tiny_lm}\nlora_r: 4\nsystem_prompt: ''\n")
    common = {"manifest": str(tmp_path / "manifest.jsonl"), "task": "mini_text", "model": str(tmp_path / "model.yaml")}

    def make(name: str, **options):
        return config(tmp_path / name, **{**common, "seed": 0, **options})

    return make
