from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shala_audio import torchaudio_fix
from shala_audio.torchaudio_fix import needs_fix, torch_has_cuda, torchaudio_needs_cuda

CPU = "from typing import Optional\n__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n"
CUDA = "from typing import Optional\n__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\n"


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("version", "library", "expected"),
    [(CPU, b"..libc10_cuda.so..", True), (CPU, b"..libc10.so..", False), (CUDA, b"..libc10_cuda.so..", False)],
)
def test_only_a_cpu_torch_beside_a_cuda_torchaudio_is_mended(tmp_path, monkeypatch, version, library, expected):
    torch_folder = folder(tmp_path / "torch", {"version.py": version.encode()})
    torchaudio_folder = folder(tmp_path / "torchaudio", {"lib/libtorchaudio.abi3.so": library})
    assert torch_has_cuda(torch_folder) is (version is CUDA)
    assert torchaudio_needs_cuda(torchaudio_folder) is (b"cuda" in library)
    folders = {"torch": torch_folder, "torchaudio": torchaudio_folder}
    monkeypatch.setattr(torchaudio_fix, "package_folder", folders.get)
    assert needs_fix() is expected


def test_everything_imports_and_torchaudio_computes():
    """In a fresh interpreter, as a user's program would."""
    program = (
        "import shala_audio, torchaudio, peft, trl, torch;"
        "y = torchaudio.functional.resample(torch.sin(torch.arange(4410) / 20), 44100, 16000);"
        "assert y.shape == (1600,), y.shape;"
        "torchaudio.compliance.kaldi.fbank(torch.randn(1, 16000));"
        "print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr


def test_scoring_does_not_import_torch():
    program = (
        "import sys, shala_audio, shala_audio.evaluation.score, shala_audio.corpora.crema_d, shala_audio.corpora.mini;"
        "import shala_audio.evaluation.report;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_nor_do_the_commands_that_score(tmp_path):
    (tmp_path / "votes.csv").write_text("id,joy,fear\na,3,1\nb,0,5\nc,2,2\n")
    for name, share in (("ours", 0.5), ("theirs", 0.3)):
        lines = [f"{row},{share},{1 - share}" for row in "abc"]
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,joy,fear", *lines]))
    commands = [
        ["evaluate", "score", "ours.csv", "votes.csv", "--out", "ours.json"],
        ["evaluate", "score", "theirs.csv", "votes.csv", "--out", "theirs.json"],
        ["evaluate", "compare", "ours.csv", "theirs.csv", "votes.csv"],
        ["evaluate", "report", "ours.json", "theirs.json", "--out", "RESULTS.md"],
    ]
    program = (
        "import json, sys\n"
        "from shala_audio.cli.main import app\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    app(command, standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    given = [sys.executable, "-c", program, json.dumps(commands)]
    done = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "RESULTS.md").is_file()
