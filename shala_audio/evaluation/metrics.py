"""How close predicted distributions come to human ones, each measure with a bootstrap interval. No torch.

Everything that can be computed once for each row is; a bootstrap draw is then a vector of how often each row was drawn, and
every measure a weighted sum of what was computed: no row is copied, and memory does not grow with the draws. What depends on
votes and plurality labels alone, and every statistic of ranks, is summed over kinds of rows or groups of equal values, which are few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from shala_audio.devices import usable_cores
from shala_audio.distribution import (
    FLOOR,
    NATS_PER_BIT_ROOT,
    Floats,
    bhattacharyya,
    entropy,
    jsd,
    kl,
    lewidi_cross_entropy,
    total_variation,
    wasserstein,
)
from shala_audio.evaluation.stats import DRAWS, are_clustered, cluster_ids, jackknife, percentiles

Counts = NDArray[np.int64]


def group_sums(groups: Counts, values: Floats) -> Floats:
    """Sum of the values of each group."""
    sums: NDArray[Any] = np.bincount(groups, weights=values)
    return sums


def mid_ranks(sizes: Floats) -> Floats:
    """Mid-ranks, less a half, of groups of so many equal values each, in ascending order."""
    return np.cumsum(sizes) - sizes / 2


def rank_spread(sizes: Floats) -> float:
    """Sum of squared distances of the mid-ranks of such groups from their mean (Kendall 1945)."""
    total = sizes.sum()
    return float((total * total * total - (sizes * sizes * sizes).sum()) / 12)  # exactly 0 for one group


def rank_correlation(product: float, one: float, two: float, total: float) -> float:
    """Spearman's, of the sum of products of ranks and both spreads; NaN where one side is constant."""
    scale = np.sqrt(one * two)
    return float((product - total**3 / 4) / scale) if scale > 1e-9 * total else float("nan")


def auroc(rank_sum: float, positives: float, total: float) -> float:
    """Area under the ROC curve of positive rows with that sum of ranks; NaN where all rows are positive, or none is."""
    negatives = total - positives
    if positives <= 0 or negatives <= 0:
        return float("nan")
    return float((rank_sum - positives**2 / 2) / (positives * negatives))


def distance_correlation(x: Floats, y: Floats) -> float:
    """Of two sequences (Székely, Rizzo and Bakirov 2007), in [0, 1]; NaN where one is constant. In n log² n.

    >>> round(distance_correlation(np.array([1.0, 2.0, 3.0, 9.0]), np.array([1.0, 2.0, 3.0, 9.0])), 6)
    1.0
    """
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    of_x, of_y = _mean_distances(x), _mean_distances(y)
    covariance = _product_of_distances(x, y) + of_x.mean() * of_y.mean() - 2 * (of_x * of_y).mean()
    spread_x, spread_y = (
        2 * values.var() + means.mean() ** 2 - 2 * (means * means).mean() for values, means in ((x, of_x), (y, of_y))
    )
    if min(spread_x, spread_y) <= 1e-12:
        return float("nan")
    return math.sqrt(max(float(covariance), 0.0) / math.sqrt(spread_x * spread_y))


def _mean_distances(values: Floats) -> Floats:
    """Mean distance of each value to all of them."""
    ascending = np.sort(values)
    below = np.searchsorted(ascending, values)
    sums = np.concatenate([[0.0], ascending.cumsum()])
    return values * (2 * below / len(values) - 1) + (sums[-1] - 2 * sums[below]) / len(values)


def _product_of_distances(x: Floats, y: Floats) -> float:
    """Mean of |x_i - x_j| |y_i - y_j| over all i and j, for x that ascends.

    As merge sort does, by halves: of a pair of which one lies in each half, the sign of x_i - x_j is known, and that of y_i - y_j
    from a sort of the block by y.
    """
    total, size = 0.0, 1
    index = np.arange(len(x))
    parts = np.stack([np.ones_like(x), x, y, x * y])
    while size < len(x):
        block = index // (2 * size)
        left = index // size % 2 == 0
        order = np.lexsort((y, block))
        sums = np.cumsum(np.where(left, parts, 0.0)[:, order], axis=1)
        last = np.searchsorted(block[order], np.arange(block[-1] + 1), side="right") - 1
        ends = sums[:, last]  # up to the end of each block
        before = np.concatenate([np.zeros((4, 1)), ends[:, :-1]], axis=1)
        right = ~left[order]
        of_block = block[order][right]
        below, whole = sums[:, right] - before[:, of_block], (ends - before)[:, of_block]
        n, sx, sy, sxy = 2 * below - whole  # those with a smaller y, less those with a larger one
        xi, yi = x[order][right], y[order][right]
        total += float((xi * yi * n - xi * sy - yi * sx + sxy).sum())
        size *= 2
    return 2 * total / len(x) ** 2


