from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cityblock, euclidean, jensenshannon
from scipy.special import rel_entr
from scipy.stats import entropy as scipy_entropy
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.corpora.chaosnli import prepare
from shala_audio.errors import UserError
from shala_audio.evaluation.predictions import read_count_table
from shala_audio.evaluation.report import closeness
from shala_audio.evaluation.runs import table_rows
from shala_audio.evaluation.score import groups_of, row_key, score
from shala_audio.io import read_json
from shala_audio.manifest import Row, read_manifest, write_manifest
from tests.evaluation.helpers import system

LABELS = ("entailment", "neutral", "contradiction")


def nli(identity: str, split: str, votes: dict, **extra) -> Row:
    return Row(identity, "chaosnli", split, text={"premise": "p", "hypothesis": "h"}, votes=votes, extra=extra)


@pytest.fixture
def manifest(tmp_path):
    rows = [
        nli("a", "train", {"entailment": 10}),
        nli("b", "train", {"neutral": 10}),
        nli("c", "test", {"entailment": 5, "neutral": 5}),
        nli("d", "test", {"contradiction": 4, "neutral": 1}),
        nli("e", "test", {}),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    return tmp_path / "m.jsonl"


def predictions(path, **probs):
    lines = [json.dumps({"id": i, "probs": dict(zip(LABELS, p, strict=True))}) for i, p in probs.items()]
    path.write_text("\n".join(lines))
    return path


def test_measures_and_prior(tmp_path, manifest):
    result = score(predictions(tmp_path / "p.jsonl", c=[0.5, 0.5, 0], d=[0, 0.2, 0.8]), manifest)
    assert result["n"] == 2 and result["jsd"]["value"] == pytest.approx(0, abs=1e-6)
    assert result["ties"] == 1 and result["accuracy"]["value"] == 1
    assert result["prior"]["jsd"]["value"] > 0.3, "the mean of the train rows: half entailment, half neutral"
    assert result["unpredicted"] == 0 and result["without_votes"] == 0
    assert score(predictions(tmp_path / "p.jsonl", c=[0.5, 0.5, 0]), manifest)["unpredicted"] == 1
    assert table_rows([system("x", result)])[0][0] == "constant prior"


def test_official_labels_are_scored_where_all_rows_have_them(tmp_path):
    rows = [nli("c", "test", {"entailment": 5, "neutral": 5}, hard_label="neutral")]
    rows += [nli("d", "test", {"contradiction": 4}, hard_label="contradiction")]
    write_manifest(tmp_path / "m.jsonl", rows)
    said = predictions(tmp_path / "p.jsonl", c=[0.5, 0.5, 0], d=[0, 0.2, 0.8])
    assert score(said, tmp_path / "m.jsonl")["micro_f1"]["value"] == 0.5, "a tie is broken by the organisers, not by us"
    learnt = nli("a", "train", {"contradiction": 3, "neutral": 2})
    write_manifest(tmp_path / "m.jsonl", [learnt, *rows])
    assert score(said, tmp_path / "m.jsonl")["prior"]["micro_f1"]["value"] == 0.5, "which says contradiction of both"
    write_manifest(tmp_path / "m.jsonl", [rows[0], replace(rows[1], extra={})])
    assert "micro_f1" not in score(said, tmp_path / "m.jsonl")


def test_the_shared_tasks_measures_stand_where_rows_say_who_chose_what(tmp_path):
    """Corpora of 2025 have no official label, and their tables lacked the official measure."""
    raters = {"A": ["neutral"], "B": ["contradiction"]}
    row = nli("c", "test", {"neutral": 1, "contradiction": 1})
    write_manifest(tmp_path / "m.jsonl", [replace(row, extra={"raters": raters})])
    said = predictions(tmp_path / "p.jsonl", c=[0, 0.5, 0.5])
    found = score(said, tmp_path / "m.jsonl")
    assert found["raters_named"] and closeness([("a", found)])[-2:] == ("cross_entropy", "manhattan")
    write_manifest(tmp_path / "m.jsonl", [row])
    assert "manhattan" not in closeness([("a", score(said, tmp_path / "m.jsonl"))])


def test_rows_of_several_splits_are_not_mixed_unawares(tmp_path, manifest):
    """A model asked about a whole manifest is asked about its training rows too."""
    found = predictions(tmp_path / "p.jsonl", a=[1, 0, 0], b=[0, 1, 0], c=[0.9, 0.1, 0], d=[0, 0.2, 0.8])
    whole, test = score(found, manifest), score(found, manifest, split="test")
    assert whole["splits"] == {"train": 2, "test": 2} and test["splits"] == {"test": 2}
    assert test["n"] == 2 and test["jsd"]["value"] > whole["jsd"]["value"]
    assert sum(test["rows"]["jsd"].values()) / 2 == pytest.approx(test["jsd"]["value"], abs=1e-5)
    out = ["--out", str(tmp_path / "score.json")]
    said = CliRunner().invoke(app, ["evaluate", "score", str(found), str(manifest), *out]).stderr
    assert "rows" not in read_json(tmp_path / "score.json"), "it tells of votes, and a score is published"
    assert read_json(tmp_path / "distances.json") == whole["rows"]
    assert "2 of train, 2 of test" in said and "--split test" in said
    assert (
        "several splits"
        not in CliRunner().invoke(app, ["evaluate", "score", str(found), str(manifest), "--split", "test", *out]).stderr
    )
    with pytest.raises(UserError, match="no predicted row of split dev"):
        score(found, manifest, split="dev")
    both = [
        "evaluate",
        "compare",
        str(found),
        str(found),
        str(manifest),
        "--split",
        "test",
        "--out",
        str(tmp_path / "c.json"),
    ]
    assert CliRunner().invoke(app, both).exit_code == 0 and read_json(tmp_path / "c.json")["n"] == 2
    assert "2 of train, 2 of test" in CliRunner().invoke(app, both[:5]).stderr


def test_a_csv_of_another_system(tmp_path, manifest):
    (tmp_path / "p.csv").write_text("name,id,entailment,neutral,contradiction\nx,c,0.5,0.5,0\ny,d,0,0.2,0.8\n")
    assert score(tmp_path / "p.csv", manifest)["jsd"]["value"] == pytest.approx(0, abs=1e-6)
    (tmp_path / "p.csv").write_text("id,entailment,neutral\nc,0.5,0.5\n")
    with pytest.raises(UserError, match="no column contradiction"):
        score(tmp_path / "p.csv", manifest)
    (tmp_path / "p.csv").write_text("id,entailment,neutral,contradiction\nc,a,b,c\n")
    with pytest.raises(UserError, match="p.csv:2: not numbers"):
        score(tmp_path / "p.csv", manifest)


def test_votes_as_a_csv_need_no_manifest(tmp_path, manifest):
    (tmp_path / "v.csv").write_text(
        "id, split,speaker,entailment,neutral,contradiction\na,train,x,10,0,0\nb,train,x,,10,\n"
        "c,test,y,5,5,0\nd,test,y,0,1,4\n"
    )
    found = predictions(tmp_path / "p.jsonl", c=[0.4, 0.6, 0], d=[0, 0.2, 0.8])
    ours, theirs = score(found, tmp_path / "v.csv"), score(found, manifest)
    rows = ours.pop("rows"), theirs.pop("rows")
    assert ours == theirs and ours["prior"]["jsd"]["value"] > 0.3
    assert list(rows[0]["jsd"].values()) == list(rows[1]["jsd"].values())
    assert len(set(rows[0]["group"].values())) == 1, "one speaker"
    (tmp_path / "p.csv").write_text("id,contradiction,neutral,entailment\nc,0,0.6,0.4\nd,0.8,0.2,0\n")
    result = CliRunner().invoke(
        app,
        ["evaluate", "score", str(tmp_path / "p.csv"), str(tmp_path / "v.csv"), "--bootstrap", "0", "--format", "json"],
    )
    assert result.exit_code == 0 and json.loads(result.stdout)["jsd"]["value"] == pytest.approx(ours["jsd"]["value"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,a,b\nx,1,2\n", "the header is name, a, b; id and a column a label"),
        ("id,a\nx,1\n", "id and a column a label"),
        (",id,a,b\n0,x,1,2\n", "a column a label, each named"),
        ("id,a,a,b\nx,1,2,3\n", "two columns named 'a'"),
        ("id,a,b\nx,1\n", "v.csv:2: not as many values as there are columns"),
        ("id,a,b\nx,1,2,3\n", "v.csv:2: not as many values as there are columns"),
        ("id,a,b\nx,1,2\nx,1,2\n", "v.csv:3: id 'x' appears twice"),
        ("id,a,b\nx,1,many\n", "v.csv:2: votes for 'b' are 'many'"),
        ("id,a,b\nx,1,-1\n", "votes for 'b' are '-1'"),
        ("id,a,b\nx,1,nan\n", "votes for 'b' are 'nan'"),
        ("id,a,b\n,1,1\n", "v.csv:2: `id` is empty"),
        ("id,split,a,b\nx,tset,1,1\n", "split is 'tset'"),
        ("id,a,b\n", "has no rows"),
    ],
)
def test_a_wrong_table_of_votes_is_named(tmp_path, text, message):
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_count_table(tmp_path / "v.csv")


def test_a_manifest_of_an_unknown_task_asks_for_one(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [Row("a", "mine", "test", text={"t": "x"}, votes={"neutral": 1})])
    with pytest.raises(UserError, match="m.jsonl: its rows' task is mine: .*--task names a file"):
        score(predictions(tmp_path / "p.jsonl", a=[0.2, 0.3, 0.5]), tmp_path / "m.jsonl")


def test_rows_of_one_speaker_or_premise_are_a_group(tmp_path):
    rows = [
        Row("a", "t", "test", "Ann", votes={"x": 1}),
        Row("b", "t", "test", "Ann", votes={"x": 2}),
        Row("c", "t", "test", "Ben"),
        Row("d", "t", "test", text={"premise": "p", "hypothesis": "1"}),
        Row("e", "t", "test", text={"premise": "p", "hypothesis": "2"}),
        Row("f", "t", "test", text={"comment": "p"}),
        Row("g", "t", "test", text={"comment": "p"}),
    ]
    found = groups_of(rows)
    assert [found.index(group) for group in found] == [0, 0, 2, 3, 3, 5, 6]
    assert groups_of(rows[1:2])[0] == found[0], "whatever other rows there are"


def test_the_ceiling_is_the_raters_own_agreement(tmp_path, manifest):
    result = score(predictions(tmp_path / "p.jsonl", c=[0.5, 0.5, 0], d=[0, 0.2, 0.8]), manifest)
    assert (
        result["agreement_bound"]["kind"] == "fresh sample of the raters"
        and result["agreement_bound"]["jsd"]["value"] > 0
    )
    assert result["split_half"]["n"] == 2
    assert set(result["prior"]) - {"kl", "cross_entropy", "confusion", "reliability"} <= set(
        result["agreement_bound"]
    ), "the same keys"


def test_aggregated_labels_have_no_ceiling(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [nli("a", "test", {"neutral": 1}, aggregated=True)])
    result = score(predictions(tmp_path / "p.jsonl", a=[0.2, 0.3, 0.5]), tmp_path / "m.jsonl")
    assert "agreement_bound" not in result and "split_half" not in result


def test_the_ceiling_is_the_true_distribution(tmp_path):
    true = dict(zip(LABELS, (0.5, 0.3, 0.2), strict=True))
    rows = [nli("a", "test", {"entailment": 5, "neutral": 3, "contradiction": 2}, true=true)]
    write_manifest(tmp_path / "m.jsonl", rows)
    result = score(predictions(tmp_path / "p.jsonl", a=[0.2, 0.3, 0.5]), tmp_path / "m.jsonl")
    assert result["agreement_bound"]["jsd"]["value"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "zz", "probs": {"entailment": 1, "neutral": 0, "contradiction": 0}}', "not in"),
        ('{"id": "e", "probs": {"entailment": 1, "neutral": 0, "contradiction": 0}}', "has votes to score"),
        ('{"id": "c", "probs": {"entailment": 1}}', "p.jsonl:1.*probs"),
        ('{"id": "c", "probs": {"entailment": 1, "neutral": 1, "contradiction": 0}}', "sum to 2"),
        ('{"id": "c", "probs": {"entailment": 1, "neutral": 0, "contradiction": 0, "x": 0}}', "labels x"),
        ("nonsense", "p.jsonl:1"),
        ("", "no prediction"),
    ],
)
def test_wrong_predictions_are_named(tmp_path, manifest, line, message):
    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        score(tmp_path / "p.jsonl", manifest)


