"""A share of the work for each of several processes or jobs."""

from __future__ import annotations

import os

from shala_audio.errors import UserError

Shard = tuple[int, int]  # part I of N, I from 1


def parse_shard(text: str | None) -> Shard:
    """`--shard I/N`; the whole, 1/1, where it is not given.

    Raises:
        UserError: it is written otherwise.

    >>> parse_shard("2/4"), parse_shard(None)
    ((2, 4), (1, 1))
    """
    if text is None:
        return 1, 1
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UserError(f"--shard is {text!r}; write it as 1/4, 2/4, ...")
    return int(part), int(parts)


def launched_shard() -> Shard:
    """This process's part among those that `accelerate launch` or `torchrun` has started."""
    return int(os.environ.get("RANK", "0")) + 1, int(os.environ.get("WORLD_SIZE", "1"))
