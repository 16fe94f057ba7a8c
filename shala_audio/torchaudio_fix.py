"""Let a torchaudio that was built for CUDA be imported beside a CPU build of torch.

The torchaudio wheel on PyPI is linked against CUDA. Where torch itself is a CPU build, `import torchaudio` fails with an
`OSError`, and because peft, trl and transformers import torchaudio when they find it, they fail too. Only torchaudio's
compiled extension needs CUDA; its Python parts (transforms, functional, Kaldi features) do not. So on a CPU torch we
put a module in the extension's place that says "not available". With a CUDA torch nothing is changed.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

CUDA_LIBRARIES = (b"libc10_cuda", b"libcudart", b"libtorch_cuda")


def package_folder(name: str) -> Path | None:
    """Folder of an installed top-level package, found without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def torch_has_cuda(torch_folder: Path) -> bool:
    """Whether the torch in this folder was built for CUDA, read from its `version.py` without importing it."""
    match = re.search(r"^cuda\b[^=]*=\s*(.+)$", (torch_folder / "version.py").read_text(encoding="utf-8"), re.MULTILINE)
    return match is not None and match.group(1).strip() != "None"


def torchaudio_needs_cuda(torchaudio_folder: Path) -> bool:
    """Whether one of torchaudio's shared objects names a CUDA library it links against."""
    return any(
        library in shared_object.read_bytes()
        for shared_object in (torchaudio_folder / "lib").glob("*.so")
        for library in CUDA_LIBRARIES
    )


def needs_fix() -> bool:
    """Whether importing torchaudio would fail here: a CPU torch beside a CUDA torchaudio."""
    torch_folder, torchaudio_folder = package_folder("torch"), package_folder("torchaudio")
    if torch_folder is None or torchaudio_folder is None:
        return False
    return not torch_has_cuda(torch_folder) and torchaudio_needs_cuda(torchaudio_folder)


def _unavailable(*args: object, **kwargs: object) -> None:
    raise RuntimeError("this function needs torchaudio's compiled extension, which needs a CUDA build of torch")


def allow_cpu_torchaudio() -> None:
    """Replace torchaudio's extension where it cannot load. Called by `import shala_audio`; safe to call twice."""
    if "torchaudio._extension" in sys.modules or not needs_fix():
        return
    extension = ModuleType("torchaudio._extension")
    extension.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        fail_if_no_align=lambda function: _unavailable,
    )
    sys.modules["torchaudio._extension"] = extension
