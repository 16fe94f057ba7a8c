"""What a trainer logs, as JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from shala_audio.files import keep_steps


class JsonLog(TrainerCallback):
    """Writes one JSON object a line to a file.

    Args:
        path: of the file.
        step: that the run goes on from; lines of later steps, of before an interruption, are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        keep_steps(path, step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
