"""Writing so that a file is either complete or absent, and finding the project's own configuration files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from shala_audio.errors import UserError, nearest

_PACKAGE = Path(__file__).parent
# In an installed wheel the configurations lie inside the package, in a clone beside it.
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"

UMASK = os.umask(0o022)  # which can only be read by setting it
os.umask(UMASK)
LARGEST_YAML = 1_000_000  # bytes
_HOST = platform.node().replace(".", "-")[:32] or "here"


@cache  # once a folder: it may hold as many files as a corpus has clips
def _clear_after_killed(folder: Path) -> None:
    """Remove what processes that were killed had begun to write."""
    for left in folder.glob(f".*.{_HOST}.*.tmp"):  # of other machines that share the folder, nobody here knows
        process = left.name.split(".")[-3]
        if left.is_file() and process.isdigit() and not _is_running(int(process)):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is synced and renamed to `path`, else removed.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_write(target) as beside:
    ...     _ = beside.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_after_killed(path.parent)
    beside = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield beside
        beside.chmod(0o666 & ~UMASK)  # safetensors makes files that nobody else may read
        sync_file(beside)
        beside.replace(path)
        sync_file(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def readable(path: str | Path, missing: str = "no such file") -> Iterator[None]:
    """Around the reading of a text file: what keeps it from being read is a UserError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: {missing}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error})") from None
    except OSError as error:  # a folder, or a file that may not be read
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in a folder; the lock goes when its holder does."""
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Put lines at the end of a file, for good. A last one that an interruption cut short gets its end first."""
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before anything else is done."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file beside and rename it."""
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8")


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def render_template(template: str, **fields: Any) -> str:
    """A text of ours, `assets/<template>.jinja`, with its fields."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    source = _PACKAGE / "assets" / f"{template}.jinja"
    return environment.from_string(source.read_text(encoding="utf-8")).render(**fields)


def keep_steps(path: Path, step: int) -> None:
    """Of a log of JSON Lines, keep what was written up to a step: later ones are done again, and an interruption may have cut
    the last line short."""
    kept = []
    content = path.read_text(encoding="utf-8", errors="replace") if step and path.is_file() else ""
    for line in content.split("\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_text(path, "".join(kept))


def remove_folder(folder: Path) -> None:
    """Remove a folder so that it is there whole or not at all, whenever the process is killed."""
    if folder.is_dir():
        aside = folder.with_name(f".{folder.name}.removed")  # which `clear_removed` finds
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        shutil.rmtree(aside)


def replace_folder(written: Path, target: Path) -> None:
    """Put a folder that was written beside in a target's place, when it is on the disk."""
    for path in [*sorted(written.rglob("*"), reverse=True), written]:
        sync_file(path)
    remove_folder(target)
    written.rename(target)
    sync_file(target.parent)


def clear_removed(folder: Path) -> None:
    """Remove what `remove_folder` had begun to remove in a folder when it was killed."""
    for left in folder.glob(".*.removed"):
        shutil.rmtree(left, ignore_errors=True)


def has_half_characters(value: Any) -> bool:
    """Whether strings in a parsed JSON hold lone surrogates (as "\\ud800"), which are no text and cannot be written as such.

    >>> has_half_characters({"a": ["\\ud800"]}), has_half_characters({"a": ["é"]})
    (True, False)
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON beside and rename it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        with readable(path):
            content = Path(path).read_bytes()
        found = json.loads(content.decode("utf-8"))
        if has_half_characters(found):
            raise ValueError("a lone surrogate such as \\ud800, which is half a character")
        return found
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


class _PlainLoader(yaml.SafeLoader):
    """Runs no code, and takes no aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not taken")
        return super().compose_node(parent, index)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping, with a loader that runs no code.

    Raises:
        UserError: the file is missing, is larger than a megabyte, is not YAML, or does not hold a mapping.
    """
    try:
        with readable(path):
            if Path(path).stat().st_size > LARGEST_YAML:
                raise UserError(f"{path}: larger than {LARGEST_YAML:,} bytes, which no configuration is")
            content = Path(path).read_bytes()
        value = yaml.load(content.decode("utf-8"), Loader=_PlainLoader)  # noqa: S506
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a mapping of names to values is needed")
    return value


def config_path(kind: str, name_or_path: str) -> Path:
    """A YAML file given by path, or by the name of one that comes with the toolkit (`configs/<kind>/<name>.yaml`).

    Raises:
        UserError: neither exists; the message lists the names that do.
    """
    for candidate in (Path(name_or_path), CONFIGS / kind / f"{name_or_path}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))
    raise UserError(
        f"{name_or_path}: no such file, and no configuration of that name in configs/{kind} ({', '.join(known)})"
        + nearest(name_or_path, known)
    )


def at_commit(source: str) -> dict[str, str | None]:
    """What `from_pretrained` takes for a folder, a hub id, or a hub id at a commit ("name@commit").

    >>> at_commit("Qwen/Qwen3-8B@b968826")
    {'pretrained_model_name_or_path': 'Qwen/Qwen3-8B', 'revision': 'b968826'}
    """
    name, _, commit = (source, "", "") if Path(source).exists() else source.partition("@")
    return {"pretrained_model_name_or_path": name, "revision": commit or None}


# What `from_pretrained` raises where a model is not there, not whole, or not of a kind that it knows.
LOADING_ERRORS = (
    OSError, ImportError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError,
)  # fmt: skip


def load_weights(kind: Any, source: str, **options: Any) -> Any:
    """A transformers model with its weights: of safetensors, or of a `pytorch_model.bin` where there is nothing else, from which
    tensors alone are taken (`weights_only`) and nothing is run.

    Args:
        kind: its class.
        source: folder or hub id.
        options: of `from_pretrained`.

    Raises:
        ValueError: the file holds more than weights. Other errors of transformers go through.
    """
    options |= {**at_commit(source), "trust_remote_code": False}
    try:
        return kind.from_pretrained(**options, use_safetensors=True)
    except OSError as error:
        if "safetensors" not in str(error):
            raise
        missing = error
    try:
        return kind.from_pretrained(**options, use_safetensors=False, weights_only=True)
    except OSError:
        raise missing from None
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        # Not torch's own words, which advise to run what is in the file.
        raise ValueError(
            "its pytorch_model.bin holds more than weights, or is damaged; convert it to safetensors where you trust it"
        ) from None


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those that `accelerate launch` or `torchrun` has started."""
    return os.environ.get("RANK", "0") == "0"
