from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from shala_audio.inference.predictor import Predictor
from shala_audio.web import app as module
from tests.tiny import tiny_model


def wav(seconds: float = 0.5) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(int(16_000 * seconds)), 16_000, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def client(tiny_lm, tiny_encoder):
    return TestClient(module.create_app(Predictor(tiny_model(tiny_lm, tiny_encoder), device="cpu")))


def test_page_and_task(client):
    assert "How would people judge this?" in client.get("/").text
    assert client.get("/api/task").json()["labels"] == ["anger", "disgust", "disapproval"]
    assert "/api/predict" in client.get("/openapi.json").json()["paths"]


def test_a_clip(client):
    answer = client.post("/api/predict", files={"clip": ("a.wav", wav())})
    assert answer.status_code == 200
    assert sum(answer.json()["probs"].values()) == pytest.approx(1)


@pytest.mark.parametrize(("content", "status"), [(b"", 422), (b"not sound" * 99, 422), (b"\0" * 3000, 413)])
def test_bad_uploads(client, content, status, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_UPLOAD", 2000)
    assert client.post("/api/predict", files={"clip": ("a.wav", content)}).status_code == status


def test_nothing_to_judge(client):
    assert client.post("/api/predict").status_code == 422
