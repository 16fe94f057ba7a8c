"""The documents build without a broken link, and their examples and the notebook run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient
from nbclient import NotebookClient
from typer.testing import CliRunner

from shala_audio import example
from shala_audio.cli.main import app
from shala_audio.models.pretrained import is_pulled

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
with_models = pytest.mark.skipif(
    not (is_pulled("whisper-base") and is_pulled("smollm2-135m-instruct")),
    reason="the default models are not in the cache: `shala-audio models pull`",
)


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def test_the_documents_build_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "tour.html", "recipes/crema_d.html", "api.html"} <= pages
    assert "What we measured" in (tmp_path / "site" / "recipes" / "crema_d.html").read_text()
    assert "predict_batch" in (tmp_path / "site" / "api.html").read_text()
    commands = (tmp_path / "site" / "commands.html").read_text()
    assert "shala-audio evaluate calibrate" in commands and "vote_dropping" in commands and "--allow-host" in commands


def test_every_page_is_in_the_contents():
    contents = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in contents, f"{page.name} is in no menu"
    for recipe in re.findall(r"recipes/(\w+)\.md", contents):
        assert (ROOT / "recipes" / recipe / "README.md").is_file()


def test_two_csv_files_are_scored_as_the_measures_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "measures.md").read_text()
    predictions, counts = re.findall(r"^```csv\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for name, table in (("predictions", predictions), ("counts", counts), ("theirs", predictions)):
        Path(f"{name}.csv").write_text(table)
    part = text.split("## Your own system")[1].split("## What is measured")[0]
    commands = re.findall(r"^    shala-audio (.*)$", part, re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["score", "score", "compare", "report"]
    for command in commands:
        result = CliRunner().invoke(app, command.split(), catch_exceptions=False)
        assert result.exit_code == 0, (command, result.output)
    assert "mine against" in Path("RESULTS.md").read_text()


BLOCKS = [
    pytest.param(block, id=f"{path.name} {number}")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, block in enumerate(blocks(path), start=1)
]


@with_models
@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_of_python_runs_by_itself(block, tmp_path):
    """The tour's third one did not, because it imported transformers first."""
    for name, samples in (("clip", 32_000), ("a", 32_000), ("b", 32_000), ("long", 96_000)):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(samples), 16_000)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@with_models
def test_the_service_of_the_example_answers():
    code = next(block for block in blocks(ROOT / "docs" / "own_code.md") if "FastAPI()" in block)
    names: dict = {}
    exec(compile(code, "own_code.md", "exec", dont_inherit=True), names)
    client = TestClient(names["app"])
    with open(example("clear"), "rb") as clip:
        answer = client.post("/emotions", files={"clip": clip}).json()
    assert max(answer, key=answer.get) == "anger" and sum(answer.values()) == pytest.approx(1)
    refused = client.post("/emotions", files={"clip": b"no sound"})
    assert refused.status_code == 422 and "sound" in refused.json()["detail"]


@with_models
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    results = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in results) == 2
    assert any("text/html" in output.get("data", {}) for output in results), "bars in the notebook"