BINS = 10  # of predicted entropy, with equally many rows
TERCILES = ("low", "middle", "high")
TIE = 1e-9  # shares of votes closer than this are equal


class Measures:
    """What the measures of a set of predictions are made of.

    Args:
        human, predicted: (rows, K), one row or more; predictions sum to 1.
        repeats: how often the same rows stand one after the other, for predictions that are themselves samples: a bootstrap
            draw then draws all copies of a row together.
        ordered: whether labels stand in an order, so that there is a Wasserstein distance.

    Raises:
        ValueError: the shapes differ.
    """

    def __init__(self, human: Floats, predicted: Floats, repeats: int = 1, ordered: bool = False) -> None:
        if human.shape != predicted.shape or len(human) % repeats:
            raise ValueError(f"human {human.shape}, predicted {predicted.shape}, {repeats} times the same rows")
        self.rows, self.repeats, self.labels = len(human) // repeats, repeats, human.shape[1]
        # Everything below is in the order of predicted entropy, so that ranks are running sums and bins are slices. Entropies
        # are rounded more coarsely than sums in another order, or ties that were parted by 1e-13, can change them.
        stated = entropy(predicted).round(10)
        order = np.argsort(stated, kind="stable")
        human, predicted = human[order], predicted[order]
        self.row = order % self.rows
        self.stated, self.actual = stated[order], entropy(human).round(10)
        self.gap = self.stated - self.actual
        floored = np.maximum(predicted, FLOOR)
        self.row_means = {
            "jsd": jsd(human, predicted),
            "kl": kl(human, floored / floored.sum(axis=1, keepdims=True)),
            "total_variation": total_variation(human, predicted),
            "bhattacharyya": bhattacharyya(human, predicted),
            "cross_entropy": lewidi_cross_entropy(human, predicted),
        }
        if ordered:
            self.row_means["wasserstein"] = wasserstein(human, predicted)
        self.divergences = np.square(self.row_means["jsd"])  # in bits
        # Labels that count as chosen, as EMO-SUPERB (arXiv 2402.13018) takes them: with more than one K-th of the votes.
        self.chosen = human > 1 / self.labels + TIE, predicted > 1 / self.labels + TIE
        # Plurality labels; rows whose first place is shared are left out of the hard measures.
        first = human.max(axis=1, keepdims=True)
        self.clear = (human >= first - TIE).sum(axis=1) == 1
        cells = np.where(self.clear, human.argmax(axis=1) * self.labels + predicted.argmax(axis=1) + 1, 0)
        edges = np.quantile(np.sort(self.actual)[::repeats], [1 / 3, 2 / 3])
        self.tercile = np.digitize(self.actual, edges, right=True)
        contested = human.max(axis=1) <= 0.5
        # Rows of one kind have the same human entropy (and so its third) and plurality labels, and are all contested or not.
        per_third = self.labels**2 + 1
        actual_groups = _groups(self.actual)
        keys = (actual_groups * per_third + cells) * 2 + contested
        _, example, kinds = np.unique(keys, return_index=True, return_inverse=True)
        self.kind = kinds.reshape(-1)
        self.group_of_kind, self.contested_kind = actual_groups[example], contested[example].astype(np.float64)
        self.cell_of_kind = (self.tercile * per_third + cells)[example]
        thirds = [self.tercile == third for third in range(len(TERCILES))]
        self.columns = np.stack([np.where(third, row, 0.0) for row in self.row_means.values() for third in thirds])
        self.stated_groups = _groups(self.stated)
        self.all_differ = self.stated_groups[-1] + 1 == len(order)
        self.bin_starts = _bin_starts(self.stated_groups)

    @property
    def ties(self) -> int:
        """Rows whose first place is shared."""
        return int((~self.clear).sum()) // self.repeats

    def in_order(self, values: NDArray) -> NDArray:
        """Values of rows, as kept here by predicted entropy, in the order the rows came in."""
        found = np.empty_like(values)
        found[self.row] = values
        return found

    def values(self, counts: Counts | None = None) -> dict[str, float]:
        """Every measure, NaN where it does not exist; each row counted `counts` times, or once.

        Names of the measures within a third of the rows by human entropy are `tercile/<third>/<measure>`.
        """
        weights = np.ones(len(self.row)) if counts is None else counts.astype(np.float64).take(self.row)
        total = weights.sum()
        # Not by BLAS, whose threads would fight with those of the draws.
        sums = np.einsum("cr,r->c", self.columns, weights).reshape(-1, len(TERCILES))
        of_kind = group_sums(self.kind, weights)
        cells, table = self._table(of_kind)
        found = self._closeness(sums.sum(axis=1), total, table.sum(axis=0))
        ranked, spread = self._stated_ranks(weights)
        ranks_of_kind = group_sums(self.kind, ranked)
        found["contested_auroc"] = auroc(ranks_of_kind @ self.contested_kind, of_kind @ self.contested_kind, total)
        actual = group_sums(self.group_of_kind, of_kind)
        product = float(mid_ranks(actual) @ group_sums(self.group_of_kind, ranks_of_kind))
        found["entropy_correlation"] = rank_correlation(product, spread, rank_spread(actual), total)
        gaps = np.add.reduceat(weights * self.gap, self.bin_starts)
        found["entropy_error"] = float(np.abs(gaps).sum() / total)
        found["js_divergence"] = float(np.einsum("r,r->", weights, self.divergences) / total)
        found["multilabel_f1"] = self._multilabel_f1(weights)
        for index, name in enumerate(TERCILES):
            within = self._closeness(sums[:, index], cells[index].sum(), table[index])
            found |= {f"tercile/{name}/{key}": value for key, value in within.items()}
        return found

    def _closeness(self, sums: Floats, total: float, table: Floats) -> dict[str, float]:
        """Distances, from their sums over so many rows, and what follows from plurality labels."""
        found = dict(
            zip(self.row_means, (float(part / total) if total else float("nan") for part in sums), strict=True)
        )
        found |= {"jsd_nats": NATS_PER_BIT_ROOT * found["jsd"], "manhattan": 2 * found["total_variation"]}
        return found | hard_measures(table)

    def _multilabel_f1(self, weights: Floats) -> float:
        """Mean over labels of F1 of the labels that count as chosen, of those that are in some row."""
        true, claimed = self.chosen
        both = np.einsum("r,rk->k", weights, true & claimed)
        sizes = np.einsum("r,rk->k", weights, true), np.einsum("r,rk->k", weights, claimed)
        present = sizes[0] > 0
        return float((2 * both[present] / (sizes[0] + sizes[1])[present]).mean()) if present.any() else float("nan")

    def _table(self, of_kind: Floats) -> tuple[Floats, Floats]:
        """Rows by third of human entropy: (3, 1 + K * K), first those without a plurality label; and (3, K, K) of the rest,
        by the raters' and the prediction's label."""
        cells: NDArray[Any] = np.bincount(self.cell_of_kind, of_kind, 3 * (self.labels**2 + 1)).reshape(3, -1)
        return cells, cells[:, 1:].reshape(3, self.labels, self.labels)

    def _stated_ranks(self, weights: Floats) -> tuple[Floats, float]:
        """(rows,) mid-ranks by predicted entropy times weights, and their spread."""
        if self.all_differ:
            return weights * mid_ranks(weights), rank_spread(weights)
        size = group_sums(self.stated_groups, weights)
        return weights * mid_ranks(size).take(self.stated_groups), rank_spread(size)

    def reliability(self) -> list[dict[str, float]]:
        """Mean stated and mean human entropy, in bits, of rows in order of the entropy that predictions state."""
        sizes = np.diff([*self.bin_starts, len(self.row)])
        stated, actual = (np.add.reduceat(values, self.bin_starts) / sizes for values in (self.stated, self.actual))
        return [
            {"n": int(n), "stated": float(s), "human": float(a)} for n, s, a in zip(sizes, stated, actual, strict=True)
        ]

    def entropies(self, most: int = 500) -> list[list[float]]:
        """Human and predicted entropy, in bits, of rows: all, or so many spread evenly over predicted entropy."""
        rows = np.linspace(0, len(self.row) - 1, min(self.rows, most)).astype(int)
        return [[round(float(self.actual[row]), 4), round(float(self.stated[row]), 4)] for row in rows]

    def confusion(self) -> list[list[int]]:
        """Rows by the raters' plurality label (first index) and the prediction's (second)."""
        return self._table(np.bincount(self.kind).astype(np.float64))[1].sum(axis=0).astype(int).tolist()


