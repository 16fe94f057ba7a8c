"""Distributions over labels and the arithmetic on them. No torch.

Every function takes arrays whose last axis runs over the K labels, normalised to sum 1, and returns one value for each
distribution. Logarithms of 0 never appear: 0 · log 0 counts as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# jsd_nats = sqrt(ln 2) * jsd: the same root of the same divergence, in nats instead of bits.
NATS_PER_BIT_ROOT = float(np.sqrt(np.log(2.0)))
# A prediction below this counts as this before its logarithm is taken (kl, calibration), so that one zero is not infinite.
FLOOR = 1e-6


def entropy(p: ArrayLike) -> Floats:
    """Shannon entropy in bits, shape (..., K) to (...), in [0, log2 K].

    >>> float(entropy([0.5, 0.5]))
    1.0
    """
    p = np.asarray(p, dtype=np.float64)
    return np.sum(p * -np.log2(np.where(p > 0, p, 1.0)), axis=-1) + 0.0  # 0, and not -0, where all agree


def normalized_entropy(p: ArrayLike) -> Floats:
    """Entropy divided by log2 K: 0 where all agree, 1 where every label is chosen equally often; 0 for K = 1."""
    p = np.asarray(p, dtype=np.float64)
    return entropy(p) / np.log2(p.shape[-1]) if p.shape[-1] > 1 else np.zeros(p.shape[:-1])


def kl(p: ArrayLike, q: ArrayLike) -> Floats:
    """Kullback-Leibler divergence KL(p || q) in nats, in [0, inf]; infinite where q is 0 and p is not."""
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    chosen = p > 0
    with np.errstate(divide="ignore"):
        terms = p * (np.log(np.where(chosen, p, 1.0)) - np.log(np.where(chosen, q, 1.0)))
    return np.maximum(np.sum(terms, axis=-1), 0.0)


def jsd(p: ArrayLike, q: ArrayLike) -> Floats:
    """Jensen-Shannon distance with base 2: the root of the divergence in bits, in [0, 1] (DOI 10.1109/18.61115).

    >>> float(jsd([1.0, 0.0], [0.0, 1.0]))
    1.0
    """
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    middle = (p + q) / 2
    divergence = (kl(p, middle) + kl(q, middle)) / 2 / np.log(2.0)
    return np.sqrt(np.clip(divergence, 0.0, 1.0))


def jsd_nats(p: ArrayLike, q: ArrayLike) -> Floats:
    """The same distance with the natural logarithm, in [0, 0.8326]: what ChaosNLI (arXiv 2010.03532) calls "JSD"."""
    return NATS_PER_BIT_ROOT * jsd(p, q)


def total_variation(p: ArrayLike, q: ArrayLike) -> Floats:
    """Half the sum of absolute differences, in [0, 1]."""
    return np.abs(np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64)).sum(axis=-1) / 2


def wasserstein(p: ArrayLike, q: ArrayLike) -> Floats:
    """Wasserstein distance of order 1 between distributions over labels in an order, one step apart, in [0, K - 1].

    >>> float(wasserstein([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]))
    2.0
    """
    gap = np.cumsum(np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64), axis=-1)
    return np.abs(gap[..., :-1]).sum(axis=-1)


def lewidi_cross_entropy(p: ArrayLike, q: ArrayLike) -> Floats:
    """Cross-entropy in nats as LeWiDi's organisers compute it (SemEval-2023 task 11): q is clipped to [1e-12, 1 - 1e-12], and
    1e-9 added before the logarithm."""
    clipped = np.clip(np.asarray(q, dtype=np.float64), 1e-12, 1 - 1e-12)
    return -(np.asarray(p, dtype=np.float64) * np.log(clipped + 1e-9)).sum(axis=-1)


def bhattacharyya(p: ArrayLike, q: ArrayLike) -> Floats:
    """Bhattacharyya coefficient, the sum of sqrt(p q), in [0, 1]; 1 where p = q."""
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    return np.minimum(np.sqrt(p * q).sum(axis=-1), 1.0)


@dataclass(frozen=True, eq=False)
class LabelDistribution(Mapping[str, float]):
    """How human judgement is spread over labels: a read-only mapping from label to probability.

    `attributes` holds numbers beside it, such as arousal, where a model states them. Where the labels are `ordered`, as the points
    of a scale are, they are shown in their order, else the likeliest first.

    >>> d = LabelDistribution(("anger", "fear"), np.array([0.75, 0.25]))
    >>> d["anger"], d.top, d.contested
    (0.75, 'anger', False)
    >>> d.to_dict()
    {'anger': 0.75, 'fear': 0.25}
    """

    labels: tuple[str, ...]
    probs: Floats
    attributes: Mapping[str, float] = field(default_factory=dict)
    ordered: bool = False

    def __post_init__(self) -> None:
        if self.probs.shape != (len(self.labels),):
            raise ValueError(f"{len(self.labels)} labels but probabilities of shape {self.probs.shape}")
        if not np.isclose(self.probs.sum(), 1.0, atol=1e-4) or (self.probs < 0).any():
            raise ValueError(f"not a distribution: {self.probs}")

    def __getitem__(self, label: str) -> float:
        try:
            return float(self.probs[self.labels.index(label)])
        except ValueError:
            raise KeyError(f"{label}: not one of {', '.join(self.labels)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_rows(cls, labels: Sequence[str], probs: Floats) -> list[LabelDistribution]:
        """One distribution for each row of (rows, K) probabilities, which are normalised."""
        return [cls(tuple(labels), p / p.sum()) for p in probs]

    @property
    def top(self) -> str:
        """The most likely label; the first of them in the task's order where several are equal."""
        return self.labels[int(self.probs.argmax())]

    @property
    def entropy(self) -> float:
        """Entropy in bits."""
        return float(entropy(self.probs))

    @property
    def contested(self) -> bool:
        """Whether no label holds more than half of the judgement."""
        return bool(self.probs.max() <= 0.5)

    def jsd(self, other: LabelDistribution) -> float:
        """Jensen-Shannon distance (base 2) to a distribution over the same labels."""
        if other.labels != self.labels:
            raise ValueError(f"different labels: {self.labels} and {other.labels}")
        return float(jsd(self.probs, other.probs))

    def to_dict(self) -> dict[str, float]:
        """Labels and probabilities, in the task's order."""
        return dict(zip(self.labels, map(float, self.probs), strict=True))

    def to_record(self) -> dict[str, Any]:
        """What a file of predictions holds: `probs`, `entropy` in bits, and `attributes` where there are any."""
        record = {"probs": self.to_dict(), "entropy": self.entropy}
        return {**record, "attributes": dict(self.attributes)} if self.attributes else record

    def plot(self, other: LabelDistribution | None = None, axes: Any = None) -> Any:
        """Bars of the probabilities, beside those of another distribution such as the raters'.

        Args:
            other: drawn as outlines.
            axes: of matplotlib, to draw in; made anew where None.

        Returns:
            The axes.
        """
        import matplotlib.pyplot as plt

        if other is not None and other.labels != self.labels:
            raise ValueError(f"different labels: {self.labels} and {other.labels}")
        if axes is None:
            _, axes = plt.subplots(figsize=(4.5, 0.6 + 0.3 * len(self)), layout="constrained")
        axes.barh(self.labels, self.probs, color="tab:cyan")
        if other is not None:
            axes.barh(self.labels, other.probs, facecolor="none", edgecolor="black")
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of people")
        axes.set_title(f"entropy {self.entropy:.2f} bits", fontsize="small")
        return axes

    def _in_short(self) -> str:
        return f"entropy {self.entropy:.2f} bits, {'contested' if self.contested else 'not contested'}"

    def _repr_html_(self) -> str:
        """Bars for a notebook."""
        return _html_bars(self._shown(), self.attributes, self._in_short())

    def __rich__(self) -> Any:
        return _rich_bars(self._shown(), self.attributes, self._in_short())

    def _shown(self) -> list[tuple[str, float]]:
        return list(self.items()) if self.ordered else _likeliest_first(self)


