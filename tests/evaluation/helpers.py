"""Systems without folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shala_audio.evaluation.runs import Run, System


def system(name: str, *scores: Mapping[str, Any]) -> System:
    return System(name, [Run(name, Path(name), score, {}) for score in scores])
