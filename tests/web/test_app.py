from __future__ import annotations

import asyncio
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from fastapi import HTTPException, UploadFile
from fastapi.testclient import TestClient

from shala_audio.errors import UserError
from shala_audio.inference.neighbours import find_neighbours
from shala_audio.inference.predictor import Predictor
from shala_audio.inference.transcribe import Transcript
from shala_audio.manifest import Row
from shala_audio.task import Task
from shala_audio.web import app as module
from shala_audio.web.limits import BodyLimit, Limits
from tests.tiny import ASKED_TASK, LABELS, TEXT_TASK, tiny_model


def wav(seconds: float = 0.5) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(int(16_000 * seconds)), 16_000, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def text_folder(tiny_lm, tmp_path_factory):
    """A text model with neighbours and a score beside it."""
    folder = tmp_path_factory.mktemp("served")
    tiny_model(tiny_lm).save_pretrained(folder)
    predictor = Predictor.from_pretrained(folder, device="cpu")
    rows = [
        Row(f"r{n}", "tiny_text", "train", text={"comment": "word " * n}, votes={"anger": n, "disgust": 2})
        for n in range(1, 9)
    ]
    find_neighbours(predictor, rows, None, None).save(folder)
    score = {
        "jsd": {"value": 0.3, "low": 0.2, "high": 0.4},
        "agreement_bound": {"jsd": {"value": 0.1, "low": None, "high": None}},
    }
    (folder / "score.json").write_text(json.dumps(score))
    return folder


@pytest.fixture(scope="module")
def sound_predictor(tiny_lm, tiny_encoder):
    return Predictor(tiny_model(tiny_lm, tiny_encoder), device="cpu")


@pytest.fixture(scope="module")
def client(sound_predictor, text_folder):
    return TestClient(module.create_app([sound_predictor, Predictor.from_pretrained(text_folder, device="cpu")]))


def test_page_and_tasks(client):
    page = client.get("/")
    assert "How would people judge this?" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert client.get("/page.js").status_code == client.get("/page.css").status_code == 200
    sound, text = client.get("/api/tasks").json()["tasks"]
    assert sound["labels"] == [label.name for label in LABELS]
    assert (sound["model"], sound["card"], client.get("/cards/tiny_speech").status_code) == ("unsaved", False, 404)
    assert client.get("/examples/clear.ogg").headers["content-type"] == "audio/ogg"
    assert client.get("/examples/secret.ogg").status_code == 422
    assert (sound["modality"], sound["people"], sound["trust"]) == ("audio", None, None)
    assert (text["modality"], text["text_fields"]) == ("text", ["comment"])
    assert text["people"]["items"] == 8
    assert text["trust"] == {"model": 0.3, "another_panel": 0.1}
    assert text["people"]["low"] <= text["people"]["median"] <= text["people"]["high"] <= text["highest_entropy"]


def test_where_one_may_choose_several_labels_their_rates_are_answered(tiny_lm):
    predictor = Predictor(tiny_model(tiny_lm, task=ASKED_TASK), device="cpu")
    client = TestClient(module.create_app([predictor]))
    task = client.get("/api/tasks").json()["tasks"][0]
    assert task["several"] and task["text_fields"] == ["comment"]
    assert task["labels"] == [label.name for label in LABELS]
    answer = client.post("/api/predict", data={"text": "Well done."}).json()
    assert answer == {"task": "tiny_asked", "rates": dict(predictor.predict_rates(["Well done."])[0])}
    assert client.post("/api/predict").status_code == 422
    refused = client.post("/api/predict", data={"text": '{"comment": "Well done.", "label": "angry"}'})
    assert refused.status_code == 422 and "send comment alone" in refused.json()["detail"]
    config = (
        '<Text name="t" value="$t"/><Choices name="c" toName="t"><Choice value="yes"/><Choice value="no"/></Choices>'
    )
    job = {"tasks": [{"id": 1, "data": {"t": "so"}}], "label_config": f"<View>{config}</View>"}
    refused = client.post("/label-studio/predict", json=job)
    assert refused.status_code == 422 and "one at a time" in refused.json()["detail"]