@dataclass(frozen=True, eq=False)
class LabelRates(Mapping[str, float]):
    """What share of people would choose each label, where one may choose several: each from 0 to 1, and no sum.

    >>> rates = LabelRates({"joy": 0.75, "love": 0.5})
    >>> rates["joy"], rates.to_record()
    (0.75, {'rates': {'joy': 0.75, 'love': 0.5}})
    """

    of_labels: Mapping[str, float]

    def __getitem__(self, label: str) -> float:
        return self.of_labels[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self.of_labels)

    def __len__(self) -> int:
        return len(self.of_labels)

    def to_record(self) -> dict[str, Any]:
        """What a file of predictions holds: `rates`."""
        return {"rates": dict(self)}

    def _repr_html_(self) -> str:
        """Bars for a notebook."""
        return _html_bars(_likeliest_first(self), {}, MAY_CHOOSE_SEVERAL)

    def __rich__(self) -> Any:
        return _rich_bars(_likeliest_first(self), {}, MAY_CHOOSE_SEVERAL)


MAY_CHOOSE_SEVERAL = "share of people who would choose it; one may choose several"


def _likeliest_first(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda item: -item[1])


def _html_bars(shares: Sequence[tuple[str, float]], attributes: Mapping[str, float], remark: str) -> str:
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(label)}</td><td>{p:.1%}</td><td style='text-align:left;width:20em'>"
        f"<div style='background:#17becf;height:0.9em;width:{100 * p:.1f}%'></div></td></tr>"
        for label, p in shares
    )
    rows += "".join(
        f"<tr><td style='text-align:left'>{escape(name)}</td><td>{value:.2f}</td><td></td></tr>"
        for name, value in attributes.items()
    )
    return f"<table>{rows}</table><small>{remark}</small>"


def _rich_bars(shares: Sequence[tuple[str, float]], attributes: Mapping[str, float], remark: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for label, p in shares:
        eighths = round(p * 40 * 8)
        bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        table.add_row(Text(label), f"{p:6.1%}", f"[cyan]{bar}[/cyan]")  # [laughs] is a label, and no markup
    for name, value in attributes.items():
        table.add_row(Text(name), f"{value:6.2f}")
    table.add_row("", "", f"[dim]{remark}[/dim]")
    return table
