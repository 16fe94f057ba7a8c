"""Make transformers' Auto classes, and so `pipeline`, know our models, without importing transformers before the user does.

`import shala_audio` takes a fraction of a second, transformers with torch some four. So where transformers' Auto classes are
not imported yet, ours are registered at the moment when they are.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

AUTO_CLASSES = "transformers.models.auto.modeling_auto"


def _register() -> None:
    from shala_audio.inference import hf

    hf.register()


class _RegisterAfterImport(MetaPathFinder):
    """Finds the module of the Auto classes where Python does, once, and registers ours at the end of its import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != AUTO_CLASSES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register_auto_classes() -> None:
    """Register now where transformers' Auto classes are imported, else as soon as they are."""
    if AUTO_CLASSES in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _RegisterAfterImport())
