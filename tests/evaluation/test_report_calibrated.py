from __future__ import annotations

import pytest

from shala_audio.evaluation.report import apart, calibrated_section
from shala_audio.evaluation.runs import Run, System, find_runs, gather, table_rows
from shala_audio.io import write_json
from tests.evaluation.test_report import distances

JSD = {"value": 0.3, "low": 0.2, "high": 0.4}


def system(tmp_path, method: str, seeds: range, kind: str = "", temperature: float = 0.5) -> System:
    runs = []
    for seed in seeds:
        rows = distances(seed + 10 * len(method))
        folder = tmp_path / f"seed{seed}" / method
        if kind:
            fitted = {"weight": [[1 / (temperature + seed / 10), 0], [0, 1]], "rows": 40}
            write_json(folder / f"calibration_{kind}.json", fitted)
        known = {"jsd": rows, "group": {key: key for key in rows}}
        name = method + (f" + {kind}" if kind else "")
        runs.append(Run(name, folder, {"n": 80, "ties": 0, "jsd": JSD}, {"seed": seed}, kind, known))
    return System(runs[0].system, runs)


def test_they_are_compared_among_themselves(tmp_path):
    plain = [system(tmp_path, name, range(2)) for name in ("linear", "shala")]
    fitted = [system(tmp_path, name, range(2), "temperature_jsd") for name in ("linear", "shala")]
    other = system(tmp_path, "shala", range(2), "temperature")
    rest, scaled = apart([plain[0], fitted[0], plain[1], fitted[1], other])
    assert rest == [*plain, other] and scaled == fitted
    text = "\n".join(calibrated_section(plain[1], rest, scaled))
    assert "| linear + temperature_jsd | 80 | 0.50 to 0.60 | 40 |" in text
    tests = text.split("| shala + temperature_jsd against |")[1]
    assert "| linear + temperature_jsd |" in tests and "| linear |" not in tests and "temperature |" not in tests
    assert "Without such a temperature" not in text


@pytest.mark.parametrize("there", [range(1), range(0)])
def test_what_is_not_scaled_or_not_in_every_seed_is_named(tmp_path, there):
    plain = [system(tmp_path, name, range(2)) for name in ("linear", "shala")]
    fitted = [system(tmp_path, "shala", range(2), "temperature_jsd")]
    fitted += [system(tmp_path, "linear", there, "temperature_jsd")] if there else []
    text = "\n".join(calibrated_section(plain[1], plain, fitted))
    assert "not in all runs: linear." in text and ("against" in text) == bool(there)


def test_where_nothing_else_is_there_they_are_the_systems(tmp_path):
    fitted = [system(tmp_path, "shala", range(1), "temperature_jsd")]
    assert apart(fitted) == (fitted, []) and calibrated_section(fitted[0], fitted, []) == []


def test_the_temperatures_of_folds_are_on_record(tmp_path):
    plain, pooled = system(tmp_path, "shala", range(1)), system(tmp_path, "shala", range(1), "temperature_jsd")
    pooled.runs[0].training["temperatures"] = [[0.71, 15], [0.9, 16]]  # type: ignore[index]
    assert "| 0.71 to 0.90 | 15 to 16 |" in "\n".join(calibrated_section(plain, [plain], [pooled]))


def test_a_temperature_at_the_edge_of_its_search_is_flagged(tmp_path):
    """GoEmotions' was .02, and its nearly one-hot answers stood in the table like any others."""
    plain = system(tmp_path, "shala", range(1))
    for temperature, flagged in ((0.0202, True), (0.5, False)):
        fitted = system(tmp_path, "shala", range(1), "temperature_jsd", temperature)
        text = "\n".join(calibrated_section(plain, [plain], [fitted]))
        assert ("(edge) |" in text) == flagged and ("nearly one-hot" in text) == flagged
        write_json(fitted.runs[0].folder / "score_temperature_jsd.json", {"n": 80, "jsd": JSD})
        (found,) = find_runs([fitted.runs[0].folder / "score_temperature_jsd.json"])
        ((name, _),) = [row for row in table_rows(gather([found])) if "temperature_jsd" in row[0]]
        assert name.endswith("+ temperature_jsd (edge)") == flagged
        assert found.system.endswith("+ temperature_jsd"), "its seeds stay one system, whatever T each has"
