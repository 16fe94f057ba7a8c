from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.corpora.raters import FIELD, by_rater, mean_over_raters, with_rater
from shala_audio.errors import UserError
from shala_audio.evaluation.predictions import read_predictions
from shala_audio.manifest import Row, read_manifest, write_manifest
from shala_audio.task import Label, Task, load_task

TASK = Task(
    "stars", "text", tuple(Label(str(n), str(n)) for n in range(5)), "{{ text.text }}: stars?", "Stars:", ordered=True
)


def rows(raters: int = 3, items: int = 8) -> list[Row]:
    """Rater r gives item i (i + r) % 5 stars; the last rater chose two labels."""
    made = []
    for item in range(items):
        chosen = {f"R{rater}": [str((item + rater) % 5)] for rater in range(raters)}
        chosen[f"R{raters - 1}"] += [str((item + raters) % 5)]
        split = ("train", "train", "dev", "test")[item % 4]
        votes = {label: 1.0 for labels in chosen.values() for label in labels}
        made.append(Row(f"i{item}", "stars", split, None, None, {"text": f"film {item}"}, votes, {"raters": chosen}))
    return made


def test_a_rater_is_shown_by_other_answers_from_train():
    found = by_rater(rows(), TASK, examples=2)
    assert [row.id for row in found[:3]] == ["i0|R0", "i0|R1", "i0|R2"]
    assert found[0].votes == {"0": 1.0} and found[2].votes == {"2": 0.5, "3": 0.5}
    for row in found:
        before, rater = row.text[FIELD], row.extra["rater"]
        assert f"{row.text['text']}:" not in before, "a row's own answer is not given away"
        shown = [line for line in before.splitlines() if ": stars?" in line]
        assert len(shown) == 2
        for line in shown:
            item = int(line.split(":")[0].removeprefix("film "))
            assert item % 4 < 2, "answers of dev and test are not shown"
            assert line.endswith(f"stars? {(item + int(rater[1])) % 5}") or rater == "R2"
    asked = with_rater(TASK)
    assert asked.question(found[0].text).startswith("One reader answered:\n\nfilm ")
    assert asked.question(found[0].text).endswith("The same reader answers:\n\nfilm 0: stars?")


def test_the_draw_depends_on_the_row_and_the_rater_alone():
    whole = {row.id: row.text[FIELD] for row in by_rater(rows(), TASK, 1)}
    train_first = {row.id: row.text[FIELD] for row in by_rater([row for row in rows() if row.split != "test"], TASK, 1)}
    assert all(whole[identity] == text for identity, text in train_first.items())
    assert whole != {row.id: row.text[FIELD] for row in by_rater(rows(), TASK, 1, seed=1)}


