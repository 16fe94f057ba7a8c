"""Sides that work in turns, each in a process of its own under one parent, so that they meet the same machine.

A side is a function of `Turns`: it sets up, and then does its work once whenever `turns.wait()` says so, and reports it by
`turns.done(units)`. Models stay loaded between turns; while one side works, the others sleep.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from shala_audio.devices import product_dtype

# Where both sides of the language model and of the encoder compute, and the type in which the language model computes fastest.
ACCELERATOR = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
DEVICE = "cpu" if ACCELERATOR is None else ACCELERATOR.type
DTYPE = product_dtype(DEVICE)

Side = Callable[["Turns"], None]


@dataclass
class Found:
    """Of one side: units of work a second in every turn, peak memory of its process, and what else it reported."""

    rates: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)


class Turns:
    """A side's end of the line to the parent."""

    def __init__(self, line: Connection) -> None:
        self.line, self.started = line, 0.0

    def wait(self) -> bool:
        """Sleep until it is this side's turn; False where there are no more."""
        go = bool(self.line.recv())
        self.started = time.perf_counter()
        return go

    def elapsed(self) -> float:
        """Seconds since the turn began."""
        return time.perf_counter() - self.started

    def done(self, units: float, seconds: float | None = None, **extra: float) -> None:
        """Report a turn's work, and how long it took where that is not the time since the turn began."""
        if ACCELERATOR is not None:
            torch.accelerator.synchronize()
        seconds = self.elapsed() if seconds is None else seconds
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        if DEVICE == "cuda" and torch.cuda.max_memory_reserved():
            peak = torch.cuda.max_memory_reserved() / 2**20
        self.line.send((units / seconds, peak, extra))


def _run(side: Side, line: Connection) -> None:
    side(Turns(line))


def take_turns(sides: Mapping[str, Side], rounds: int, say: Callable[[str], None] = print) -> dict[str, Found]:
    """Let sides work in turns, `rounds` times each after one turn to warm up, which does not count."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    processes: list[Any] = []
    found = {name: Found() for name in sides}
    for name, side in sides.items():
        lines[name], theirs = context.Pipe()
        process = context.Process(target=_run, args=(side, theirs), daemon=True)
        process.start()
        theirs.close()  # so that a side that fails ends the line
        processes.append(process)
    for number in range(rounds + 1):
        for name, line in lines.items():
            try:
                line.send(True)
                rate, peak, extra = line.recv()
            except (EOFError, OSError):
                raise SystemExit(f"{name}: the process ended; if it says nothing above, memory ran out") from None
            if number:
                found[name].rates.append(rate)
            found[name].peak_mb, found[name].extra = max(found[name].peak_mb, peak), extra
            say(f"  {name}: {rate:.3g} a second{'' if number else ' (to warm up)'}")
    for line in lines.values():
        line.send(False)
    for process in processes:
        process.join()
    return found
