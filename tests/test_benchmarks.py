from __future__ import annotations

import time

import pytest

from benchmarks import bench
from benchmarks.turns import Turns, take_turns


def quick(turns: Turns) -> None:
    while turns.wait():
        time.sleep(0.1)
        turns.done(8, flops_per_unit=1e6)


def slow(turns: Turns) -> None:
    while turns.wait():
        time.sleep(1.0)
        turns.done(8)


def broken(turns: Turns) -> None:
    turns.wait()


def test_a_comparison_gives_records_and_a_table():
    comparison = bench.Comparison("prompts", {bench.EXACT: quick}, "a slower one", slow)
    [record] = bench.compare(comparison, rounds=2, peak=1e9)
    assert {"work", "ours", "rival", "ratio", "low", "high", "peak_mb_ours", "peak_mb_rival"} <= record.keys()
    assert 3 < record["low"] <= record["ratio"] <= record["high"] < 12
    assert record["share_of_matmul_peak"] == pytest.approx(1e6 * record["ours"] / 1e9)
    assert record["peak_mb_ours"] > 50
    text = bench.table([record])
    assert "| SHALA exact, training |" in text and "a slower one" in text and record["date"] in text


def test_a_side_that_ends_is_named(capfd):
    with pytest.raises(SystemExit, match="broken: the process ended"):
        take_turns({"broken": broken}, 1)
