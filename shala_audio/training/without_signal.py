"""Batches of which nothing is learnt, because all rollouts of every prompt earned the same."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor

from shala_audio.errors import Stopped
from shala_audio.files import read_json, write_json

STATE = "without_signal.json"  # in a checkpoint
NO_SIGNAL = "try a longer warm start or more rollouts (num_generations)"  # or what else the readout has


class WithoutSignal:
    """Counts such batches, says so, and stops a run that has had too many in a row.

    Args:
        patience: batches in a row that stop the run; 0 for never.
        advice: what to try.
        aloud: whether this process is the one that says so.
    """

    def __init__(self, patience: int, advice: str, aloud: bool) -> None:
        self.patience, self.advice, self.aloud = patience, advice, aloud
        self.batches = self.in_a_row = 0

    def see(self, groups: Tensor, step: int) -> bool:
        """Whether a batch is one of them.

        Args:
            groups: (prompts, G) what the rollouts earned, of all processes.
            step: number of the training step, from 1.

        Raises:
            Stopped: it is one too many.
        """
        silent = bool((groups.amax(dim=1) - groups.amin(dim=1)).max() < 1e-6)
        if not silent:
            self.in_a_row = 0
            return False
        self.batches += 1
        self.in_a_row += 1
        earned = f"({float(groups.mean()):.3f} on average)"
        if self.patience and self.in_a_row >= self.patience:
            raise Stopped(
                f"step {step}: all rollouts of every prompt have earned the same for {self.in_a_row} batches in a row "
                f"{earned}, so nothing is learnt; {self.advice}"
            )
        if self.aloud and self.batches in (1, 10, 100, 1000):
            print(
                f"step {step}: all rollouts of every prompt earned the same {earned}, so nothing is learnt from this batch "
                f"(so far {self.batches} such); {self.advice}",
                file=sys.stderr,
            )
        return True

    def save(self, folder: str | Path) -> None:
        """Keep the counts, so that a run which is interrupted again and again stops as well."""
        write_json(Path(folder) / STATE, {"batches": self.batches, "in_a_row": self.in_a_row})

    def load(self, folder: str | Path) -> None:
        """Go on from the counts of a checkpoint; one of an earlier version has none."""
        if (path := Path(folder) / STATE).is_file():
            found = read_json(path)
            self.batches, self.in_a_row = found["batches"], found["in_a_row"]
