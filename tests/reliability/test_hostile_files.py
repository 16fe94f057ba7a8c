"""Files that lie or attack: refused by name, nothing in them run, nothing outside their folder read."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys

import numpy as np
import pytest
import soundfile

from shala_audio.audio.features import FeatureStore, write_features
from shala_audio.audio.io import read_row_audio
from shala_audio.errors import UserError
from shala_audio.inference.neighbours import FILE, Neighbours
from shala_audio.inference.predictor import Predictor
from shala_audio.io import read_yaml
from shala_audio.manifest import Audio, Row, read_manifest, row_from_json
from shala_audio.models.config import load_model_config
from shala_audio.task import load_task, task_from_dict
from tests.tiny import tiny_model

TASK = {"name": "t", "modality": "text", "labels": ["a", "b"], "prompt": "{{ text.x }}", "answer": "It is"}
RAN = []  # what an attack that worked would fill


class Attack:
    def __reduce__(self):
        return (RAN.append, ("code of a pickle",))


@pytest.fixture(autouse=True)
def nothing_ran():
    RAN.clear()
    yield
    assert not RAN


# Manifests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../secret.wav", "/etc/passwd", "a/../../secret.wav", "a/b/../../../secret.wav"])
def test_paths_out_of_the_root(tmp_path, path):
    row = {"id": "u", "task": "mini", "split": "test", "audio": {"path": path}}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"m\.jsonl:1: audio path .* must be relative and stay under the audio root"):
        read_manifest(tmp_path / "m.jsonl")


def test_links_out_of_the_root(tmp_path):
    (tmp_path / "root" / "deep").mkdir(parents=True)
    soundfile.write(tmp_path / "secret.wav", 0.1 * np.ones(8000), 16_000)
    soundfile.write(tmp_path / "root" / "own.wav", 0.1 * np.ones(8000), 16_000)
    (tmp_path / "root" / "file.wav").symlink_to(tmp_path / "secret.wav")
    (tmp_path / "root" / "folder").symlink_to(tmp_path)
    (tmp_path / "root" / "deep" / "inside.wav").symlink_to("../own.wav")
    (tmp_path / "linked").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "root" / "endless.wav").symlink_to("/dev/zero")
    for path in ("file.wav", "folder/secret.wav", "endless.wav"):
        with pytest.raises(UserError, match="leads out of the audio root"):
            read_row_audio(Audio(path), tmp_path / "root")
    for path in ("loop.wav", "no\x00name.wav", "\udcff.wav"):
        with pytest.raises(UserError):
            read_row_audio(Audio(path), tmp_path / "root")
    for root in ("root", "linked"):
        assert len(read_row_audio(Audio("deep/inside.wav"), tmp_path / root)) == 8000


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"id": ' * 50_000,
        "\x00",
        '{"id": 1e999}',
        "null",
        "9" * 5000,
        '{"id": "a", "task": "t", "split": "test", "text": {"comment": 5}}',
        '{"id": "a", "task": "t", "split": "test", "text": {"comment": "b"}, "speaker": []}',
        '{"id": "a", "task": "t", "split": "test", "text": {"comment": "b"}, "votes": {"x": 1' + "0" * 400 + "}}",
    ],
)
def test_manifest_lines_that_are_none(tmp_path, line):
    (tmp_path / "m.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"m\.jsonl:1: "):
        read_manifest(tmp_path / "m.jsonl")


# YAML -----------------------------------------------------------------------------------------------------------------


def test_yaml_bombs_and_code(tmp_path):
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
    )
    attacks = {
        bomb: "aliases",
        "name: !!python/object/apply:os.system ['true']\n": "could not determine a constructor",
        "[" * 5000: "not valid YAML",
        "x: 1\n" * 300_000: "larger than 1,000,000 bytes",
        "- a\n": "a mapping of names to values is needed",
        "x: 2020-99-99\n": "not valid YAML",
        "x: !!timestamp foo\n": "not valid YAML",
        "x: " + "9" * 5000 + "\n": "not valid YAML",
    }
    for text, says in attacks.items():
        (tmp_path / "t.yaml").write_text(text)
        for read in (read_yaml, load_task, load_model_config):
            with pytest.raises(UserError, match=says):
                read(str(tmp_path / "t.yaml"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": [f"l{n}" for n in range(10_000)]}, "10,000 labels; at most 256"),
        ({"labels": ["a", "a"]}, "two labels have the same name"),
        ({"labels": ["a", ""]}, "each label is a name"),
        ({"labels": ["a", "  "]}, "each label is a name"),
        ({"labels": [{"name": "a", "word": ""}, "b"]}, "each label is a name"),
        ({"labels": [{"name": ["x"] * 9}, "b"]}, "each label is a name"),
        ({"labels": "ab"}, "labels must be a list"),
        ({"labels": None}, "labels must be a list"),
        ({"prompt": "{% for x in"}, "not a Jinja template|cannot be rendered"),
    ],
)
def test_hostile_tasks(change, says):
    with pytest.raises(UserError, match=says):
        task = task_from_dict({**TASK, **change}, "t.yaml")
        task.question({"x": "y"})


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ text.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ 'x' * 10000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ 'x' | center(10000000000) }}",
        "{{ '%9999999999s' | format(1) }}",
        "{{ '%9999999999s' % 1 }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ 1 / 0 }}",
        "{{ text.x + 1 }}",
        "{% include 'x' %}",
        "{% set a = 'xxxxxxxxxx' %}{% set a = a ~ a %}",
        "{{ text.x | replace('y', 'xxxxxxxxxx') }}",
        "{% for a in labels %}{% for b in labels %}x{% endfor %}{% endfor %}",
        "{% macro m() %}x{% endmacro %}{{ m() }}",
    ],
)
def test_prompts_that_attack(prompt):
    with pytest.raises(UserError, match="cannot be rendered|needs a text field|not a Jinja template"):
        task_from_dict({**TASK, "prompt": prompt}, "t.yaml").question({"x": "y"})


# Model folders --------------------------------------------------------------------------------------------------------


def lying_header(size: int, header: bytes = b"{}") -> bytes:
    return struct.pack("<Q", size) + header


LIES = {
    "a header longer than the file": lying_header(2**40),
    "a header of no JSON": lying_header(8, b"not json"),
    "a tensor beyond the end": lying_header(
        len(h := json.dumps({"x": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()), h
    ),
    "shape and bytes that differ": lying_header(
        len(h := json.dumps({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}).encode()), h + b"\0" * 4
    ),
    "nothing": b"",
    "a pickle": pickle.dumps(Attack()),
}


@pytest.mark.parametrize("lie", LIES)
def test_base_weights_that_lie(lie, tiny_lm, tmp_path):
    import shutil

    from shala_audio.models.speech_lm import SpeechLM
    from tests.tiny import TEXT_TASK, tiny_config

    shutil.copytree(tiny_lm, tmp_path / "lm")
    (tmp_path / "lm" / "model.safetensors").write_bytes(LIES[lie])
    with pytest.raises(UserError, match="cannot be loaded"):
        SpeechLM.build(tiny_config(tmp_path / "lm"), TEXT_TASK, "label_token")


@pytest.mark.parametrize("field", ["frames", "sound", "stretch", "shard"])
def test_an_index_without_a_field(field, tmp_path):
    entry = {"id": "a", "shard": "s", "frames": 3, "sound": "x", "stretch": "y"}
    (tmp_path / "encoder.json").write_text("{}")
    (tmp_path / "index.jsonl").write_text(json.dumps({name: entry[name] for name in entry if name != field}))
    with pytest.raises(UserError, match="holds a line that is no entry"):
        FeatureStore(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(UserError, match=r"a\.wav: is no file"):
        read_row_audio(Audio("a.wav"), tmp_path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "a\\t1", "task": "t", "split": "train", "text": {"c": "x"}}', "control character"),
        ('{"id": "a", "task": "t", "split": "train", "text": {"c": "\\ud800"}}', "half a character"),
    ],
)
def test_rows_that_no_file_can_hold(line, says):
    with pytest.raises(UserError, match=f"m:1: .*{says}"):
        row_from_json(line, "m:1")


@pytest.mark.parametrize("lie", LIES)
def test_weights_that_lie(lie, tiny_lm, tmp_path):
    tiny_model(tiny_lm).save_pretrained(tmp_path)
    (tmp_path / "trained.safetensors").write_bytes(LIES[lie])
    with pytest.raises(UserError, match=r"trained\.safetensors: cannot be read"):
        Predictor.from_pretrained(tmp_path, device="cpu")
    (tmp_path / FILE).write_bytes(LIES[lie])
    with pytest.raises(UserError, match=r"neighbours\.safetensors: cannot be read"):
        Neighbours.load(tmp_path)


def test_feature_shards_that_lie(tiny_lm, tiny_encoder, tmp_path):
    model = tiny_model(tiny_lm, tiny_encoder)
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 16_000)
    rows = [Row("a", "tiny_speech", "test", audio=Audio("a.wav"))]
    from shala_audio.audio.encoders import load_encoder

    encoder = load_encoder(str(tiny_encoder), (1, 2))
    write_features(rows, tmp_path, encoder, model.model_config.encoder_identity(), tmp_path / "f")
    (shard,) = (tmp_path / "f").glob("*.safetensors")
    shard.write_bytes(LIES["a tensor beyond the end"])
    with pytest.raises(UserError, match=rf"{shard.name}: cannot be read"):
        FeatureStore(tmp_path / "f")["a"]
    index = tmp_path / "f" / "index.jsonl"
    index.write_text(index.read_text().replace(shard.name, f"../f/{shard.name}"))
    with pytest.raises(UserError, match="which is not in the folder"):
        FeatureStore(tmp_path / "f")["a"]


def test_a_language_model_that_brings_code_or_a_pickle(tiny_lm, tmp_path):
    import shutil

    from tests.tiny import TEXT_TASK, tiny_config

    lm = tmp_path / "lm"
    shutil.copytree(tiny_lm, lm)
    (lm / "evil.py").write_text(
        f"import sys; sys.modules[{__name__!r}].RAN.append('code of a model')\nclass Evil: pass\n"
    )
    assert __name__ in sys.modules
    config = json.loads((lm / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (lm / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": auto_map}))
    from shala_audio.models.speech_lm import SpeechLM

    with pytest.raises(UserError, match="cannot be loaded"):
        SpeechLM.build(tiny_config(lm), TEXT_TASK, "label_token")
    (lm / "config.json").write_text(json.dumps(config))
    (lm / "model.safetensors").unlink()
    (lm / "pytorch_model.bin").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(UserError, match=r"cannot be loaded \(its pytorch_model.bin holds more than weights"):
        SpeechLM.build(tiny_config(lm), TEXT_TASK, "label_token")


def test_a_chat_template_that_tries_to_run_code(tiny_lm, tmp_path):
    import shutil

    from tests.tiny import TEXT_TASK, tiny_config

    lm = tmp_path / "lm"
    shutil.copytree(tiny_lm, lm)
    attack = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    for file in lm.glob("*template*"):
        file.write_text(attack)
    settings = json.loads((lm / "tokenizer_config.json").read_text())
    if "chat_template" in settings:
        (lm / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": attack}))
    from shala_audio.models.speech_lm import SpeechLM

    model = SpeechLM.build(tiny_config(lm), TEXT_TASK, "label_token")
    with pytest.raises(UserError, match="chat template"):
        Predictor(model, device="cpu").predict(text="hello")


def test_a_shala_json_that_asks_for_other_things(tiny_lm, tmp_path):
    tiny_model(tiny_lm).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "shala.json").read_text())
    for change in (
        {"task": {**settings["task"], "labels": []}},
        {"readout": "eval"},
        {"model": {**settings["model"], "lm": 3}},
    ):
        (tmp_path / "shala.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(UserError):
            Predictor.from_pretrained(tmp_path, device="cpu")
    (tmp_path / "shala.json").write_text("{}")
    with pytest.raises(UserError, match="shala.json"):
        Predictor.from_pretrained(tmp_path, device="cpu")
