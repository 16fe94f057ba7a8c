"""Every result (.361) of README, documents and recipes' pages stands in an artefact that the same paragraph, or its section, links.

A number that is nowhere fails. That it is the right one of its table, `test_readme` checks of the tables of results.
"""

from __future__ import annotations

import re
from functools import cache
from math import comb
from pathlib import Path

import numpy as np
import pytest

from shala_audio.distribution import jsd
from tests.training.test_ambiguity import bias_of_five_raters

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "recipes").glob("*/README.md"))]
RESULT = re.compile(r"(?<![\w.])\.\d{2,3}\b")  # as results are written: .361
LEVELS = {".05"}  # of tests


@cache
def numbers(artefact: Path) -> set[str]:
    """Decimals of a file, rounded to two and to three places, without their sign: of a table of results what is measured over
    all rows, and of its report the prose and the tests."""
    lines = artefact.read_text().splitlines()
    if artefact.suffix == ".csv" and lines[0].startswith("system,"):
        lines = [line for line in lines if "_tercile," not in line]
    if artefact.name.startswith("RESULTS") and artefact.suffix == ".md":
        lines = [line for line in lines if not line.startswith("|") or re.search(r"\| [+-]0\.\d+ \[", line)]
    found = [float(text) for line in lines for text in re.findall(r"(?<!\w)\d*\.\d+(?:e-?\d+)?", line)]
    return {f"{value:.{places}f}".removeprefix("0") for value in found for places in (2, 3)}


def linked(page: Path, text: str) -> set[str]:
    """Numbers of all that a text links: tables with what lies beside them, CSV and JSON."""
    found: set[str] = set()
    for link in re.findall(r"\]\(([^)#]+)", text):
        target = page.parent / link
        for file in (target, target.with_suffix(".csv")):
            if file.is_file() and file.suffix in (".csv", ".json", ".md"):
                found |= numbers(file)
    return found


def worked_examples() -> set[str]:
    """Numbers that documents compute: how far three votes are from a share, and how low the entropy of five votes is."""
    votes = np.array([[k / 3, 1 - k / 3] for k in range(4)])
    chance = np.array([comb(3, k) * 0.6**k * 0.4 ** (3 - k) for k in range(4)])
    found = [float(chance @ jsd(votes, np.array([share, 1 - share]))) for share in (0.6, 0.65)]
    for truth in ([0.4, 0.3, 0.2, 0.1], [0.85, 0.05, 0.05, 0.05]):
        found += map(abs, bias_of_five_raters(truth))
    shares = {".65", ".35", ".85", ".05"}
    return shares | {f"{value:.{places}f}".removeprefix("0") for value in found for places in (2, 3)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_number_has_an_artefact(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    computed = worked_examples() | LEVELS
    without = []
    for section in re.split(r"\n(?=#+ )", text):
        for paragraph in section.split("\n\n"):
            claims = set(RESULT.findall(paragraph)) - computed
            if claims and (missing := sorted(claims - (linked(page, paragraph) or linked(page, section)))):
                without.append(f"{', '.join(missing)}: {paragraph[:60]!r}")
    assert not without, "\n".join(without)