def hard_measures(confusion: Floats) -> dict[str, float]:
    """Accuracy, macro-F1, weighted-F1 and UAR of a (K, K) table of rows by true and by predicted label.

    F1 and UAR are means over the labels that are true of some row, as in `sklearn.metrics` with those labels given.
    """
    actual, claimed, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    present = actual > 0
    if not present.any():
        return dict.fromkeys(("accuracy", "macro_f1", "weighted_f1", "uar"), float("nan"))
    f1 = 2 * hits[present] / (actual + claimed)[present]
    return {
        "accuracy": float(hits.sum() / actual.sum()),
        "macro_f1": float(f1.mean()),
        "weighted_f1": float((f1 * actual[present]).sum() / actual.sum()),
        "uar": float((hits[present] / actual[present]).mean()),
    }


def all_measures(
    human: Floats,
    predicted: Floats,
    draws: int = DRAWS,
    seed: int = 0,
    repeats: int = 1,
    name: str = "bootstrap",
    groups: Sequence[str] = (),
    ordered: bool = False,
) -> dict[str, Any]:
    """Every metric with its 95 % interval: percentiles over bootstrap resamples of the rows (Efron 1979), or where rows share
    groups, Student's t with the jackknife's deviation over groups (`stats.jackknife_interval`).

    Args:
        human, predicted: (rows, K).
        draws: how many; 0 gives no intervals, and a single row has none.
        seed: of the draws.
        repeats: see `Measures`.
        name: of the progress bar.
        groups: of every row, its speaker or premise; none where rows are independent.
        ordered: see `Measures`.

    Returns:
        `n`, `ties`, and {value, low, high} for `jsd`, `jsd_nats`, `kl`, `total_variation`, `bhattacharyya`, `cross_entropy` and
        `manhattan` (as LeWiDi has them), `wasserstein` of ordered labels, `accuracy`, `macro_f1`, `weighted_f1`, `uar`,
        `entropy_correlation` (Spearman) and `entropy_distance_correlation` of predicted and human entropy, `contested_auroc`
        (finding, by predicted entropy, the rows where no label has more than half of the votes), `entropy_error` (mean distance
        of stated from human entropy over ten bins, in bits), `js_divergence` (mean, in bits) and `multilabel_f1` (macro-F1 of the
        labels with more than one K-th of the votes); the value is None where the measure does not exist. `terciles`: distances
        and plurality metrics within each third of the rows by human entropy, `low`, `middle` and `high`. `reliability`, `confusion`,
        `entropies`: see `Measures`.
    """
    measures = Measures(human, predicted, repeats, ordered)
    values = measures.values() | {
        "entropy_distance_correlation": distance_correlation(measures.stated, measures.actual)
    }
    draws = draws if measures.rows > 1 else 0
    clusters = cluster_ids(groups) if groups and are_clustered(groups) and draws else None
    count = 0
    if clusters is not None:
        count = int(clusters.max()) + 1
        clusters %= DRAWS  # of more clusters, blocks of them are left out in turn
        draws = int(clusters.max()) + 1
    drawn: dict[str, list[float]] = {key: [] for key in values}

    def draw(number: int) -> dict[str, float]:
        if clusters is not None:
            return measures.values((clusters != number).astype(np.int64)) if draws > 1 else {}
        rng = np.random.default_rng([seed, number])  # of its own, so that draws do not depend on each other's order
        rows = rng.integers(measures.rows, size=measures.rows)
        return measures.values(np.bincount(rows, minlength=measures.rows))

    quiet = None if draws * len(human) > 5_000_000 else True  # a bar only where it takes seconds, and on a terminal
    with (
        ThreadPoolExecutor(usable_cores()) as pool,
        tqdm(total=draws, unit="draw", desc=name, disable=quiet, leave=False) as bar,
    ):
        for found in pool.map(draw, range(draws)):
            bar.update()
            for key, value in found.items():
                drawn[key].append(value)
    # These are larger in draws, whose rows repeat, than in the whole: percentiles are no interval.
    drawn["entropy_error"] = drawn["entropy_distance_correlation"] = []
    sizes = {third: int((measures.tercile == index).sum()) // repeats for index, third in enumerate(TERCILES)}
    for key in drawn:
        if key.startswith("tercile/") and sizes[key.split("/")[1]] <= 1:
            drawn[key] = []  # a single row has no interval
    if clusters is None:
        intervals = {key: percentiles(value, drawn[key]) for key, value in values.items()}
    else:
        sizes_of_clusters = np.bincount(clusters)
        drawn = {key: found or [float("nan")] for key, found in drawn.items()}
        intervals = {
            key: jackknife(value, drawn[key], sizes_of_clusters) | {"groups": count} for key, value in values.items()
        }
    result: dict[str, Any] = {"n": measures.rows, "ties": measures.ties}
    result |= {key: found for key, found in intervals.items() if not key.startswith("tercile/")}
    result["terciles"] = {
        third: {"n": size}
        | {key.split("/")[2]: found for key, found in intervals.items() if key.startswith(f"tercile/{third}/")}
        for third, size in sizes.items()
    }
    return result | {
        "reliability": measures.reliability(),
        "confusion": measures.confusion(),
        "entropies": measures.entropies(),
    }


def _groups(values: Floats) -> Counts:
    """Numbers of groups of equal values, in ascending order."""
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def _bin_starts(groups: Counts) -> Counts:
    """First row of each of up to ten bins of about equally many rows; `groups` ascend, and equal values stay together."""
    sizes = np.bincount(groups)
    below = np.cumsum(sizes) - sizes
    bins = (below * BINS // len(groups))[groups]
    return np.flatnonzero(np.diff(bins, prepend=-1))


def concordance(stated: Floats, true: Floats) -> float:
    """Lin's concordance correlation coefficient of two sequences (Biometrics 1989), in [-1, 1]; NaN for two constants.

    >>> concordance(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    1.0
    """
    covariance = np.mean((stated - stated.mean()) * (true - true.mean()))
    spread = stated.var() + true.var() + (stated.mean() - true.mean()) ** 2
    return float(2 * covariance / spread) if spread > 0 else float("nan")


def attribute_measures(
    stated: Floats,
    true: Floats,
    names: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
    groups: Sequence[str] = (),
) -> dict[str, Any]:
    """`ccc_<name>` of each attribute, with its interval and the number of rows that have it.

    Args:
        stated, true: (rows, A); NaN where there is no value.
        names: of the A attributes.
        draws, seed: of the bootstrap.
        groups: of every row; where rows share them, intervals are over the groups (`evaluation.stats`).
    """
    found: dict[str, Any] = {}
    for name, x, y in zip(names, stated.T, true.T, strict=True):
        known = ~(np.isnan(x) | np.isnan(y))
        if known.sum() > 1:
            x, y = x[known], y[known]
            shared = [group for group, kept in zip(groups, known, strict=True) if kept] if groups else []
            if draws and shared and are_clustered(shared):
                cluster = cluster_ids(shared)
                sizes = np.bincount(cluster)
                without = [concordance(x[cluster != one], y[cluster != one]) for one in range(len(sizes))]
                value = jackknife(concordance(x, y), without if len(sizes) > 1 else [float("nan")], sizes)
                found[f"ccc_{name}"] = {**value, "n": len(x)}
                continue
            rng = np.random.default_rng(seed)
            samples = (rng.integers(len(x), size=len(x)) for _ in range(draws))
            drawn = [concordance(x[rows], y[rows]) for rows in samples]
            found[f"ccc_{name}"] = {**percentiles(concordance(x, y), drawn), "n": len(x)}
    return found
