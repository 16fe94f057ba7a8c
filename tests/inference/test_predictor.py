from __future__ import annotations

import io
import itertools
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import soundfile
import torch
from peft.tuners.lora import LoraLayer

import shala_audio
from shala_audio.audio.encoders import load_encoder
from shala_audio.audio.features import FeatureStore, write_features
from shala_audio.audio.io import read_sound
from shala_audio.cli.predict import ManifestRows, _manifest
from shala_audio.errors import UserError
from shala_audio.evaluation.calibration import Calibration
from shala_audio.inference.predictor import BATCHES_HELD, Predictor
from shala_audio.io import write_json
from shala_audio.manifest import Audio, Row, write_manifest
from shala_audio.models.speech_lm import SpeechLM
from tests.tiny import ASKED_TASK, LABELS, SPEECH_TASK, tiny_config, tiny_model


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for index, seconds in enumerate((0.4, 1.1, 0.7)):
        soundfile.write(folder / f"{index}.wav", 0.2 * rng.standard_normal(int(seconds * 16_000)), 16_000)
    return folder


@pytest.fixture
def speech(tiny_lm, tiny_encoder, tmp_path):
    def load(readout="label_token", **options):
        tiny_model(tiny_lm, tiny_encoder, readout=readout).save_pretrained(tmp_path / readout)
        return shala_audio.load(str(tmp_path / readout), device="cpu", **options)

    return load


@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized"])
def test_every_readout_gives_a_distribution(speech, clips, readout):
    model = speech(readout)
    d = model.predict(clips / "0.wav")
    assert d.labels == ("anger", "disgust", "disapproval")
    assert d.probs.sum() == pytest.approx(1) and (d.probs >= 0).all()
    assert d.top in d and 0 <= d.entropy <= np.log2(3) + 1e-9


@pytest.mark.parametrize("readout", ["label_token", "slots"])
def test_a_clip_alone_equals_the_clip_in_a_batch(speech, clips, readout):
    model = speech(readout)
    paths = [clips / f"{index}.wav" for index in range(3)]
    for path, together in zip(paths, model.predict_batch(paths), strict=True):
        assert model.predict(path).probs == pytest.approx(together.probs, abs=1e-4)


def test_a_path_an_open_file_and_an_array_are_the_same(speech, clips):
    model = speech()
    path = clips / "1.wav"
    samples, rate = soundfile.read(path)
    expected = model.predict(str(path)).probs
    assert model.predict(io.BytesIO(path.read_bytes())).probs == pytest.approx(expected)
    assert model.predict((samples, rate)).probs == pytest.approx(expected, abs=1e-4)


def test_long_sound_is_encoded_to_its_end(speech):
    model = speech()
    rng = np.random.default_rng(0)
    first, second = (0.2 * rng.standard_normal(30 * 16_000), 0.2 * np.sin(np.arange(10 * 16_000) / 9))
    whole = model.predict((np.concatenate([first, second]), 16_000))
    parts = [model.predict((part, 16_000)).probs for part in (first, second)]
    assert whole.probs == pytest.approx(0.75 * parts[0] + 0.25 * parts[1], abs=1e-4)


def test_inputs_are_read_when_their_turn_comes(speech, clips, monkeypatch):
    model = speech(batch_size=2)
    order = []
    hear = model._predict_parts
    monkeypatch.setattr(model, "_predict_parts", lambda parts: order.append("heard") or hear(parts))

    def reading():
        for index in range(3):
            order.append("read")
            yield clips / f"{index}.wav"

    answers = model.predict_batch(reading())
    assert order == ["read", "read", "heard", "read", "heard"] and model.predict_batch([]) == []
    expected = model.predict_batch([clips / f"{index}.wav" for index in range(3)])
    for one, other in zip(answers, expected, strict=True):
        assert one.probs == pytest.approx(other.probs)


def test_a_window_beyond_what_is_encoded_at_once_is_refused_by_name(speech, clips):
    with pytest.raises(UserError, match="window 60 s: 30 s at most"):
        speech().timeline(clips / "1.wav", window=60.0, hop=2.0)


