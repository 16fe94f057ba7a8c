from __future__ import annotations

import runpy
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import soundfile
import torch

import shala_audio
from shala_audio.errors import UserError
from shala_audio.inference import default
from shala_audio.inference import predictor as predictor_module
from shala_audio.inference.hub import LARGE, find_model
from shala_audio.inference.predictor import Predictor
from shala_audio.io import read_json
from shala_audio.manifest import Audio, Row
from shala_audio.models.folder import CARD, SETTINGS, TRAINED
from shala_audio.models.pretrained import is_pulled
from tests.tiny import tiny_model


def test_sound_and_text_each_find_their_part(tiny_lm, tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(default, "FOLDER", tmp_path)
    tiny_model(tiny_lm, tiny_encoder).save_pretrained(tmp_path / "sound")
    tiny_model(tiny_lm, seed=1).save_pretrained(tmp_path / "text")
    clip = tmp_path / "a.wav"
    soundfile.write(clip, 0.1 * np.random.default_rng(0).standard_normal(9_000), 16_000)
    model = shala_audio.load(device="cpu")
    heard, read = model.predict(clip), model.predict(text="oh no")
    assert heard.probs != pytest.approx(read.probs)
    together = model.predict_batch([(None, "oh no"), clip, (None, {"comment": "oh no"})])
    for found, expected in zip(together, (read, heard, read), strict=True):
        assert found.probs == pytest.approx(expected.probs, abs=1e-5)
    texts = model.predict_batch([clip], texts=["oh no"])
    assert [one.labels for one in texts] == [heard.labels, read.labels]
    assert model.text.predict_batch(texts=["oh no"])[0].probs == pytest.approx(read.probs, abs=1e-6)
    assert len(model.timeline(clip, window=0.3, hop=0.3)) == 2
    rows = [
        Row("a", "tiny_speech", "test", audio=Audio("a.wav")),
        Row("b", "tiny_text", "test", text={"comment": "oh no"}),
    ]
    for (identity, found), expected in zip(model.predict_rows(rows, audio_root=tmp_path), (heard, read), strict=True):
        assert found.probs == pytest.approx(expected.probs, abs=1e-5), identity
    assert isinstance(model, Predictor), "one type, whatever is loaded"
    with pytest.raises(UserError, match="only a model that was loaded from a folder"):
        model.push_to_hub("me/mine")


def test_threads_that_ask_first_at_once_load_one_after_the_other(tiny_lm, tiny_encoder, tmp_path, monkeypatch):
    """transformers loads one model at a time: two threads that loaded at once got an error, or wrong weights."""
    monkeypatch.setattr(default, "FOLDER", tmp_path)
    tiny_model(tiny_lm, tiny_encoder).save_pretrained(tmp_path / "sound")
    tiny_model(tiny_lm, seed=1).save_pretrained(tmp_path / "text")
    loading, loaded = Lock(), []
    load = predictor_module._load

    def watched(folder, *options):
        assert loading.acquire(blocking=False), "while another one was loaded"
        time.sleep(0.05)
        loaded.append(folder.name)
        loading.release()
        return load(folder, *options)

    monkeypatch.setattr(predictor_module, "_load", watched)
    sound = (0.1 * np.random.default_rng(0).standard_normal(9_000), 16_000)
    model = shala_audio.load(device="cpu")
    asked = [(sound, None), (None, "oh no")] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda pair: model.predict(*pair), asked))
    assert sorted(loaded) == ["sound", "text"], "each once"
    for one, pair in zip(found, asked, strict=True):
        assert one.probs == pytest.approx(model.predict(*pair).probs, abs=1e-6)


@pytest.mark.skipif(
    not (is_pulled("whisper-base") and is_pulled("smollm2-135m-instruct")),
    reason="the default models are not in the cache: `shala-audio models pull`",
)
def test_the_default_model_answers(tmp_path):
    clip = tmp_path / "a.wav"
    soundfile.write(clip, 0.1 * np.random.default_rng(0).standard_normal(20_000), 16_000)
    model = shala_audio.load(device="cpu")
    heard = model.predict(clip)
    assert heard.labels == ("anger", "disgust", "fear", "happy", "neutral", "sad")
    assert sum(heard.values()) == pytest.approx(1)
    read = model.predict(text="Thank you so much, you made my day!")
    assert len(read) == 28 and read.top in ("gratitude", "joy", "admiration")


def test_the_default_model_is_small():
    size = sum(path.stat().st_size for path in default.FOLDER.rglob("*.safetensors"))
    assert 0 < size < 16e6


def test_the_large_one_comes_with_its_base_and_card():
    """Of some MB, for a base that is named with its weights' sha256 and fetched when it is wanted."""
    folder = find_model(LARGE)
    settings = read_json(folder / SETTINGS)
    assert settings["model"]["lm"] == "qwen2.5-coder-1.5b-instruct" and len(settings["lm_sha256"]) == 64
    assert (folder / TRAINED).stat().st_size < 10e6
    assert not list(folder.glob("distances*")), "votes could be guessed from them"
    score = read_json(folder / "score.json")
    assert f"{score['jsd']['value']:.3f}" in (folder / CARD).read_text(encoding="utf-8")


def test_a_lower_rank_keeps_what_was_learnt_most():
    """The nearest product of that rank, by torch's own decomposition of the whole update."""
    keep_rank = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "make_default.py"))["keep_rank"]
    torch.manual_seed(0)
    a, b = torch.randn(6, 20), torch.randn(30, 6)
    for rank in (6, 2):
        state = {"x.lora_A.default.weight": a, "x.lora_B.default.weight": b, "other": torch.ones(2)}
        settings = {"model": {"lora_r": 6, "lora_alpha": 12}}
        keep_rank(state, settings, rank)
        u, values, v = torch.linalg.svd(b @ a, full_matrices=False)
        nearest = u[:, :rank] * values[:rank] @ v[:rank]
        torch.testing.assert_close(
            state["x.lora_B.default.weight"] @ state["x.lora_A.default.weight"], nearest, atol=1e-4, rtol=1e-4
        )
        assert settings["model"] == {"lora_r": rank, "lora_alpha": 2 * rank} and state["other"].tolist() == [1, 1]
