"""Is one system better than another? A paired permutation test on the rows that both predict. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.evaluation.measures import Measures
from shala_audio.evaluation.score import load_judged

PERMUTATIONS = 10_000
CHUNK = 64  # permutations computed at once


def paired_permutation(differences: Floats, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided p-value of a mean paired difference: how often random signs give one as large (Fisher 1935).

    Args:
        differences: (rows,) of one system from the other.
        permutations: random ones; the observed one counts as one more, so that p is never 0.
        seed: of the signs.

    >>> paired_permutation(np.full(20, 0.1)) < 0.001
    True
    """
    rng = np.random.default_rng(seed)
    total, rows = float(differences.sum()), len(differences)
    extreme = 0
    for start in tqdm(range(0, permutations, CHUNK), unit=f"x{CHUNK}", desc="permutations", disable=None, leave=False):
        count = min(CHUNK, permutations - start)
        bits = np.unpackbits(np.frombuffer(rng.bytes(count * -(-rows // 8)), dtype=np.uint8).reshape(count, -1), axis=1)
        sums = total - 2 * (bits[:, :rows].astype(np.float32) @ differences.astype(np.float32))
        extreme += int((np.abs(sums) >= abs(total) * (1 - 1e-6)).sum())
    return (extreme + 1) / (permutations + 1)


def compare(first: Path, second: Path, manifest: Path, labels: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Mean differences (first less second) of jsd, kl and accuracy, with p-values, on the rows that both predict.

    Args:
        first, second: predictions (`evaluation.predictions`).
        manifest: rows with votes.
        labels: in order; those of the rows' task where not given.

    Returns:
        `n`, `only_first`, `only_second` (rows that the other lacks), and for each measure {first, second, difference, p}.
        Accuracy is over the rows that have a plurality label.

    Raises:
        UserError: no row is predicted by both.
    """
    one, two = load_judged(first, manifest, labels), load_judged(second, manifest, labels)
    place = {row.id: index for index, row in enumerate(two.rows)}
    shared = [(index, place[row.id]) for index, row in enumerate(one.rows) if row.id in place]
    if not shared:
        raise UserError(f"{first} and {second} have no row in common")
    mine, theirs = map(list, zip(*shared, strict=True))
    human = one.human[mine]
    result: dict[str, Any] = {
        "n": len(shared),
        "only_first": len(one.rows) - len(shared),
        "only_second": len(two.rows) - len(shared),
    }
    measures = Measures(human, one.predicted[mine]), Measures(human, two.predicted[theirs])
    for name in ("jsd", "kl"):
        result[name] = _test(*(one.in_order(one.row_means[name]) for one in measures))
    clear = measures[0].in_order(measures[0].clear)
    if clear.any():
        winner = human.argmax(axis=1)
        right = [found.argmax(axis=1) == winner for found in (one.predicted[mine], two.predicted[theirs])]
        result["accuracy"] = _test(right[0][clear].astype(float), right[1][clear].astype(float))
    return result


def _test(first: Floats, second: Floats) -> Mapping[str, float]:
    return {
        "first": float(first.mean()),
        "second": float(second.mean()),
        "difference": float((first - second).mean()),
        "p": paired_permutation(first - second),
    }
