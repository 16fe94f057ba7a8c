"""The README names only commands, files and options that exist."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from typer.main import get_command

from shala_audio.cli.main import app

ROOT = Path(__file__).parents[1]
TEXTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").glob("*/README.md")),
]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_commands_and_files_exist(path):
    text = path.read_text()
    assert not re.search(r"\b[A-Z]+_TABLE\b", text), "a place that was never filled"
    known = get_command(app).commands  # type: ignore[attr-defined]
    for name, second in re.findall(r"(?:^    |`)shala-audio ([a-z]+)(?: ([a-z]+))?", text):
        assert name in known
        assert not hasattr(known[name], "commands") or second in known[name].commands, f"{name} {second}"
    for name in re.findall(r"\b((?:recipes|configs|shala_audio|tests)/[\w./]*\w)", text):
        # Not what a run makes, nor the recipe that an example makes, nor a page that is made of a recipe's README.
        if not re.search(r"^recipes/(\w+/(exp|features|data/seed\w*)(/|$)|lab/|\w+\.md$)", name):
            assert (ROOT / name).exists(), name
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^    make ([a-z]+)", text, re.MULTILINE)) <= targets


LONGEST = 30  # words


@pytest.mark.parametrize(
    "path", [*TEXTS, ROOT / "scripts" / "default_card.md"], ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_no_sentence_is_long(path):
    """What a colon or a semicolon parts counts as two."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("|", "    ", "#")))
    for paragraph in re.split(r"\n\n|\n(?=- |\d+\. )", text):
        plain = " ".join(re.sub(r"\]\([^)]*\)", "]", paragraph).split())
        for sentence in re.split(r"(?<=[.!?:;])\s+(?=[A-Z`*\[(\d])|(?<=[:;])\s", plain):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            assert len(words) <= LONGEST, f"{len(words)} words: {sentence}"


def test_every_recipe_has_its_parts():
    for recipe in sorted((ROOT / "recipes").iterdir()):
        if recipe.name != "TEMPLATE":
            for name in ("run.sh", "path.sh", "cmd.sh", "README.md", "conf/warm_start.yaml", "conf/shala.yaml"):
                assert (recipe / name).is_file(), recipe / name


def test_the_product_names_no_machine():
    """No path or host of the machine it was built on."""
    for path in [*TEXTS, ROOT / "constraints.txt", ROOT / "scripts" / "setup.sh", ROOT / "Makefile"]:
        assert not re.search(r"/work/|/opt/|file://", path.read_text()), path


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "recipes/chaosnli/README.md"])
def test_the_results_are_those_of_the_tables(page):
    """Every number of a page's table of results, by its row's link and its column's system."""
    systems = {
        "constant prior": "constant prior",
        "zero-shot": "zero_shot (label_token)",
        "linear classifier": "linear",
        "soft-label SFT": "sft_soft (label_token)",
        "hard labels": "sft_hard (label_token)",
        "soft labels": "sft_soft (label_token)",
        "SHALA": "shala (label_token)",
        "linear, with T": "linear + temperature_jsd",
        "soft-label SFT, with T": "sft_soft (label_token) + temperature_jsd",
        "SHALA, with T": "shala (label_token) + temperature_jsd",
        "human bound": "human agreement bound: ",
    }
    whole = (ROOT / page).read_text()
    text = whole.partition("## What it reaches")[2] or whole.partition("## Results")[2] or whole
    text = text.split("\n## ")[0]
    heads, _, *lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    known = [head for head in heads if head in systems]
    assert len(lines) >= 5 and len(known) >= 5
    for first, *cells in lines:
        table = (ROOT / page).parent / re.search(r"\(([\w./]+)\.md\)", first)[1]
        with open(f"{table}.csv") as file:
            found = {row["system"]: float(row["value"]) for row in csv.DictReader(file) if row["measure"] == "jsd"}
        for head, cell in zip(known, cells[-len(known) :], strict=True):
            wanted = [f"{value:.3f}"[1:] for name, value in found.items() if name.startswith(systems[head])]
            assert cell == (wanted[0] if wanted else "–"), f"{first}: {head}"