def test_schema(client):
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/api/tasks", "/api/predict", "/api/timeline", "/health", "/metrics"}
    assert {"408", "413", "422", "503"} <= set(schema["paths"]["/api/predict"]["post"]["responses"])
    assert "://" not in client.get("/page.js").text.replace("http://www.w3.org/2000/svg", "")  # nothing from elsewhere


def test_a_clip_is_answered_as_by_the_api(client, sound_predictor):
    answer = client.post("/api/predict", files={"clip": ("a.wav", wav())})
    assert answer.status_code == 200
    assert answer.json()["probs"] == sound_predictor.predict(io.BytesIO(wav())).to_dict()
    assert (answer.json()["nearest"], answer.json()["more_contested_than"]) == ([], None)


def test_a_text_with_its_neighbours(client):
    answer = client.post("/api/predict", data={"text": "word word word"}).json()
    nearest = answer["nearest"]
    assert len(nearest) == 3
    assert nearest[0]["likeness"] >= nearest[1]["likeness"] >= nearest[2]["likeness"]
    assert nearest[0]["votes"].keys() == {"anger", "disgust"}
    assert 0 <= answer["more_contested_than"] <= 1


def test_a_training_item_is_nearest_to_itself(client):
    nearest = client.post("/api/predict", data={"text": "word " * 5}).json()["nearest"]
    assert nearest[0]["id"] == "r5"
    assert nearest[0]["likeness"] == pytest.approx(1, abs=1e-2)  # places are kept in float16


def test_a_timeline(client, sound_predictor):
    found = client.post("/api/timeline?window=1&hop=0.5", files={"clip": ("a.wav", wav(2.2))}).json()
    assert found["seconds"] == pytest.approx(2.2)
    assert len(found["peaks"]) == module.PEAKS
    assert max(found["peaks"]) <= 1
    moments = sound_predictor.timeline(io.BytesIO(wav(2.2)), 1, 0.5)
    assert [(m["start"], m["probs"]) for m in found["moments"]] == [
        (m.start, m.distribution.to_dict()) for m in moments
    ]


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [(b"", 422, "empty"), (b"not sound" * 99, 422, "is text, not sound"), (wav(3), 422, "at most 2 s")],
)
def test_bad_uploads(sound_predictor, content, status, says):
    client = TestClient(module.create_app([sound_predictor], limits=Limits(seconds=2)))
    for path in ("/api/predict", "/api/timeline"):
        answer = client.post(path, files={"clip": ("a.wav", content)})
        assert answer.status_code == status
        assert says in answer.json()["detail"]


@pytest.mark.parametrize(
    ("data", "says"), [({}, "send a clip"), ({"text": ""}, "send a clip"), ({"text": "x" * 10_001}, "longer than")]
)
def test_nothing_to_judge(sound_predictor, data, says):
    answer = TestClient(module.create_app([sound_predictor])).post("/api/predict", data=data)
    assert answer.status_code in (413, 422)
    assert says in answer.json()["detail"]


