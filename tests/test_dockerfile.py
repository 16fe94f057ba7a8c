"""The image's own steps, without a container runtime: a wheel of this tree in an environment of its own, served and asked as it is."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_what_it_names_is_there():
    (extra,) = re.findall(r"\.whl\)\[(\w+)\]", DOCKERFILE)
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for names in re.findall(r"^COPY (?!--from)(.*) /", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / name).exists() for name in names.split())
    assert "USER shala" in DOCKERFILE


@pytest.mark.slow
def test_its_wheel_serves_and_its_health_check_finds_it(tmp_path):
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    place = subprocess.run(
        [tmp_path / "env" / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", place, wheel], check=True)
    # What it depends on is that of these tests; the package is the wheel's.
    (Path(place) / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])

    def command(kind: str) -> list[str]:
        (words,) = re.findall(rf"^{kind}[^\[\n]*(\[.*\])$", DOCKERFILE, re.MULTILINE)
        return [word.replace("0.0.0.0", "127.0.0.1").replace("8000", port) for word in json.loads(words)]

    program, *arguments = command("CMD")
    assert program == "shala-audio"
    python = str(tmp_path / "env" / "bin" / "python")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    served = subprocess.Popen([python, "-m", "shala_audio", *arguments], cwd=tmp_path, env=environment)
    try:
        check = [python, *command("HEALTHCHECK")[1:]]
        while subprocess.run(check, check=False, capture_output=True).returncode:
            assert served.poll() is None, "it ended by itself"
            time.sleep(1)
        where = "import shala_audio; print(shala_audio.__file__); print(shala_audio.example())"
        found = subprocess.run(
            [python, "-c", where], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
        )
        package, clip = found.stdout.split()
        assert package.startswith(str(tmp_path)) and Path(clip).is_file(), "clips and configurations come along"
    finally:
        served.terminate()
        served.wait(30)
