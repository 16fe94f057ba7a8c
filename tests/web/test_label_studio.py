from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from shala_audio.errors import UserError
from shala_audio.inference.predictor import Predictor
from shala_audio.web.app import create_app
from shala_audio.web.label_studio import control_of
from tests.tiny import tiny_model

INTERFACE = """<View><Header value="How?"/><{kind} name="it" value="${field}"/>
<Choices name="feeling" toName="it"><Choice value="Disgust"/><Choice value="ANGER"/>
<Choice value="disapproval"/><Choice value="none"/></Choices></View>"""


@pytest.fixture(scope="module")
def text(tiny_lm):
    return Predictor(tiny_model(tiny_lm), device="cpu")


@pytest.fixture(scope="module")
def sound(tiny_lm, tiny_encoder):
    return Predictor(tiny_model(tiny_lm, tiny_encoder), device="cpu")


def test_texts_are_prelabelled(text):
    client = TestClient(create_app([text]))
    tasks = [{"id": number, "data": {"said": words}} for number, words in enumerate(("oh no", "so what"))]
    config = INTERFACE.format(kind="Text", field="said")
    assert client.get("/label-studio/health").json()["status"] == "UP"
    assert (
        "tiny_text"
        in client.post("/label-studio/setup", json={"project": "1", "schema": config}).json()["model_version"]
    )
    found = client.post("/label-studio/predict", json={"tasks": tasks, "label_config": config, "project": "1"}).json()[
        "results"
    ]
    for task, one in zip(tasks, found, strict=True):
        answer = text.predict(text=task["data"]["said"])
        (region,) = one["result"]
        assert (region["from_name"], region["to_name"], region["type"]) == ("feeling", "it", "choices")
        assert region["value"]["choices"][0].casefold() == answer.top and region["value"]["choices"][0] != "anger"
        assert one["score"] == pytest.approx(answer.probs.max(), abs=1e-4)
        assert region["meta"]["text"][0].startswith(f"{answer.top} {answer.probs.max():.2f}")


def test_clips_are_fetched_from_label_studio_alone(sound, monkeypatch):
    content = io.BytesIO()
    samples = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(content, samples, 16_000, format="WAV")
    asked = []

    class Studio(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(200 if self.path.endswith("a.wav") else 404)
            self.end_headers()
            self.wfile.write(content.getvalue())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Studio)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    client = TestClient(create_app([sound]))
    config = INTERFACE.format(kind="Audio", field="clip")

    def predict(address):
        job = {"tasks": [{"id": 7, "data": {"clip": address}}], "label_config": config}
        return client.post("/label-studio/predict", json=job)

    assert "LABEL_STUDIO_URL" in predict("/data/upload/1/a.wav").json()["detail"]
    monkeypatch.setenv("LABEL_STUDIO_URL", base)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
    for address in ("/data/upload/1/a.wav", f"{base}/data/upload/1/a.wav"):
        (one,) = predict(address).json()["results"]
        assert one["score"] == pytest.approx(sound.predict(io.BytesIO(content.getvalue())).probs.max(), abs=1e-4)
    assert asked == [("/data/upload/1/a.wav", "Token secret")] * 2
    for elsewhere in (
        "http://127.0.0.1:1/a.wav",
        f"{base}.evil.org/a.wav",
        "file:///etc/passwd",
        f"{base}@evil.org/a.wav",
    ):
        refused = predict(elsewhere)
        assert refused.status_code == 422 and f"not of {base}" in refused.json()["detail"]
    assert predict("/gone").status_code == 422 and len(asked) == 3
    server.shutdown()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("<View>", "not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View/>', "declarations"),
        ("<View/>", "no Choices has all labels"),
    ],
)
def test_interfaces_that_do_not_fit(text, config, words):
    with pytest.raises(UserError, match=words):
        control_of(config, text.task.label_names)
    answer = TestClient(create_app([text])).post("/label-studio/predict", json={"tasks": [], "label_config": config})
    assert answer.status_code == 422 and words in answer.json()["detail"]
