"""What many tests share: tiny models, made in a second, and the folder of real corpora where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

import shala_audio  # noqa: F401  before anything imports torchaudio

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# No test depends on time: machines are noisy. In CI a failure must mean a change, so examples are fixed there; elsewhere
# every run looks at new ones.
settings.register_profile("shala", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("shala")


@pytest.fixture(autouse=True)
def _own_environment():
    """What a test, or a library in it, sets in the environment goes with it: TRL names a rank and a port there for vLLM, and
    every process that a later test started met the others at that port."""
    before = dict(os.environ)
    yield
    for name in {*before, *os.environ}:
        if name not in before:
            del os.environ[name]
        elif os.environ.get(name) != before[name]:
            os.environ[name] = before[name]


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Folder with one folder for each real corpus ($SHALA_CORPORA); tests that need it skip where it is absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SHALA_CORPORA", beside))
    if not folder.is_dir():
        pytest.skip("SHALA_CORPORA is not set: the real corpora are not here")
    return folder


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama of width 32 with a byte-level tokenizer."""
    from tests.tiny import make_tiny_lm

    return make_tiny_lm(tmp_path_factory.mktemp("tiny_lm"))


@pytest.fixture(scope="session")
def tiny_low_lm(tiny_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_lm`, published in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny_low_lm")
    AutoModelForCausalLM.from_pretrained(tiny_lm).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Whisper encoder of width 16."""
    from tests.tiny import make_tiny_encoder

    return make_tiny_encoder(tmp_path_factory.mktemp("tiny_encoder"))