def test_too_large_a_body_is_not_read(sound_predictor):
    client = TestClient(module.create_app([sound_predictor], limits=Limits(upload=1)))
    assert client.post("/api/predict", files={"clip": ("a.wav", b"\0" * 1_100_000)}).status_code == 413

    def endless():  # without a length in its header
        yield b'--x\r\nContent-Disposition: form-data; name="clip"; filename="a.wav"\r\n\r\n'
        for _ in range(5):
            yield b"\0" * 300_000

    answer = client.post("/api/predict", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413


def test_strange_hosts_are_refused(sound_predictor):
    app = module.create_app([sound_predictor], ["127.0.0.1", "localhost"])
    assert TestClient(app, base_url="http://evil.example").get("/api/tasks").status_code == 400
    assert TestClient(app, base_url="http://localhost:8000").get("/api/tasks").status_code == 200


def test_pages_elsewhere_cannot_post(client):
    sent = {"files": {"clip": ("a.wav", wav())}, "headers": {"Sec-Fetch-Site": "cross-site"}}
    assert client.post("/api/predict", **sent).status_code == 403
    sent["headers"] = {"Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/predict", **sent).status_code == 200


def test_training_items_can_be_kept_back(text_folder):
    predictor = Predictor.from_pretrained(text_folder, device="cpu")
    client = TestClient(module.create_app([predictor], neighbours=False))
    assert client.get("/api/tasks").json()["tasks"][0]["people"] is None
    assert client.post("/api/predict", data={"text": "word"}).json()["nearest"] == []


def test_half_a_character_is_no_text(tiny_lm):
    task = replace(TEXT_TASK, prompt="{{ text.a }} {{ text.b }}")
    two = TestClient(module.create_app([Predictor(tiny_model(tiny_lm, task=task), device="cpu")]))
    answer = two.post("/api/predict", data={"text": '{"a": "\\ud800", "b": "x"}'})
    assert answer.status_code == 422 and "JSON object" in answer.json()["detail"]


def test_a_timeline_hears_no_moment_ever_so_often(client):
    answer = client.post("/api/timeline?window=30&hop=0.5", files={"clip": ("a.wav", wav())})
    assert answer.status_code == 422 and "a 4th of the window" in answer.json()["detail"]


def test_who_comes_late_turns_nobody_out():
    """An upload that was let in is not refused because more come meanwhile; one too many is."""
    said = []

    async def app(scope, receive, send):
        try:
            while (await receive())["more_body"]:
                pass
            said.append("whole")
        except HTTPException as refused:
            said.append(refused.status_code)

    limited = BodyLimit(app, bytes_allowed=100, seconds=5, pause=0.2, uploads=1)
    scope = {"type": "http", "method": "POST", "headers": []}

    def body(*pauses):
        waits = iter(pauses)

        async def receive():
            pause = next(waits)
            await asyncio.sleep(pause)
            return {"body": b"x", "more_body": pause > 0}

        return receive

    async def all_of_them():
        await asyncio.gather(limited(scope, body(0.1, 0.1, 0), None), limited(scope, body(0), None))
        await limited(scope, body(9), None)

    asyncio.run(all_of_them())
    assert said == [503, "whole", 408], "the last stood still"


def test_several_text_fields_come_as_json(tiny_lm):
    from dataclasses import replace

    task = replace(TEXT_TASK, prompt="{{ text.premise }} so {{ text.hypothesis }}?")
    client = TestClient(module.create_app([Predictor(tiny_model(tiny_lm, task=task), device="cpu")]))
    good = {"text": json.dumps({"premise": "a", "hypothesis": "b"})}
    assert client.post("/api/predict", data=good).status_code == 200
    for bad in ("a", "[]", "{}", '{"premise": "a", "hypothesis": 3}', "[" * 9000):
        answer = client.post("/api/predict", data={"text": bad})
        assert (answer.status_code, "JSON object" in answer.json()["detail"]) == (422, True)


def test_a_line_has_an_end_and_those_in_it_are_answered_together(sound_predictor, monkeypatch):
    began, go = threading.Event(), threading.Event()
    sizes, hear = [], Predictor.predict_batch

    def slow(inputs):
        inputs = list(inputs)
        sizes.append(len(inputs))
        began.set()
        go.wait(20)
        return hear(sound_predictor, inputs)

    app = module.create_app([sound_predictor], limits=Limits(waiting=4, together=3))
    with TestClient(app) as client, ThreadPoolExecutor(8) as pool:
        monkeypatch.setattr(sound_predictor, "predict_batch", slow, raising=False)

        def post(number):
            return client.post("/api/predict", files={"clip": ("a.wav", wav(0.3 + 0.1 * number))})

        first = pool.submit(post, 0)
        assert began.wait(20)
        rest = [pool.submit(post, number) for number in range(1, 8)]
        wait(rest, timeout=3)
        refused = [answer.result() for answer in rest if answer.done()]
        go.set()
        answers = [answer.result() for answer in [first, *rest]]
        counted = client.get("/metrics").text
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [503] * 3
    assert [answer.headers["retry-after"] for answer in refused] == ["5"] * 3
    assert sizes == [1, 3, 1]
    for number, answer in enumerate(answers):
        if answer.status_code == 200:
            alone = hear(sound_predictor, [io.BytesIO(wav(0.3 + 0.1 * number))])[0].to_dict()
            assert answer.json()["probs"] == pytest.approx(alone, abs=1e-4), "each its own"
    assert 'shala_requests_total{path="/api/predict",status="200"} 5.0' in counted
    assert 'shala_requests_total{path="/api/predict",status="503"} 3.0' in counted
    assert "shala_waiting 0.0" in counted and "shala_together_sum 5.0" in counted


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, b"", 403),
        ({"content-type": "application/x-www-form-urlencoded"}, b"x" * 1_100_000, 413),
    ],
)
def test_a_body_that_is_refused_late_holds_up_nobody(text_folder, headers, body, status):
    """It is read only when its turn has come, where it is no form."""
    predictor = Predictor.from_pretrained(text_folder, device="cpu")
    with TestClient(module.create_app([predictor], limits=Limits(upload=1))) as client:
        assert client.post("/api/predict", content=body, headers=headers).status_code == status
        assert client.post("/api/predict", data={"text": "word"}).status_code == 200
        assert "shala_waiting 0.0" in client.get("/metrics").text


