"""The parser of free answers against what a model, or somebody who writes its prompt, may come up with."""

from __future__ import annotations

import json
import math
import random
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.manifest import Row, write_manifest
from shala_audio.models.readouts import verbalized
from shala_audio.models.readouts.verbalized import LONGEST_ANSWER, parse_answer
from tests.tiny import tiny_model

PAIR = verbalized._PAIR
LABELS = ["anger", "anger management", "sad", "sadness", "ärger", "a"]  # some contain others
PARTS = [
    "{", "}", "[", "]", ":", ",", '"', "\\", "\n", " ", "%", "-", "+", ".", "0", "7", "30", "100", "1e400", "-5", "1e2",
    "0x10", "NaN", "Infinity", "null", "true", "٣٠", "３０", "½", "\u202e", "\x00", "é", "{}", '{"anger": ', '"anger": 30',
    '"sad": 70', "anger", "sad",
    *(f'"{label}": {n}' for label in LABELS for n in ("10", "50%", "12.5", "1000", "-1", '"40"')),
]  # fmt: skip


def strict(answer: str) -> dict[str, float] | None:
    """What the answer states, by Python's JSON and plain checks: an independent judge of what is accepted."""

    def once(pairs):
        found = {name.strip(): float(n) if isinstance(n, str) and n.strip().isascii() else n for name, n in pairs}
        if len(found) < len(pairs):
            raise ValueError("a name twice")
        return found

    # Beyond JSON, a number may begin with 0, as the two digits of `slots` do, be followed by a per cent sign, and stand in quotes;
    # a name may have space around it.
    plain = re.sub(r"(?<=[:\s])0+(?=\d)", "", answer.strip().replace("%", ""))
    try:
        found = json.loads(plain, strict=False, object_pairs_hook=once, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not set(found) <= set(LABELS):
        return None
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 <= v < math.inf for v in found.values()):
        return None
    return found if sum(found.values()) > 0 else None


def made(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return "".join(rng.choices(PARTS, k=rng.randint(0, 12)))
    if kind < 0.8:  # nearly right
        pairs = [f'"{label}": {rng.randint(0, 100)}' for label in rng.sample(LABELS, rng.randint(1, len(LABELS)))]
        text = "{" + ", ".join(pairs) + "}"
        for _ in range(rng.randint(0, 2)):
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(PARTS) + text[at + rng.randint(0, 2) :]
        return text
    if kind < 0.95:
        return "".join(map(chr, rng.choices(range(32, 1500), k=rng.randint(0, 60))))
    return rng.choice(PARTS) * rng.randint(1, 400)


def test_a_hundred_thousand_answers():
    rng = random.Random(0)
    accepted = 0
    for _ in range(100_000):
        answer = made(rng)
        found = parse_answer(answer, LABELS)  # never raises
        if found is None:
            continue
        accepted += 1
        assert found.shape == (len(LABELS),) and (found >= 0).all() and abs(found.sum() - 1) < 1e-9
        judged = strict(answer)
        assert judged is not None, answer
        np.testing.assert_allclose(found * sum(judged.values()), [judged.get(label, 0) for label in LABELS], atol=1e-6)
    assert 1_000 < accepted < 60_000, "both kinds were tried"


@pytest.mark.parametrize(
    "answer",
    [
        '{"anger": 30, "anger": 70}',
        '{"anger": -30, "sad": 70}',
        '{"anger": 1e400}',
        '{"anger": NaN}',
        '{"anger": Infinity}',
        '{"anger": 0, "sad": 0}',
        '{"anger": ٣٠}',
        '{"anger": ３０}',
        '{"anger": {"sad": 30}}',
        '[{"anger": 30}]',
        '{"anger": "30}',
        '{"anger": "thirty"}',
        '{"anger": "30", " anger": "70"}',
        '{"ang": 30}',
        '{"anger": 30} and more',
        '{"anger": 30}{"sad": 70}',
        '{"anger": 30',
        '{"anger": 30,}',
        '{"anger": true}',
        '{"anger": 1000}',
        '{"__proto__": 30}',
        "",
        "{}",
    ],
)
def test_what_must_not_be_accepted(answer):
    assert parse_answer(answer, LABELS) is None


def test_labels_that_contain_labels_are_told_apart():
    found = parse_answer('{"anger management": 25%, "anger": 75 %}', LABELS)
    assert dict(zip(LABELS, found, strict=True)) == pytest.approx(
        {"anger": 0.75, "anger management": 0.25, "sad": 0, "sadness": 0, "ärger": 0, "a": 0}
    )


@pytest.mark.parametrize(
    "part", ["{", '{"anger": ', '{"anger": 3, ', " ", "9", '"', "{}", '{"anger": 3' + "0" * 50, "\\", '{"a": 1}']
)
def test_longer_answers_are_not_looked_at(part, monkeypatch):
    """And of those that are, no character is looked at more often than a few times: the pairs are matched from left to right."""
    read = []

    class Pair:
        def match(self, text, position):
            read.append(position)
            return PAIR.match(text, position)

    monkeypatch.setattr(verbalized, "_PAIR", Pair())
    assert parse_answer((part * (1_000_000 // len(part) + 1))[:1_000_000], LABELS) is None and not read
    assert parse_answer((part * (LONGEST_ANSWER // len(part) + 1))[:LONGEST_ANSWER], LABELS) is None
    assert read == sorted(set(read)) and len(read) <= len(LABELS) + 1, "each position once, and a label once"


def test_what_is_refused_is_counted(tiny_lm, tmp_path):
    """A random model's answers are no distributions: each counts, is uniform in the result, and is said at the end."""
    tiny_model(tiny_lm, readout="verbalized").save_pretrained(tmp_path / "model")
    rows = [Row(f"r{n}", "tiny_text", "test", text={"comment": "so " * n}) for n in range(1, 6)]
    write_manifest(tmp_path / "m.jsonl", rows)
    out = tmp_path / "p.jsonl"
    command = ["predict", str(tmp_path / "model"), str(tmp_path / "m.jsonl"), "--format", "jsonl", "--out", str(out)]
    said = CliRunner().invoke(app, command, catch_exceptions=False)
    found = [json.loads(line)["probs"] for line in out.read_text().splitlines()]
    uniform = sum(len(set(probs.values())) == 1 for probs in found)
    assert uniform == 5 and "5 answers did not parse and count as uniform" in said.output
