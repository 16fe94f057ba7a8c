"""`transformers.pipeline` on our models, in a process that only imports shala_audio, and the hub's side of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import markdown
import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, pipeline

import shala_audio
from shala_audio.errors import UserError
from shala_audio.inference import hub
from shala_audio.inference.hub import model_card
from shala_audio.inference.predictor import Predictor
from shala_audio.io import read_json, write_json
from shala_audio.models.folder import CARD, TRAINED
from shala_audio.task import Label, Task
from tests.tiny import tiny_model

shala_audio.register()
PAIR = Task(
    "pair",
    "text",
    (Label("yes", "yes"), Label("no", "no")),
    "Does {{ text.premise }} mean {{ text.hypothesis }}?",
    "It does:",
)
PROGRAM = """
import json, sys
{imports}
from transformers import pipeline
import numpy as np
task, folder, inputs = sys.argv[1:]
answer = pipeline(task, model=folder, top_k=None)
inputs = {{"raw": np.load(inputs), "sampling_rate": 16_000}} if inputs.endswith(".npy") else json.loads(inputs)
print("answer " + json.dumps(answer(inputs)))
"""


@pytest.fixture(scope="module")
def folders(tiny_lm, tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_model(tiny_lm, tiny_encoder).save_pretrained(folder / "sound")
    tiny_model(tiny_lm).save_pretrained(folder / "text")
    tiny_model(tiny_lm, task=PAIR).save_pretrained(folder / "pair")
    return folder


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds))).astype(np.float32)


def elsewhere(imports: str, task: str, folder, inputs) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(imports=imports), task, str(folder), str(inputs)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "not supported" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("answer ")]
    answer = json.loads(line.removeprefix("answer "))
    answer = answer[0] if isinstance(answer[0], list) else answer  # as the text pipeline gives a single text's
    return {found["label"]: found["score"] for found in answer}


@pytest.mark.parametrize(
    "imports",
    [
        "import shala_audio\nshala_audio.register()",
        "from transformers.models.auto import modeling_auto\nimport shala_audio\nshala_audio.register()",
    ],
)
def test_another_process_hears_the_same(folders, tmp_path, imports):
    clip = noise(0.7)
    np.save(tmp_path / "clip.npy", clip)
    found = elsewhere(imports, "audio-classification", folders / "sound", tmp_path / "clip.npy")
    expected = Predictor.from_pretrained(folders / "sound").predict((clip, 16_000))
    assert found == pytest.approx(expected.to_dict(), abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "asked", "text"),
    [
        ("text", "Ünïcode, </s> 🙂", {"comment": "Ünïcode, </s> 🙂"}),
        ("pair", {"text": "It rains", "text_pair": "It is wet"}, {"premise": "It rains", "hypothesis": "It is wet"}),
    ],
)
def test_another_process_reads_the_same(folders, kind, asked, text):
    found = elsewhere(
        "import shala_audio\nshala_audio.register()", "text-classification", folders / kind, json.dumps(asked)
    )
    expected = Predictor.from_pretrained(folders / kind).predict(text=text)
    assert found == pytest.approx(expected.to_dict(), abs=1e-6)


def test_texts_that_the_task_has_no_place_for_are_refused(folders):
    classify = pipeline("text-classification", model=str(folders / "text"), top_k=None)
    with pytest.raises(ValueError, match="2 texts were given; the task has comment"):
        classify({"text": "Oh no.", "text_pair": "Again?"})


def test_a_copy_of_a_model_in_bfloat16_is_not_rounded(folders, tmp_path):
    AutoModel.from_pretrained(folders / "text", dtype=torch.bfloat16).save_pretrained(tmp_path / "copy")
    ours, copied = (load_file(folder / TRAINED) for folder in (folders / "text", tmp_path / "copy"))
    assert ours.keys() == copied.keys() and all(torch.equal(ours[name], copied[name]) for name in ours)


def test_clips_of_a_batch_do_not_disturb_each_other(folders):
    classify = pipeline("audio-classification", model=str(folders / "sound"), top_k=None)
    clips = [noise(0.4, 1), noise(0.9, 2), noise(0.6, 3)]
    together = classify([{"raw": clip, "sampling_rate": 16_000} for clip in clips], batch_size=3)
    predictor = Predictor.from_pretrained(folders / "sound")
    for clip, found in zip(clips, together, strict=True):
        expected = predictor.predict((clip, 16_000)).to_dict()
        assert {one["label"]: one["score"] for one in found} == pytest.approx(expected, abs=1e-5)
    assert [one["label"] for one in found] == sorted(expected, key=lambda label: -expected[label])
    with pytest.raises(ValueError, match="resample it to 16000 Hz"):
        classify.feature_extractor(clips[0], sampling_rate=8_000)


def test_auto_classes_know_the_model(folders, tmp_path):
    config = AutoConfig.from_pretrained(folders / "sound")
    labels = shala_audio.load(str(folders / "sound")).task.label_names
    assert config.model_type == "shala_audio" and tuple(config.id2label.values()) == labels
    for auto in (AutoModel, AutoModelForAudioClassification):
        model = auto.from_pretrained(folders / "sound")
        assert type(model).__name__ == "DistributionModel"
    model.save_pretrained(tmp_path / "copy")
    clip = (noise(0.5), 16_000)
    one, two = (Predictor.from_pretrained(folder).predict(clip) for folder in (folders / "sound", tmp_path / "copy"))
    assert one.probs == pytest.approx(two.probs, abs=1e-7)


def test_a_card_says_what_is_known(folders, tiny_lm, tmp_path):
    assert "Not scored yet" in model_card(folders / "text")
    assert 'model.predict(text={"premise": "...", "hypothesis": "..."})' in model_card(folders / "pair")
    with pytest.raises(UserError, match="not a model folder"):
        model_card(tmp_path)
    found = {"value": 0.25, "low": 0.2, "high": 0.3}
    tiny_model(tiny_lm).save_pretrained(tmp_path)
    write_json(
        tmp_path / "score.json", {"n": 7, "jsd": found, "prior": {"jsd": found}, "agreement_bound": {"kind": "x"}}
    )
    data = {"licence": "CC BY 4.0", "caveat": None, "splits": {"train": 5, "test": 7}}
    write_json(tmp_path / "training.json", {"method": "shala", "seed": 3, "seconds": 90, "lm": "tiny", "data": data})
    write_json(tmp_path / "score.json", {"n": 7, "jsd": {"value": 0.25, "low": None, "high": None}, "ties": 0})
    assert "0.250 | – | –" in model_card(tmp_path), "votes that were put together have no ceiling"
    write_json(
        tmp_path / "score.json", {"n": 7, "jsd": found, "prior": {"jsd": found}, "agreement_bound": {"kind": "x"}}
    )
    card = model_card(tmp_path)
    for part in ("CC BY 4.0", "5 rows train, 7 rows test", "0.250 [0.200, 0.300]", "`shala`, seed 3, 1.5 minutes"):
        assert part in card
    known = ModelCard(card)
    assert known.data.eval_results[0].metric_value == 0.25 and known.data.pipeline_tag == "text-classification"
    shown = markdown.markdown(known.text, extensions=["tables", "fenced_code"])
    assert (
        shown.count("<table>") == 2
        and "<code" in shown
        and "|" not in re.sub(r"<pre>.*?</pre>", "", shown, flags=re.DOTALL)
    )
    settings = read_json(tmp_path / "shala.json")
    settings["model"]["lm"] = "smollm2-135m-instruct"
    write_json(tmp_path / "shala.json", settings)
    assert ModelCard(model_card(tmp_path)).data.base_model == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    for part in ("AI Act", "at work or in education", "text-classification", "Constant prior"):
        assert part in card


def test_the_hub_gets_the_models_own_files(tiny_lm, tmp_path, monkeypatch):
    tiny_model(tiny_lm).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "predictions.jsonl").write_text("{}")
    sent = {}
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, name, **options: sent.update(options))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **options: sent.update(options))
    private = SimpleNamespace(private=True)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda self, name, **options: private)
    address = Predictor.from_pretrained(tmp_path / "model").push_to_hub("lab/emotions")
    assert address.endswith("/lab/emotions") and sent["private"] is True
    assert 'shala_audio.load("lab/emotions")' in (tmp_path / "model" / CARD).read_text()
    with pytest.raises(UserError, match="is there already, and private"):
        hub.push(tmp_path / "model", "lab/emotions", private=False)
    chosen = huggingface_hub.utils.filter_repo_objects(
        [path.name for path in (tmp_path / "model").iterdir()], allow_patterns=sent["allow_patterns"]
    )
    assert sorted(chosen) == sorted([CARD, "config.json", "shala.json", "tokenizer_config.json", "trained.safetensors"])
    with pytest.raises(UserError, match="user/name"):
        hub.push(tmp_path / "model", "emotions")
    with pytest.raises(UserError, match="not a model folder"):
        hub.push(tmp_path, "lab/emotions")


def test_a_model_of_the_hub_is_fetched(folders, monkeypatch):
    asked = {}

    def fetch(name, **options):
        asked.update(options, name=name)
        return str(folders / "text")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    model = shala_audio.load("lab/emotions", revision="v1")
    assert model.task.name and asked["name"] == "lab/emotions" and asked["revision"] == "v1"
    assert "*.py" not in asked["allow_patterns"] and "trained.safetensors" in asked["allow_patterns"]

    def refuse(name, **options):
        raise OSError("404 Client Error\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=r"lab/none: no such folder, and the hub .*404 Client Error\)$"):
        shala_audio.load("lab/none")


def test_a_file_of_sound_is_heard_by_the_default_model_folder(folders, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(0.5), 16_000)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    classify = pipeline("audio-classification", model=str(folders / "sound"))
    (best,) = classify({"raw": samples, "sampling_rate": rate}, top_k=1)
    assert best["label"] == shala_audio.load(str(folders / "sound")).predict(tmp_path / "a.wav").top


def test_a_pipeline_takes_every_form_that_predict_takes_and_says_the_same(folders, tmp_path):
    """16-bit samples were cast without scaling, and other rates resampled in another way."""
    predictor = Predictor.from_pretrained(folders / "sound")
    classify = pipeline("audio-classification", model=str(folders / "sound"), top_k=None)
    samples = noise(1.2)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    coarse = np.int16(samples * 32767)
    for clip in (
        {"raw": samples, "sampling_rate": 16_000},
        {"raw": coarse, "sampling_rate": 16_000},
        {"array": coarse, "sampling_rate": 44_100, "path": None},
        {"raw": samples.astype(np.float64), "sampling_rate": 8_000},
        {"raw": np.stack([samples, samples / 2], axis=1), "sampling_rate": 16_000},
        {"raw": torch.from_numpy(samples)[None], "sampling_rate": 16_000},
        str(tmp_path / "a.wav"),
        (tmp_path / "a.wav").read_bytes(),
    ):
        scores = {found["label"]: found["score"] for found in classify(clip)}
        expected = predictor.predict(clip)
        assert scores == pytest.approx(expected.to_dict(), abs=1e-5)
    bare = {found["label"]: found["score"] for found in classify(samples)}
    assert bare == pytest.approx(predictor.predict((samples, 16_000)).to_dict(), abs=1e-5)
    assert classify({"raw": coarse, "sampling_rate": 16_000})[0]["score"] == pytest.approx(
        classify(str(tmp_path / "a.wav"))[0]["score"], abs=1e-3
    )
    for wrong in (samples * 32768, np.int32(samples * 32768), np.int64(samples * 32768)):
        with pytest.raises(UserError, match="divide them by 32768"):
            classify({"raw": wrong, "sampling_rate": 16_000})
        with pytest.raises(UserError, match="divide them by 32768"):
            predictor.predict((wrong, 16_000))