@pytest.mark.parametrize("readout", ["label_token", "verbalized"])
def test_one_bad_row_is_named_and_costs_no_other(tiny_lm, tmp_path, readout):
    tiny_model(tiny_lm, readout=readout).save_pretrained(tmp_path)
    model = shala_audio.load(str(tmp_path), device="cpu", batch_size=4)
    rows = [Row(f"r{index}", "tiny_text", "test", text={"comment": "so " * (index + 1)}) for index in range(6)]
    expected, unparsed = dict(model.predict_rows(rows)), model.unparsed
    bad = [*rows, Row("misnamed", "tiny_text", "test", text={"coment": "so so so"})]
    with pytest.raises(UserError, match="^row misnamed: .* needs a text field that is not there"):
        list(model.predict_rows(bad))
    complaints: list[UserError] = []
    model.unparsed = 0
    found = dict(model.predict_rows(bad, complain=complaints.append))
    assert [str(error)[:13] for error in complaints] == ["row misnamed:"] and found.keys() == expected.keys()
    assert readout != "label_token" or model.unparsed == unparsed == 0
    for name, distribution in found.items() if readout == "label_token" else ():
        assert distribution.probs == pytest.approx(expected[name].probs, abs=1e-5)
    assert model.unparsed <= 6, "no answer is counted twice"


def test_timeline(speech, clips):
    moments = speech().timeline(clips / "1.wav", window=0.5, hop=0.25)
    assert [moment.start for moment in moments] == pytest.approx([0, 0.25, 0.5, 0.75])
    assert moments[-1].end == pytest.approx(1.1)


@pytest.mark.parametrize("trained", [0, 1])
def test_rows_from_sound_and_from_the_cache_are_the_same(tiny_lm, clips, tiny_encoder, tmp_path, trained):
    """Where layers were trained, of sound only those below them are computed: the cache has all."""
    config = replace(tiny_config(tiny_lm, tiny_encoder), encoder_trained_layers=trained)
    SpeechLM.build(config, SPEECH_TASK, "label_token").save_pretrained(tmp_path / "model")
    model = Predictor.from_pretrained(tmp_path / "model", device="cpu")
    assert model.encoder.layers == ([1] if trained else [1, 2])
    rows = [Row(f"r{index}", "tiny_speech", "test", audio=Audio(f"{index}.wav")) for index in range(3)]
    identity = model.model.model_config.encoder_identity()
    write_features(rows, clips, load_encoder(str(tiny_encoder), [1, 2]), identity, tmp_path / "features")
    cached = dict(model.predict_rows(rows, FeatureStore(tmp_path / "features", identity)))
    heard = dict(model.predict_rows(rows, audio_root=clips))
    assert set(cached) == {"r0", "r1", "r2"}
    for name, distribution in cached.items():
        assert distribution.probs == pytest.approx(heard[name].probs, abs=1e-4)
        assert model.predict(clips / f"{name[1:]}.wav").probs == pytest.approx(heard[name].probs, abs=1e-4)


def test_the_gain_of_a_recording_counts_for_nothing_with_loudness_db(tiny_lm, clips, tiny_encoder, tmp_path):
    config = replace(tiny_config(tiny_lm, tiny_encoder), loudness_db=-26.0)
    model = Predictor(SpeechLM.build(config, SPEECH_TASK, "label_token"), "cpu")
    rows = [Row("r0", "tiny_speech", "train", audio=Audio("0.wav"))]
    write_features(
        rows, clips, load_encoder(str(tiny_encoder), [1, 2]), config.encoder_identity(), tmp_path / "f", augmentations=2
    )
    store = FeatureStore(tmp_path / "f", config.encoder_identity())
    samples = read_sound(clips / "0.wav")
    for gain in (1.0, 0.01):
        (heard,) = model.encode([samples * np.float32(gain)])
        torch.testing.assert_close(heard, store["r0"], atol=4e-3, rtol=0)
    plain = Predictor(SpeechLM.build(replace(config, loudness_db=None), SPEECH_TASK, "label_token"), "cpu")
    assert (plain.encode([samples])[0] - store["r0"]).abs().max() > 0.01


def test_text(tiny_lm, tmp_path):
    tiny_model(tiny_lm).save_pretrained(tmp_path)
    model = shala_audio.load(str(tmp_path), device="cpu")
    assert model.predict(text="oh no").probs == pytest.approx(model.predict(text={"comment": "oh no"}).probs)
    with pytest.raises(UserError, match="takes text"):
        model.predict("clip.wav")
    with pytest.raises(UserError, match="has no text"):
        model.predict()


def test_a_calibration_is_applied(speech, clips, tmp_path):
    plain = speech().predict(str(clips / "0.wav"))
    with pytest.raises(UserError, match="shala-audio evaluate calibrate"):
        speech(calibration="temperature")
    with pytest.raises(UserError, match="use one of temperature, temperature_jsd, dirichlet"):
        speech(calibration="magic")
    soft = Calibration("temperature", np.eye(3) / 2, np.zeros(3), plain.labels, 20)
    write_json(tmp_path / "label_token" / "calibration_temperature.json", soft.to_dict())
    found = speech(calibration="temperature").predict(str(clips / "0.wav"))
    assert found.probs == pytest.approx(soft(plain.probs[None])[0]) and found.entropy > plain.entropy


