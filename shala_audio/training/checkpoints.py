"""A run's checkpoints: which there are, which one a run goes on from, and when one is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from shala_audio.errors import UserError
from shala_audio.files import read_json
from shala_audio.models.folder import TRAINED
from shala_audio.training.config import ShalaConfig

UNFINISHED = "unfinished"  # folder of a checkpoint that is being written


def checkpoints(out: Path) -> list[Path]:
    """A run's checkpoints, by their steps."""
    found = [folder for folder in out.glob("checkpoint-*") if folder.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("checkpoint-")))


def to_go_on_from(config: ShalaConfig, mine: dict[str, Any]) -> str | None:
    """The newest checkpoint to go on from.

    Raises:
        UserError: there is one, but of other settings, rows or another start than `mine`, or it is not to be gone on from.
    """
    out = Path(str(config.output_dir))
    found = get_last_checkpoint(str(out)) if out.is_dir() else None
    if found is not None and not config.resume:
        raise UserError(
            f"{found}: of a run that was interrupted; --resume goes on from it, or remove {out} to start afresh"
        )
    if found is not None and (out / "run.json").is_file():
        theirs = read_json(out / "run.json")
        if other := sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)):
            raise UserError(
                f"{found}: of a run with other {', '.join(other)}; remove {out} to start afresh, or use the settings it had"
            )
    return found


def is_finished(out: Path, mine: dict[str, Any]) -> bool:
    """Whether the folder holds the end of the very run that is asked for."""
    names = ("run.json", "training.json", TRAINED)
    return all((out / name).is_file() for name in names) and read_json(out / "run.json") == mine


def step_of(checkpoint: str | None) -> int:
    """The step that a checkpoint was written after; 0 where there is none."""
    return int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0


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
