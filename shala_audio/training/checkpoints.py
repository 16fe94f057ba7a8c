"""A run's checkpoints: which there are, and when one is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

UNFINISHED = "unfinished"  # folder of a checkpoint that is being written


def checkpoints(out: Path) -> list[Path]:
    """A run's checkpoints, by their steps."""
    found = [folder for folder in out.glob("checkpoint-*") if folder.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("checkpoint-")))


class CheckpointMoments(TrainerCallback):
    """Has a checkpoint written only where going on from it is as if there had been no interruption: when all rollouts
    that were drawn are used, since they are not kept, and with everything logged that waits for its mean.

    Args:
        every: steps that rollouts are used for before new ones are drawn; a checkpoint that is due in between waits.
    """

    def __init__(self, every: int) -> None:
        self.every, self.due = every, False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.due |= control.should_save
        control.should_save = self.due and state.global_step % self.every == 0
        if control.should_save:
            self.due, control.should_log = False, True

    on_epoch_end = on_step_end
