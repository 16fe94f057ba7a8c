"""What SHALA costs against what one would run instead, side by side on this machine.

Both sides of a comparison work in turns on the same rows, model, G and numeric type, three times after one turn to warm
up, each in a process of its own. Writes `results.json` and `README.md` beside this file, and pictures of how the cost grows.

    make bench                                           # all but training_1.5b, some 20 minutes on two cores
    python -m benchmarks.bench --only predict,features   # some of them; the other results stay
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import training_sides as training
from benchmarks import use_sides as use
from benchmarks.growth import draw_growth
from benchmarks.turns import DEVICE, DTYPE, Side, take_turns
from shala_audio.devices import usable_cores
from shala_audio.io import read_json, write_json, write_text

HERE = Path(__file__).parent
LARGE = "training_1.5b"  # fetches a model of 1.1 GB and takes 16 GB of memory
TRL = "stock TRL GRPO at its defaults, verbalized, 40 new tokens"
SLOTS, EXACT, PREDICT = "SHALA slots, training", "SHALA direct, training", "predict, label_token"
FEATURES, SCORING = "features of 2 to 4 s clips", "scoring, 100,000 rows, 1,000 draws"
AIMS = {SLOTS: 8, EXACT: 45, PREDICT: 10, FEATURES: 8, SCORING: 50}  # times as fast, on two cores


@dataclass(frozen=True)
class Comparison:
    """Some of our sides against one other, and the numeric type of both."""

    unit: str
    ours: Mapping[str, Side]
    other: str
    side: Side
    dtype: str = str(DTYPE).removeprefix("torch.")


COMPARISONS = {
    "training": Comparison(
        "prompts",
        {
            SLOTS: partial(training.train_ours, readout="slots"),
            EXACT: partial(training.train_ours, readout="label_token"),
        },
        TRL,
        training.stock_grpo,
    ),
    "training_kept": Comparison(
        "prompts",
        {
            f"{SLOTS}, 4 prompts": partial(training.train_ours, readout="slots", prompts=4),
            f"{EXACT}, 4 prompts": partial(training.train_ours, readout="label_token", prompts=4),
        },
        f"{TRL}, but activations kept",
        partial(training.stock_grpo, prompts=4, recompute=False),
    ),
    LARGE: Comparison(
        "prompts",
        {
            f"{SLOTS}, 1.5B, 2 prompts": partial(training.train_ours, readout="slots", prompts=2, settings="text_1.5b"),
            f"{EXACT}, 1.5B, 8 prompts": partial(
                training.train_ours, readout="label_token", prompts=8, settings="text_1.5b"
            ),
        },
        f"{TRL}, 1.5B, 2 prompts",
        partial(training.stock_grpo, prompts=2, settings="text_1.5b"),
    ),
    "predict": Comparison(
        "rows",
        {PREDICT: use.predict},
        "generate of the verbalized JSON, 40 new tokens",
        use.generate,
    ),
    "features": Comparison(
        "clips", {FEATURES: use.encode}, "one clip at a time, padded to 30 s", use.encode_padded, "float32"
    ),
    "scoring": Comparison(
        "rows",
        {SCORING: use.measure},
        "SciPy's jensenshannon row by row, SciPy and scikit-learn in every draw (10 measured, 1,000 reckoned)",
        use.measure_in_a_loop,
        "float64",
    ),
}


def matmul_peak() -> float:
    """Multiply-adds times two a second of a large matrix product, the best of twenty."""
    size = 2048 if DEVICE == "cpu" else 8192
    a = torch.randn(size, size, device=DEVICE).to(DTYPE)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # which waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def machine() -> str:
    """What computes, in words."""
    cores = f"{usable_cores()} cores ({platform.machine()})"
    return f"{torch.cuda.get_device_name()}, {cores}" if DEVICE == "cuda" else cores


def compare(comparison: Comparison, rounds: int, peak: float) -> list[dict[str, Any]]:
    """One record for each of our sides."""
    found = take_turns({**comparison.ours, comparison.other: comparison.side}, rounds)
    other = found[comparison.other]
    records = []
    for name in comparison.ours:
        ours = found[name]
        ratios = sorted(mine / theirs for mine, theirs in zip(ours.rates, other.rates, strict=True))
        record = {
            "work": name,
            "unit": f"{comparison.unit} a second",
            "ours": median(ours.rates),
            "other": median(other.rates),
            "other_is": comparison.other,
            "ratio": median(ratios),
            "low": ratios[0],
            "high": ratios[-1],
            "peak_mb_ours": ours.peak_mb,
            "peak_mb_other": other.peak_mb,
            "date": date.today().isoformat(),
            "machine": machine(),
            "dtype": comparison.dtype,
            "matmul_gflops": round(peak / 1e9),
        }
        if "flops_per_unit" in ours.extra:
            record["share_of_matmul_peak"] = ours.extra["flops_per_unit"] * median(ours.rates) / peak
        records.append(record)
    return records


def table(results: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    machines = sorted({f"{r['machine']} ({r['date']})" for r in results})
    peaks = [r["matmul_gflops"] for r in results]
    lines = [
        "# What it costs",
        "",
        f"Made by `make bench`, rows of 1.5B by `python -m benchmarks.bench --only {LARGE}`, on {'; '.join(machines)}.",
        f"Large matrix products ran at {min(peaks)} to {max(peaks)} GFLOP/s.",
        "Both sides of a row worked in turns in one run on the same made-up rows, model, G = 8 and numeric type; the ratio",
        "is the median of the turns, from the lowest to the highest. Peak memory is that of each side's process, with its",
        "models and libraries (on a GPU: that of the GPU). The *aim* is the ratio that we set out for.",
        "",
        "| work | type | ours | the other | what the other is | ratio | aim | peak MB, ours / the other | share of the matmul peak |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        share = f"{r['share_of_matmul_peak']:.0%}" if "share_of_matmul_peak" in r else "–"
        lines.append(
            f"| {r['work']} | {r['dtype']} | {r['ours']:.3g} {r['unit']} | {r['other']:.3g} | {r['other_is']} | {r['ratio']:.1f} "
            f"({r['low']:.1f} to {r['high']:.1f}) | {AIMS.get(r['work'], '–')} | {r['peak_mb_ours']:,.0f} / "
            f"{r['peak_mb_other']:,.0f} = {r['peak_mb_ours'] / r['peak_mb_other']:.2f} | {share} |"
        )
    return "\n".join(lines) + "\n\n" + (HERE / "notes.md").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"some of {', '.join([*COMPARISONS, 'growth'])}, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else [*(name for name in COMPARISONS if name != LARGE), "growth"]
    if unknown := [name for name in wanted if name not in (*COMPARISONS, "growth")]:
        parser.error(f"--only: no {unknown[0]}")
    kind = "" if DEVICE == "cpu" else f"_{DEVICE}"  # so that each kind of machine keeps its own table
    path = HERE / f"results{kind}.json"
    results = {record["work"]: record for record in read_json(path)} if path.is_file() else {}
    for name in wanted:
        if name in COMPARISONS:
            peak = matmul_peak()  # anew, because machines that are shared change their pace
            print(f"{name}; matrix products: {peak / 1e9:.0f} GFLOP/s")
            for record in compare(COMPARISONS[name], given.rounds, peak):
                results[record["work"]] = record
            keep(results, path, HERE / f"README{kind}.md")
    if "growth" in wanted:
        draw_growth(HERE.parent / "docs" / "images")


def keep(results: dict[str, dict[str, Any]], path: Path, readme: Path) -> None:
    """Write what has been measured so far."""
    order = [work for comparison in COMPARISONS.values() for work in comparison.ours if work in results]
    write_json(path, [results[work] for work in order])
    write_text(readme, table([results[work] for work in order]))


if __name__ == "__main__":
    main()