def test_wrong_requests(speech, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        shala_audio.load(str(tmp_path / "none"))
    with pytest.raises(UserError, match="needs sound"):
        speech().predict(text="words")


def test_an_adapter_that_is_folded_in_answers_the_same(tiny_lm, tiny_encoder, tmp_path):
    model = tiny_model(tiny_lm, tiny_encoder)
    model.save_pretrained(tmp_path)
    sound = (np.random.default_rng(0).standard_normal(16_000), 16_000)
    apart = Predictor(model, "cpu").predict(sound).probs
    assert Predictor.from_pretrained(tmp_path, device="cpu").predict(sound).probs == pytest.approx(apart, abs=1e-5)
    rounded = Predictor.from_pretrained(tmp_path, device="cpu", dtype=torch.bfloat16)
    decoder = rounded.model.model.decoder
    assert decoder.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert decoder.rotary_emb.inv_freq.dtype == torch.float32, "positions are those of training"
    assert torch.equal(decoder.rotary_emb.inv_freq, model.model.decoder.rotary_emb.inv_freq)
    layers = [module for module in rounded.model.modules() if isinstance(module, LoraLayer)]
    assert layers and not any(layer.merged for layer in layers), "weights in bfloat16 cannot take small updates up"
    assert rounded.predict(sound).probs == pytest.approx(apart, abs=0.02)


def test_rows_of_a_stream_are_held_a_few_at_a_time(tiny_lm, tmp_path):
    """An endless stream of rows is answered as it comes."""
    model = Predictor(tiny_model(tiny_lm), "cpu", batch_size=2)
    taken = 0

    def stream():
        nonlocal taken
        while True:
            taken += 1
            yield Row(f"r{taken}", "tiny_text", "test", text={"comment": "so " * (taken % 7)})

    answers = model.predict_rows(stream())
    names = [name for name, _ in itertools.islice(answers, 200)]
    assert len(set(names)) == 200 and taken == 2 * BATCHES_HELD * 2


def test_features_of_other_weights_than_the_model_encodes_with_are_refused(speech, clips, tiny_encoder, tmp_path):
    """The encoder's name may stand for other weights here than where the model was trained."""
    rows = [Row(f"r{index}", "tiny_speech", "test", audio=Audio(f"{index}.wav")) for index in range(3)]
    write_manifest(tmp_path / "m.jsonl", rows)
    predictor = speech()
    identity = predictor.model.model_config.encoder_identity()
    write_features(rows, clips, load_encoder(str(tiny_encoder), [1, 2]), identity, tmp_path / "f")
    wanted = ManifestRows(str(tmp_path / "m.jsonl"), None, (1, 1))
    assert len(list(chain.from_iterable(_manifest(predictor, wanted, tmp_path / "f", None, None, ())))) == len(rows)
    predictor.model.encoder_sha256 = "0" * 64
    with pytest.raises(UserError, match="features"):
        list(_manifest(predictor, wanted, tmp_path / "f", None, None, ()))


def test_rates_are_the_answers_to_the_questions_about_each_label(tiny_lm):
    predictor = Predictor(tiny_model(tiny_lm, task=ASKED_TASK), device="cpu")
    texts = ["Oh no.", {"comment": "Well done."}]
    found = predictor.predict_rates(texts)
    for comment, rates in zip(("Oh no.", "Well done."), found, strict=True):
        asked = [predictor.predict(text={"comment": comment, "label": label.word})["yes"] for label in LABELS]
        assert list(rates) == [label.name for label in LABELS]
        assert list(rates.values()) == pytest.approx(asked, abs=1e-5)
    assert sum(found[0].values()) != pytest.approx(1)
    assert predictor.predict_rates([]) == []
    with pytest.raises(UserError, match="`predict_rates` asks about all labels"):
        predictor.predict(text="Oh no.")
    with pytest.raises(UserError, match="one distribution; ask for `predict`"):
        Predictor(tiny_model(tiny_lm), device="cpu").predict_rates(["Oh no."])


@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized"])
def test_an_answer_that_overflows_is_said(tiny_lm, readout):
    """A GPU without bfloat16 computes in float16, whose numbers end at 65,504."""
    predictor = Predictor(tiny_model(tiny_lm, readout=readout), "cpu", dtype=torch.float16)
    predictor.predict(text="So it goes.")
    with torch.no_grad():
        predictor.model.model.decoder.layers[0].mlp.down_proj.base_layer.weight.fill_(1e5)
    with pytest.raises(UserError, match="the model's numbers overflow; load it with dtype=torch.float32"):
        predictor.predict(text="So it goes.")