@given(st.integers(2, 6), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_means_and_errors_are_those_of_the_definition(raters, items, seed):
    made = by_rater(rows(raters, items), TASK)
    probs = np.random.default_rng(seed).dirichlet(np.ones(5), len(made))
    names, means, scores = mean_over_raters(made, probs, TASK)
    assert names == [f"i{item}" for item in range(items)]
    wrong, far = [], []
    for item, name in enumerate(names):
        mine = [n for n, row in enumerate(made) if row.id.startswith(f"{name}|")]
        np.testing.assert_allclose(means[item], sum(probs[n] for n in mine) / len(mine))
        stars = [[int(label) for label in made[n].votes] for n in mine]
        said = [int(np.argmax(probs[n])) for n in mine]
        bits = [
            ([n == one for n in range(5)], [n in two for n in range(5)]) for one, two in zip(said, stars, strict=True)
        ]
        wrong.append(np.mean([np.not_equal(*pair).mean() for pair in bits]))  # the last rater chose two labels
        far.append(sum(abs(one - sum(two) / len(two)) / 5 for one, two in zip(said, stars, strict=True)) / len(mine))
    assert scores.error_rate == pytest.approx(sum(wrong) / items) and scores.distance == pytest.approx(sum(far) / items)
    assert set(scores.accuracy) == {f"R{rater}" for rater in range(raters)}


def test_from_a_manifest_and_back(tmp_path):
    names = load_task("hs_brexit").label_names
    made = [
        Row(f"r{n}", "hs_brexit", ("train", "dev", "test")[n % 3], None, None, {"text": f"tweet {n}"}, {names[0]: 2, names[1]: 1},
            {"raters": {"A": [names[0]], "B": [names[0]], "C": [names[1]]}})
        for n in range(9)
    ]  # fmt: skip
    write_manifest(tmp_path / "manifest.jsonl", made)

    def run(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)

    said = run("data", "raters", tmp_path / "manifest.jsonl", "--out", tmp_path / "raters")
    assert "27 answers of 3 raters to 9 rows" in said.output
    found = read_manifest(tmp_path / "raters" / "manifest.jsonl")
    asked = load_task(str(tmp_path / "raters" / "task.yaml"))
    assert all(asked.question(row.text) for row in found)
    lines = [
        f'{{"id": "{row.id}", "probs": {{"{names[0]}": 0.75, "{names[1]}": 0.25}}}}'
        for row in found
        if row.split == "test"
    ]
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    shown = run(
        "evaluate",
        "raters",
        tmp_path / "said.jsonl",
        tmp_path / "raters" / "manifest.jsonl",
        "--out",
        tmp_path / "whole.jsonl",
    )
    assert "error rate 0.3333" in shown.output and "C  0.000" in shown.output and "distance" not in shown.output
    (tmp_path / "part.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(UserError, match=r"part.jsonl: has no row r2\|A, but others of the same item"):
        run(
            "evaluate",
            "raters",
            tmp_path / "part.jsonl",
            tmp_path / "raters" / "manifest.jsonl",
            "--out",
            tmp_path / "w",
        )
    identities, probs = read_predictions(tmp_path / "whole.jsonl", names)
    assert identities == ["r2", "r5", "r8"] and probs[0].tolist() == [0.75, 0.25]
    scored = run("evaluate", "score", tmp_path / "whole.jsonl", tmp_path / "manifest.jsonl")
    assert "cross_entropy" in scored.output
    with pytest.raises(UserError, match="row r0: is of no single rater"):
        (tmp_path / "said.jsonl").write_text(lines[0].replace("r2|A", "r0"))
        run(
            "evaluate",
            "raters",
            tmp_path / "said.jsonl",
            tmp_path / "manifest.jsonl",
            "--out",
            tmp_path / "whole.jsonl",
        )


@pytest.mark.parametrize(
    ("raters", "words"),
    [
        ({"A": ["9"]}, "row a: '9' is no label"),
        ([["A", "1"]], "row a: `raters` must be an object"),
        ({"A": []}, "row a: rater A chose no label"),
    ],
)
def test_raters_in_another_form_are_named(raters, words):
    with pytest.raises(UserError, match=words):
        by_rater([Row("a", "stars", "train", None, None, {"text": "b"}, {"1": 1.0}, {"raters": raters})], TASK)


def test_a_field_of_the_same_name_is_not_overwritten():
    row = Row("a", "stars", "train", text={"text": "b", FIELD: "me"}, votes={"1": 1.0}, extra={"raters": {"A": ["1"]}})
    with pytest.raises(UserError, match="row a: has a text field rater"):
        by_rater([row], TASK)


def test_one_label_each_gives_the_share_of_raters():
    """As the organisers' error rate and normalised distance, by hand: five stars, of which 4 is said of two raters."""
    made = [row for row in by_rater(rows(2, 1), TASK) if len(row.votes) == 1]
    _, _, scores = mean_over_raters(made, np.eye(5)[[4] * len(made)], TASK)
    assert [list(row.votes) for row in made] == [["0"]]
    assert scores.error_rate == 1.0 and scores.distance == pytest.approx(4 / 5)


def test_rows_without_raters_are_refused():
    with pytest.raises(UserError, match="no row says who chose what"):
        by_rater([Row("a", "stars", "train", None, None, {"text": "b"}, {"1": 1.0})], TASK)