OTHERS = [("snli", "bert-base-uncased", seed) for seed in (0, 1)]
OTHERS += [(subset, "roberta-base", seed) for subset in ("snli", "mnli_m") for seed in (0, 1, 2)]
PUBLISHED = {
    ("snli", "roberta-base", 0): 0.2454,
    ("snli", "roberta-base", 1): 0.2329,
    ("snli", "roberta-base", 2): 0.2478,
}


@pytest.mark.parametrize(("subset", "model", "seed"), OTHERS)
def test_predictions_that_are_not_ours(corpora, tmp_path, subset, model, seed):
    """Systems that others trained on all of SNLI or MNLI, on all of ChaosNLI: SciPy's and scikit-learn's values to 1e-4."""
    path = corpora / "chaosnli" / "baseline_predictions.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    write_manifest(tmp_path / "m.jsonl", prepare(path.parent, seed=0, part=subset[:4]).rows)
    with open(tmp_path / "p.jsonl", "w") as file:
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if (record["subset"], record["model"], record["seed"]) == (subset, model, seed):
                assert record["label_order"] == "e,n,c"
                probs = np.array(record["probs"]) / sum(record["probs"])
                named = dict(zip(LABELS, probs.tolist(), strict=True))
                file.write(json.dumps({"id": record["uid"], "probs": named}) + "\n")
    result = score(tmp_path / "p.jsonl", tmp_path / "m.jsonl")
    found = {name: result[name]["value"] for name in ("jsd_nats", "kl", "accuracy", "macro_f1", "weighted_f1", "uar")}
    if (subset, model, seed) in PUBLISHED:
        assert found["jsd_nats"] == pytest.approx(PUBLISHED[subset, model, seed], abs=1e-4)
    # The other measures, by SciPy and scikit-learn alone.
    rows = {row.id: row for row in read_manifest(tmp_path / "m.jsonl")}
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    human = np.array([[rows[line["id"]].votes.get(label, 0) for label in LABELS] for line in lines]) / 100
    predicted = np.array([[line["probs"][label] for label in LABELS] for line in lines])
    first = np.sort(human, axis=1)
    clear = first[:, -1] > first[:, -2]
    truth, answer = human[clear].argmax(axis=1), predicted[clear].argmax(axis=1)
    assert result["ties"] == (~clear).sum()
    assert found["jsd_nats"] == pytest.approx(jensenshannon(human, predicted, axis=1).mean(), abs=1e-4)
    raised = np.maximum(predicted, 1e-6)  # as documented
    raised /= raised.sum(axis=1, keepdims=True)
    assert found["kl"] == pytest.approx(rel_entr(human, raised).sum(axis=1).mean(), abs=1e-4)
    distances = [cityblock(p, q) / 2 for p, q in zip(human, predicted, strict=True)]
    assert result["total_variation"]["value"] == pytest.approx(np.mean(distances), abs=1e-4)
    roots = [euclidean(p, q) for p, q in zip(np.sqrt(human), np.sqrt(predicted), strict=True)]
    assert result["bhattacharyya"]["value"] == pytest.approx(1 - np.mean(np.square(roots)) / 2, abs=1e-4)
    level = scipy_entropy(human, axis=1).round(12)
    most = level > np.quantile(level, 2 / 3)
    assert result["terciles"]["high"]["jsd_nats"]["value"] == pytest.approx(
        jensenshannon(human[most], predicted[most], axis=1).mean(), abs=1e-4
    )
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, answer), abs=1e-4)
    assert found["uar"] == pytest.approx(balanced_accuracy_score(truth, answer), abs=1e-4)
    for kind in ("macro", "weighted"):
        assert found[f"{kind}_f1"] == pytest.approx(f1_score(truth, answer, average=kind), abs=1e-4)
    spearman = spearmanr(scipy_entropy(human, axis=1).round(12), scipy_entropy(predicted, axis=1)).statistic
    assert result["entropy_correlation"]["value"] == pytest.approx(spearman, abs=1e-4)
    contested = human.max(axis=1) <= 0.5
    assert result["contested_auroc"]["value"] == pytest.approx(
        roc_auc_score(contested, scipy_entropy(predicted, axis=1)), abs=1e-4
    )
    agreed = 0.039 if subset == "snli" else 0.044  # of 100 raters with themselves
    assert result["agreement_bound"]["jsd_nats"]["value"] == pytest.approx(agreed, abs=0.002)