def test_one_bad_clip_does_not_spoil_the_others(sound_predictor, text_folder):
    """Bad in the file, and bad only where it is predicted (too short to be encoded)."""
    served = module.Served(sound_predictor, False)
    texts = module.Served(Predictor.from_pretrained(text_folder, device="cpu"), True)

    def clip(content):
        return UploadFile(io.BytesIO(content), size=len(content))

    good, empty, text = clip(wav()), clip(b""), clip(b"no sound at all")
    one, two, three, four = served.answers([(good, None), (empty, None), (text, None), (clip(wav(0.01)), None)])
    assert one.probs == pytest.approx(sound_predictor.predict(io.BytesIO(wav())).to_dict(), abs=1e-4)
    assert all(isinstance(wrong, UserError) for wrong in (two, three, four))
    found = texts.answers([(None, "word word"), (None, ""), (None, "word " * 5)])
    assert found[0].nearest and found[2].nearest[0].likeness > 0.99 and isinstance(found[1], UserError)


def test_health_and_endpoints(client):
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/health").json()["tasks"] == ["tiny_speech", "tiny_text"]
    page = client.get("/docs").text
    for path in client.get("/openapi.json").json()["paths"]:
        assert f" {path}</code>" in page
    assert "<code>clip</code>" in page and "<code>hop</code>" in page and "http://" not in page


@pytest.mark.parametrize(
    ("sent", "right"),
    [({"files": {"file": ("a.wav", wav())}}, "`clip`"), ({"data": {"sentence": "so what"}}, "`text`")],
)
def test_a_wrong_field_is_answered_with_the_right_one(client, sent, right):
    answer = client.post("/api/predict", **sent)
    assert answer.status_code == 422 and f"goes in {right}" in answer.json()["detail"]


class Clerk:
    """Writes down the same words whatever it hears: the page is tested, and not Whisper."""

    def transcribe(self, clips):
        return [Transcript("hello there", "en", 0.0) for _ in clips]


def test_json_in_place_of_a_form_is_refused_in_words(client):
    """It was answered with "needs a text"."""
    answer = client.post("/api/predict", json={"text": "Oh no."})
    assert answer.status_code == 415 and "application/json: send a form" in answer.json()["detail"]


def test_what_was_heard_is_shown_and_fills_in_the_transcript(tiny_lm, tiny_encoder):
    prompt = '{{ audio }} "{{ text.transcript }}", how?'
    task = Task("tiny_both", "audio+text", LABELS, prompt, "It sounds")
    both = Predictor(tiny_model(tiny_lm, tiny_encoder, task=task), device="cpu")
    client = TestClient(module.create_app([both], transcriber=Clerk()))
    assert client.get("/api/tasks").json()["tasks"][0]["text_fields"] == [], "nobody has to write what is heard"
    answer = client.post("/api/predict", files={"clip": ("a.wav", wav())}).json()
    samples, rate = soundfile.read(io.BytesIO(wav()), dtype="float32")
    expected = both.predict((samples, rate), {"transcript": "hello there"}).to_dict()
    assert answer["heard"] == "hello there" and answer["probs"] == pytest.approx(expected, abs=1e-5)
    given = client.post("/api/predict", files={"clip": ("a.wav", wav())}, data={"text": "other words"}).json()
    expected = both.predict((samples, rate), {"transcript": "other words"}).to_dict()
    assert given["probs"] == pytest.approx(expected, abs=1e-5), "what is given counts"
    refused = TestClient(module.create_app([both])).post("/api/predict", files={"clip": ("a.wav", wav())})
    assert refused.status_code == 422 and "needs a text: transcript" in refused.json()["detail"]