def test_one_rater_alone_has_no_ceiling(tmp_path):
    """Drawn anew, a single vote is itself again: that says nothing of what others would have said."""
    rows = [nli(f"r{index}", "test", {"neutral": 1}) for index in range(4)]
    write_manifest(tmp_path / "m.jsonl", rows)
    found = predictions(tmp_path / "p.jsonl", **{row.id: [0.2, 0.6, 0.2] for row in rows})
    assert not {"agreement_bound", "split_half"} & set(score(found, tmp_path / "m.jsonl"))
    write_manifest(tmp_path / "m.jsonl", [*rows[:3], nli("r3", "test", {"neutral": 3, "entailment": 2})])
    mixed = score(found, tmp_path / "m.jsonl")
    assert mixed["n"] == 4 and mixed["agreement_bound"]["n"] == mixed["split_half"]["n"] == 1


def test_rows_of_one_name_in_two_corpora_are_told_apart():
    one = Row("mini_00000", "mini", "test", votes={"anger": 3}, extra={"latent": 0.1})
    assert row_key(one) == row_key(replace(one, split="dev")) and row_key(one) != row_key(
        replace(one, extra={"latent": 0.2})
    )


def test_chaosnlis_own_format_is_read(tmp_path, caplog):
    """Of one system or of several, by logits or by probabilities; files of several corpora are no error."""
    manifest = tmp_path / "m.jsonl"
    write_manifest(manifest, [nli(name, "test", {"entailment": 3, "neutral": 1}) for name in "ab"])
    probs = dict(zip("ab", ([0.7, 0.2, 0.1], [0.1, 0.1, 0.8]), strict=True))
    named = [{"id": name, "probs": dict(zip(LABELS, p, strict=True))} for name, p in probs.items()]
    plain = tmp_path / "p.jsonl"
    plain.write_text("".join(json.dumps(line) + "\n" for line in named))
    by_logits = {
        name: {"logits": np.log(p).tolist(), "predicted_label": LABELS[np.argmax(p)]} for name, p in probs.items()
    }
    stated = {name: {"uid": name, "predicted_probabilities": p} for name, p in probs.items()}
    one, several = tmp_path / "one.json", tmp_path / "several.json"
    one.write_text(json.dumps({**stated, "of another corpus": stated["a"]}))
    several.write_text(json.dumps({"FacebookAI/roberta-base": by_logits, "other": stated}))
    expected = score(plain, manifest, draws=0)["jsd"]["value"]
    with caplog.at_level("WARNING"):
        assert score(one, manifest, draws=0)["jsd"]["value"] == pytest.approx(expected)
    assert "1 predictions are of rows that" in caplog.text
    assert score(f"{several}:FacebookAI/roberta-base", manifest, draws=0)["jsd"]["value"] == pytest.approx(expected)
    with pytest.raises(UserError, match="holds systems FacebookAI/roberta-base, other; name one as .*several.json:Fac"):
        score(several, manifest, draws=0)
    one.write_text(json.dumps({"a": {"logits": [1, 2]}}))
    with pytest.raises(UserError, match="item 'a': 2 numbers for 3 labels"):
        score(one, manifest, draws=0)
    one.write_text(json.dumps({"a": {"logits": [1, 2, 0], "predicted_label": "c"}}))
    with pytest.raises(
        UserError, match="says c, but the largest number is that of neutral; its labels stand in another"
    ):
        score(one, manifest, draws=0)
    one.write_text("[]")
    with pytest.raises(UserError, match="not an object of items"):
        score(one, manifest, draws=0)
    one.write_text(plain.read_text())  # JSON Lines by another name
    assert score(one, manifest, draws=0)["jsd"]["value"] == pytest.approx(expected)


def test_the_task_beside_the_manifest_is_taken(tmp_path):
    """`data votes` writes both: a corpus of one's own was refused without --task."""
    write_manifest(tmp_path / "m.jsonl", [Row("a", "my_own", "test", text={"t": "x"}, votes={"up": 1, "down": 2})])
    (tmp_path / "p.jsonl").write_text('{"id": "a", "probs": {"up": 0.5, "down": 0.5}}\n')
    with pytest.raises(UserError, match="its rows' task is my_own.*--task names a file"):
        score(tmp_path / "p.jsonl", tmp_path / "m.jsonl", draws=0)
    (tmp_path / "task.yaml").write_text(
        "name: my_own\nmodality: text\nlabels: [up, down]\nprompt: '{{ text.t }}'\nanswer: It goes\n"
    )
    assert score(tmp_path / "p.jsonl", tmp_path / "m.jsonl", draws=0)["labels"] == ["up", "down"]
    (tmp_path / "task.yaml").write_text((tmp_path / "task.yaml").read_text().replace("my_own", "another"))
    with pytest.raises(UserError, match="its rows' task is my_own"):
        score(tmp_path / "p.jsonl", tmp_path / "m.jsonl", draws=0)
