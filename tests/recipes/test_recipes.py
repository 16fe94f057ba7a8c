"""The recipes themselves, all stages, on tiny data with tiny models."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from shala_audio import recipe as recipe_module
from shala_audio.audio.features import FeatureStore
from shala_audio.cli.main import app
from shala_audio.errors import UserError
from shala_audio.io import file_sha256, read_json
from shala_audio.manifest import read_manifest, write_manifest
from shala_audio.task import load_task
from tests.recipes.make_msp_podcast import make_msp_podcast
from tests.tiny import make_tiny_bert

RECIPES = Path(__file__).parents[2] / "recipes"
SERVERS: list[subprocess.Popen[str]] = []


@functools.cache
def launcher() -> str:
    """What starts a recipe's commands without importing torch for each."""
    at = Path(tempfile.mkdtemp()) / "socket"  # pytest's own folders have names too long for a socket
    forks = [sys.executable, str(Path(__file__).with_name("forks.py"))]
    server = subprocess.Popen([*forks, "serve", str(at)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    SERVERS.append(server)  # which ends when its input is closed, with this process
    assert server.stdout is not None and server.stdout.readline() == "ready\n"
    return shlex.join([*forks, "ask", str(at)])


def run_recipe(name: str, *options: str | Path, check: bool = True) -> subprocess.CompletedProcess:
    return run_copy(RECIPES / name / "run.sh", *options, check=check)


def few_steps(conf: Path) -> None:
    """Settings of a test: few steps of few rows."""
    for file in conf.glob("*.yaml"):
        lines = [line for line in file.read_text().splitlines() if "epochs" not in line and "max_steps" not in line]
        file.write_text(
            "\n".join([*lines, "max_steps: 2", "per_device_train_batch_size: 8", "num_generations: 4"]) + "\n"
        )


@pytest.fixture
def recipe(tiny_lm, tiny_encoder, tmp_path, request):
    """A copy of a recipe with tiny models and few steps, so that the real one's folder stays clean."""
    import shutil

    name = request.param
    shutil.copytree(RECIPES / "TEMPLATE", tmp_path / "recipes" / "TEMPLATE")
    ignore = shutil.ignore_patterns("exp", "data", "features")
    shutil.copytree(RECIPES / name, tmp_path / "recipes" / name, ignore=ignore)
    model = tmp_path / "tiny.yaml"
    model.write_text(
        f"lm: {tiny_lm}\nencoder: {tiny_encoder}\nencoder_layers: [1, 2]\nframe_stack: 8\n"
        "projector_width: 16\nlora_r: 4\nlora_alpha: 8\nsystem_prompt: ''\n"
    )
    few_steps(tmp_path / "recipes" / name / "conf")
    return name, tmp_path / "recipes" / name / "run.sh", model


def run_copy(script: Path, *options: str | Path, check: bool = True) -> subprocess.CompletedProcess:
    environment = dict.fromkeys(("train_cmd", "predict_cmd", "cpu_cmd"), launcher())
    environment |= {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("SHALA_CORPORA", None)
    done = subprocess.run(["bash", str(script), *map(str, options)], capture_output=True, text=True, env=environment)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def check_experiment(exp: Path, systems: set[str]) -> None:
    for system in systems:
        score = json.loads((exp / system / "score.json").read_text())
        assert score["n"] > 0 and 0 <= score["jsd"]["value"] <= 1 and "prior" in score
    results = (exp / "RESULTS.md").read_text()
    assert all(
        re.search(rf"^\| {system} (\(\w+\) )?\|", results, re.MULTILINE) for system in systems | {"constant prior"}
    )
    scaled = {path.parent.name for path in exp.glob("*/score_temperature_jsd.json")}
    assert not scaled or systems | {"prior"} <= scaled, "all, or none where dev rows are few"
    packed = {path.name for path in (exp / "pack").iterdir()}
    assert {"shala.json", "trained.safetensors", "config.json", "README.md", "RESULTS.md", "score.json"} <= packed
    assert not any(name.startswith("distances") for name in packed), "votes could be guessed from them"
    done = {1, 3, 4, 5, 6, 7} | ({2} if (exp / "attentive").exists() else set())
    assert {int(path.name.removeprefix(".done_")) for path in exp.glob(".done_*")} == done


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["msp_podcast"], indirect=True)
def test_msp_podcast_all_stages(recipe, tmp_path):
    _, script, model = recipe
    make_msp_podcast(tmp_path / "corpus", turns=60)
    options = ("--corpus_root", tmp_path / "corpus", "--model", model, "--exp", tmp_path / "exp")
    run_copy(script, *options)
    assert (tmp_path / "exp" / "attentive" / "score_temperature_jsd.json").is_file(), "there are enough dev rows"
    check_experiment(tmp_path / "exp", {"zero_shot", "warm_start", "shala", "linear", "attentive"})
    for record in (tmp_path / "exp").glob("*/training.json"):
        assert '"/' not in record.read_text(), f"no absolute path in {record}"
    (tmp_path / "exp" / "RESULTS.md").unlink()
    run_copy(script, *options, "--stage", "6", "--stop_stage", "6")
    assert not (tmp_path / "exp" / ".done_7").exists(), "what was packed is no longer current"
    assert (tmp_path / "exp" / "RESULTS.md").exists(), "a stage runs again alone"


def prepare_msp_podcast(corpus: Path, out: Path, *options: str) -> bytes:
    command = ["data", "prepare", "msp_podcast", "--source", str(corpus), "--out", str(out), *options]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    return (out / "manifest.jsonl").read_bytes()


def test_msp_podcast_has_one_manifest_whatever_the_form(tmp_path):
    found = set()
    for form in ("1.6", "json", "txt"):
        make_msp_podcast(tmp_path / form, turns=16, form=form)
        found.add(prepare_msp_podcast(tmp_path / form, tmp_path / f"data {form}"))
    assert len(found) == 1
    nine = prepare_msp_podcast(tmp_path / "json", tmp_path / "nine", "--task", "msp_podcast_9", "--secondary", "0.3")
    assert b'"task": "msp_podcast_9"' in nine and b".7" in nine
    with pytest.raises(UserError, match="--task: of msp_podcast and lewidi alone"):
        prepare = ["data", "prepare", "mini", "--out", str(tmp_path / "m"), "--task", "mini"]
        CliRunner().invoke(app, prepare, catch_exceptions=False)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["msp_podcast"], indirect=True)
def test_bad_sound_stops_the_recipe_unless_it_may_be_skipped(recipe, tmp_path):
    _, script, model = recipe
    make_msp_podcast(tmp_path / "corpus", turns=36)
    for name in ("MSP-PODCAST_0001_0001.wav", "MSP-PODCAST_0009_0009.wav"):
        (tmp_path / "corpus" / "Audios" / name).write_bytes(b"")
    options = ("--corpus_root", tmp_path / "corpus", "--model", model, "--exp", tmp_path / "exp", "--stop_stage", "2")
    stopped = run_copy(script, *options, check=False)
    assert stopped.returncode == 2 and "2 of 35 clips cannot be used; --skip-bad" in stopped.stderr
    assert "row MSP-PODCAST_0001_0001: " in stopped.stderr and "the file is empty" in stopped.stderr
    assert not (tmp_path / "exp" / ".done_2").exists()
    done = run_copy(script, *options, "--skip_bad", "yes", "--copies", "1")
    assert "2 of 35 clips are left out" in done.stdout and (tmp_path / "exp" / ".done_2").exists()
    (usable,) = (script.parent / "data").glob("*/usable.jsonl")
    assert len(read_manifest(usable)) == 33


@pytest.mark.parametrize("recipe", ["msp_podcast"], indirect=True)
def test_transcripts_can_go_in_without_the_sound(recipe, tmp_path):
    _, script, model = recipe
    make_msp_podcast(tmp_path / "corpus", turns=24)
    options = ("--corpus_root", tmp_path / "corpus", "--model", model, "--stop_stage", "3", "--method", "zero_shot")
    run_copy(script, *options, "--modality", "text", "--exp", tmp_path / "exp")
    settings = json.loads((tmp_path / "exp" / "zero_shot" / "shala.json").read_text())
    assert settings["task"]["modality"] == "text" and not (tmp_path / "exp" / ".done_2").exists()


@pytest.mark.parametrize("recipe", ["mini"], indirect=True)
def test_mini_trains_slots_by_two_methods(recipe, tmp_path):
    _, script, model = recipe
    options = ("--model", model, "--exp", tmp_path / "exp", "--readout", "slots", "--max_rows", "60")
    run_copy(script, *options, "--method", "sft_soft,grpo_majority", "--stop_stage", "4")
    for method in ("sft_soft", "grpo_majority"):
        folder = tmp_path / "exp" / method
        assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"] == 2
        assert json.loads((folder / "shala.json").read_text())["readout"] == "slots"
        assert json.loads((folder / "training.json").read_text())["method"] == method
    record = json.loads((tmp_path / "exp" / "sft_soft" / "training.json").read_text())
    assert record["settings"]["per_device_train_batch_size"] == 2, "as many prompts as 8 rollouts in groups of 4"
    assert not list((tmp_path / "exp").glob("*/checkpoint-*")), "checkpoints go when the work is done"


@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized"])
@pytest.mark.parametrize("name", ["mini", "chaosnli"])
def test_all_names_methods_that_there_are(name, readout, tmp_path):
    """For sound and for text; no stage is run."""
    options = ("--method", "all", "--readout", readout, "--stage", "8", "--exp", tmp_path / "exp")
    assert run_copy(RECIPES / name / "run.sh", *options).returncode == 0


def make_chaosnli(corpus: Path, rows: int = 60) -> None:
    corpus.mkdir()
    rng = np.random.default_rng(0)
    with open(corpus / "chaosNLI_snli.jsonl", "w") as file:
        for index in range(rows):
            example = {"premise": f"Premise {index // 2}.", "hypothesis": f"Hypothesis {index}."}
            votes = rng.multinomial(100, rng.dirichlet([1, 1, 1])).tolist()
            file.write(json.dumps({"uid": f"u{index}", "label_count": votes, "example": example}) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["chaosnli"], indirect=True)
def test_chaosnli_in_five_folds(recipe, tmp_path):
    """Five splits, then their predictions (here the constant prior's, each from its own fold) pooled and scored."""
    _, script, model = recipe
    make_chaosnli(tmp_path / "corpus")
    exp = tmp_path / "exp"
    options = ("--corpus_root", tmp_path / "corpus", "--model", model, "--exp", exp, "--fold", "all")
    run_copy(script, *options, "--stop_stage", "1")
    again = run_copy(script, *options, "--stop_stage", "1").stdout
    assert again.count("is done; remove") == 5 and "stage 1" not in again
    other = run_copy(script, *options, "--stop_stage", "1", "--method", "zero_shot").stdout
    assert other.count("stage 1: data") == 5, "what was made for another method is not taken for this one's"
    for fold in range(5):
        manifest = script.parent / "data" / f"seed0_snli_fold{fold}" / "manifest.jsonl"
        out = exp / f"fold{fold}" / "prior" / "predictions.jsonl"
        CliRunner().invoke(
            app, ["evaluate", "baseline", "prior", str(manifest), "--out", str(out)], catch_exceptions=False
        )
    run_copy(script, *options, "--stage", "8")
    pooled = json.loads((exp / "pooled" / "prior" / "score.json").read_text())
    assert pooled["n"] == 60, "every row once"
    assert "five folds pooled" in (exp / "RESULTS.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["chaosnli"], indirect=True)
def test_drawn_answers_begin_from_a_model_of_another_readout(recipe, tmp_path):
    _, script, model = recipe
    make_chaosnli(tmp_path / "corpus", 120)
    options = ("--corpus_root", tmp_path / "corpus", "--model", model)
    run_copy(script, *options, "--exp", tmp_path / "first", "--stop_stage", "3")
    start = tmp_path / "first" / "warm_start"
    exp = tmp_path / "drawn"
    run_copy(script, *options, "--exp", exp, "--readout", "slots", "--init", start, "--stop_stage", "4")
    for name, method in (("warm_start", "warm_start"), ("shala", "shala")):
        record = json.loads((exp / name / "training.json").read_text())
        assert (record["method"], record["readout"]) == (method, "slots") and len(record["before"]) >= 1
    assert record["settings"]["advantage"] == "all_digits" and len(record["before"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["chaosnli"], indirect=True)
def test_chaosnli_all_stages_by_a_baseline(recipe, tmp_path):
    _, script, model = recipe
    make_chaosnli(tmp_path / "corpus", 240)
    options = ("--corpus_root", tmp_path / "corpus", "--model", model, "--exp", tmp_path / "exp")
    run_copy(script, *options, "--method", "few_shot")
    check_experiment(tmp_path / "exp", {"zero_shot", "few_shot"})
    results = (tmp_path / "exp" / "RESULTS.md").read_text()
    assert re.search(r"few_shot \(label_token\) \+ temperature( \(edge\))? \|", results) and "+ dirichlet" in results
    for name in ("constant prior", "zero_shot (label_token)", "few_shot (label_token)"):
        assert f"{name} + temperature_jsd" in results, "every system is temperature-scaled"
    assert "human agreement bound: fresh sample of the raters" in results and "--method few_shot" in results
    (tmp_path / "exp" / ".done_5").unlink()  # as if stage 5 had been killed before its end
    alone = (*options, "--method", "few_shot", "--stage", "5", "--stop_stage", "5")
    kept = run_copy(script, *alone).stdout.count("is there already")
    assert kept == 5, "two splits of two systems, and the classifier's"
    assert "is there already" not in run_copy(script, *alone).stdout, "a stage that was finished is done again"
    assert not re.search(r"(^|[ '=])/\w+/", results), "no absolute path"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["chaosnli"], indirect=True)
def test_each_method_keeps_its_best_learning_rate(recipe, tmp_path):
    _, script, model = recipe
    make_chaosnli(tmp_path / "corpus", 120)
    exp = tmp_path / "exp"
    options = ("--corpus_root", tmp_path / "corpus", "--model", model, "--exp", exp, "--learning_rate", "1e-6,1e-2")
    run_copy(script, *options, "--method", "sft_soft", "--stop_stage", "4")
    tuned = json.loads((exp / "sft_soft" / "training.json").read_text())["tuned"]
    assert [one["settings"] for one in tuned["tried"]] == [{"learning_rate": 1e-6}, {"learning_rate": 1e-2}]
    best = min((one["jsd"], place) for one, place in zip(tuned["tried"], ("1e-6", "1e-2"), strict=True))[1]
    kept = (exp / "sft_soft" / "trained.safetensors").read_bytes()
    assert kept == (exp / "tuning" / "sft_soft" / best / "trained.safetensors").read_bytes()
    again = run_copy(script, *options, "--method", "sft_soft", "--stage", "4", "--stop_stage", "4")
    assert again.stderr.count("trained already") == 2
    checkpoint = exp / "tuning" / "sft_soft" / "1e-6" / "checkpoint-1"  # of an interrupted stage 4
    checkpoint.mkdir()
    warm = ("--method", "sft_soft", "--stop_stage", "3")
    assert "trained already" in run_copy(script, *options, *warm).stderr and checkpoint.is_dir()
    record = json.loads((checkpoint.parent / "run.json").read_text())
    (checkpoint.parent / "run.json").write_text(
        json.dumps({**record, "init": "ab" * 32}, indent=2)
    )  # another warm start
    run_copy(script, *options, *warm)
    assert not checkpoint.is_dir()
    run_copy(script, *options[:-1], "1e-6", "--method", "sft_soft,grpo_majority", "--stage", "4", "--stop_stage", "4")
    baseline = json.loads((exp / "grpo_majority" / "training.json").read_text())["settings"]
    assert (baseline["reward"], baseline["ambiguity"]) == ("majority", "off")
    assert baseline["per_device_train_batch_size"] == 32, "8 prompts, 4 answers to each"
    record = json.loads((exp / "sft_soft" / "training.json").read_text())
    assert record["settings"]["learning_rate"] == 1e-6 and "tuned" not in record


@pytest.mark.parametrize("recipe", ["goemotions"], indirect=True)
def test_goemotions_data(recipe, tmp_path):
    _, script, model = recipe
    names = load_task("goemotions").label_names
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "labels.txt").write_text("\n".join(names))
    for split, count in (("train", 24), ("dev", 4), ("test", 8)):
        with open(corpus / f"{split}.tsv", "w", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerows([f"comment {index}", str(index % 28), f"{split}{index}"] for index in range(count))
    run_copy(script, "--corpus_root", corpus, "--model", model, "--exp", tmp_path / "exp", "--stop_stage", "1")
    (manifest,) = (script.parent / "data").glob("*/manifest.jsonl")
    assert len(read_manifest(manifest, "train")) == 24
    few = ("--corpus_root", corpus, "--model", model, "--stop_stage", "1", "--max_rows", "20")
    run_copy(script, *few, "--seed", "7")
    run_copy(script, *few, "--seed", "1", "--split_seed", "7", "--method", "zero_shot")
    names = {path.name for path in (script.parent / "exp").iterdir()}
    assert names == {"shala_label_token_tiny_seed7_max20", "zero_shot_label_token_tiny_train1_seed7_max20"}
    assert {path.name for path in (script.parent / "data").iterdir()} == {"seed0", "seed7_max20"}, (
        "tested on the same rows"
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lewidi"], indirect=True)
def test_a_corpus_in_lewidis_form_needs_one_file(recipe, tmp_path):
    """From its JSON to a table, with a task of its own whose labels are in an order."""
    _, script, model = recipe
    corpus, task = tmp_path / "corpus", tmp_path / "mood.yaml"
    corpus.mkdir()
    task.write_text(
        'name: mood\nmodality: text\nordered: true\nlabels: ["1", "2", "3"]\nprompt: "{{ text.note }} How glad?"\nanswer: "It is"\n'
    )
    for split, count in (("train", 24), ("dev", 12), ("test", 8)):
        items = {
            str(index): {
                "text": {"note": f"Note {split} {index}."},
                "annotations": {"Ann1": str(1 + index % 3), "Ann2": str(1 + index % 2), "Ann3": "1"},
                "hard_label": "1",
            }
            for index in range(count)
        }
        (corpus / f"Mood_{split}.json").write_text(json.dumps(items))
    exp = tmp_path / "exp"
    options = ("--corpus_root", corpus, "--part", "mood", "--task", task, "--model", model, "--exp", exp)
    # Its labels are in an order, which conf/shala_ordered.yaml is for; texts with which it begins are those of another corpus.
    run_copy(script, *options, "--stop_stage", "1")
    (data,) = (script.parent / "data").iterdir()
    shutil.copytree(data, tmp_path / "other")
    leaking = [replace(row, split="train") for row in read_manifest(data / "manifest.jsonl")]
    write_manifest(tmp_path / "leak" / "manifest.jsonl", leaking)
    leak = ("--pretrain", tmp_path / "leak" / "manifest.jsonl", "--stage", "3", "--stop_stage", "3")
    refused = run_copy(script, *options, *leak, check=False)
    assert refused.returncode == 2 and "has the text of dev-0, which is of dev" in refused.stderr
    run_copy(script, *options, "--pretrain", tmp_path / "other" / "manifest.jsonl", "--stage", "3", "--stop_stage", "6")
    assert read_json(exp / "shala" / "run.json")["direct_loss"] == "ranked"
    first = exp / "warm_start_pretrained" / "trained.safetensors"
    assert read_json(exp / "warm_start" / "run.json")["init"] == file_sha256(first)
    table = (exp / "RESULTS.md").read_text()
    assert "| cross_entropy | micro_f1 | manhattan | wasserstein |" in table and "mood" in table
    assert "wasserstein" in (exp / "RESULTS.csv").read_text()
    refused = run_copy(script, "--corpus_root", corpus, "--model", model, "--stop_stage", "1", check=False)
    assert refused.returncode == 2 and "--part: name the corpus" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lewidi"], indirect=True)
def test_raters_are_learnt_one_by_one_and_put_together(recipe, tmp_path):
    _, script, model = recipe
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for split, count in (("train", 24), ("dev", 12), ("test", 8)):
        said = [{"Ann1": str(n % 2), "Ann2": str(n % 3 // 2), "Ann3": "0"} for n in range(count)]
        items = {str(n): {"text": f"{split} {n}", "annotations": of, "hard_label": "0"} for n, of in enumerate(said)}
        (corpus / f"MD-Agreement_{split}.json").write_text(json.dumps(items))
    options = ("--corpus_root", corpus, "--part", "MD-Agreement", "--model", model, "--exp", tmp_path / "exp")
    refused = run_copy(script, *options, "--raters", "in-prompt", "--method", "shala", check=False)
    assert refused.returncode == 2 and "a single rater's answer is not contested" in refused.stderr
    shown = run_copy(script, *options, "--raters", "in-prompt")
    assert "accuracy of 3 raters" in shown.stdout
    found = tmp_path / "exp" / "sft_soft"
    assert len((found / "raters_predictions.jsonl").read_text().splitlines()) == 24
    assert len((found / "predictions.jsonl").read_text().splitlines()) == 8
    assert "| sft_soft (label_token) |" in (tmp_path / "exp" / "RESULTS.md").read_text()
    assert "{{ text.rater }}" in read_json(found / "shala.json")["task"]["prompt"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lewidi"], indirect=True)
def test_a_test_set_without_its_votes_is_predicted(recipe, tmp_path):
    """The recipe stopped at its classifier, after all training; and without dev rows, too."""
    _, script, model = recipe
    corpus = tmp_path / "corpus"
    corpus.mkdir()

    def write(split, count, said):
        texts = [{"context": "Hm.", "response": f"{split} {index}"} for index in range(count)]
        items = {
            str(n): {"text": text, "annotations": said(n), "annotators": "Ann1,Ann2"} for n, text in enumerate(texts)
        }
        (corpus / f"CSC_{split}.json").write_text(json.dumps(items))

    write("train", 24, lambda n: {"Ann1": str(1 + n % 6), "Ann2": str(1 + n % 2)})
    write("test_clear", 4, lambda n: {"Ann1": "", "Ann2": ""})
    options = ("--corpus_root", corpus, "--part", "CSC", "--model", model, "--exp", tmp_path / "exp")
    refused = run_copy(script, *options, "--stop_stage", "3", check=False)
    assert refused.returncode == 2 and "no row of dev has votes" in refused.stderr
    write("dev", 12, lambda n: {"Ann1": str(1 + n % 6), "Ann2": "1"})
    said = run_copy(script, *options)
    assert "the votes of test are withheld" in said.stdout
    for system in ("prior", "linear", "shala"):
        assert len((tmp_path / "exp" / system / "predictions.jsonl").read_text().splitlines()) == 4
    assert (tmp_path / "exp" / "pack" / "trained.safetensors").is_file()


@pytest.mark.parametrize("recipe", ["crema_d"], indirect=True)
def test_crema_d_data_and_features(recipe, tmp_path):
    _, script, model = recipe
    corpus = tmp_path / "corpus"
    (corpus / "AudioWAV").mkdir(parents=True)
    (corpus / "processedResults").mkdir()
    actors = [str(1000 + index) for index in range(10)]
    (corpus / "VideoDemographics.csv").write_text("ActorID,Age,Sex\n" + "\n".join(f"{a},30,Male" for a in actors))
    lines = ['"","A","D","F","H","N","S","fileName"']
    rng = np.random.default_rng(0)
    for index in range(40):
        name = f"{actors[index % 10]}_DFA_ANG_X{index}"
        soundfile.write(corpus / "AudioWAV" / f"{name}.wav", 0.1 * rng.standard_normal(8000), 16_000)
        lines.append(f'"1{index:05d}",{",".join(map(str, rng.multinomial(9, [1 / 6] * 6)))},"{name}"')
    (corpus / "processedResults" / "tabulatedVotes.csv").write_text("\n".join(lines))
    run_copy(script, "--corpus_root", corpus, "--model", model, "--exp", tmp_path / "exp", "--stop_stage", "2")
    (folder,) = (script.parent / "features").iterdir()
    entries = FeatureStore(folder).entries
    train = len(read_manifest(next((script.parent / "data").glob("*/manifest.jsonl")), "train"))
    assert len(entries) == 40 + 2 * train, "two augmentations of each training clip"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--colour", "red"), "unknown option --colour"),
        (("--stage", "one"), "--stage"),
        (("--method", "magic"), "--method magic"),
        (("--readout", "song"), "--readout: invalid choice: 'song'"),
        (("--method", "shala_exact", "--readout", "slots"), "goes with --readout label_token"),
        (("--method", "shala,few_shot"), "an untrained projector says nothing"),
        (("--part", "mnli"), "crema_d has no parts"),
        (("--modality", "text", "--method", "attentive"), "--method attentive: for sound only"),
        (("--modality", "text", "--augmentations", "1"), "are for sound, and none goes in"),
        (("--modality", "text", "--skip_bad", "yes"), "are for sound, and none goes in"),
        (("--fold", "7"), "--fold: invalid choice: '7'"),
        (("--fold", "1", "--corpus", "mini"), "mini has a split of its own"),
        (("--learning_rate", "fast"), "--learning_rate is 'fast': use 1e-3 or 3e-4,1e-3"),
        (("--learning_rate", "1e-3,0.001"), "rates above 0, each once"),
        (("--stage",), "needs a value"),
        (("--corpus_root", "/nowhere"), "/nowhere"),
        (("--stage", "4", "--corpus_root", "/nowhere"), "run stage 3 first"),
    ],
)
def test_wrong_options_die(options, message, tmp_path):
    done = run_recipe("crema_d", "--exp", tmp_path / "exp", *options, check=False)
    assert done.returncode == 2 and message in done.stderr


def test_help_names_every_option():
    output = run_recipe("mini", "--help").stdout
    known = vars(recipe_module.parse(["--recipe", "r", "--corpus", "c"]))
    for option in known.keys() - {"recipe", "corpus", "usual_model", "usual_augmentations"}:  # which a run.sh gives
        assert f"--{option} " in output, option


def test_every_command_goes_through_a_launcher(tmp_path, monkeypatch):
    """Features, zero-shot, classifiers and calibration ran on a cluster's login node."""
    started = []

    def started_by(command):
        started.append(list(command))
        for word in command:
            if word.endswith("predictions.jsonl"):
                Path(word).parent.mkdir(parents=True, exist_ok=True)
                for name in ("predictions.jsonl", "predictions_dev.jsonl"):
                    Path(word).with_name(name).write_text("{}\n" * 12)

    monkeypatch.setattr(recipe_module, "call", started_by)
    monkeypatch.setattr(recipe_module, "need", lambda *_: None)
    monkeypatch.setattr(recipe_module, "has_votes", lambda *_: True)
    for name in ("train_cmd", "predict_cmd", "cpu_cmd"):
        monkeypatch.setenv(name, f"on_{name} shala-audio")
    given = ["--recipe", str(RECIPES / "crema_d"), "--corpus", "crema_d", "--modality", "audio", "--stop_stage", "6"]
    arguments = [*given, "--corpus_root", str(tmp_path), "--exp", str(tmp_path / "exp"), "--method", "sft_soft,shala"]
    recipe_module.main(arguments)
    launched = {(command[0], *(word for word in command[2:4] if word.isalpha())) for command in started}
    assert launched >= {
        ("on_cpu_cmd", "data", "prepare"), ("on_predict_cmd", "features"), ("on_train_cmd", "train"),
        ("on_predict_cmd", "train"), ("on_predict_cmd", "predict"), ("on_predict_cmd", "evaluate", "baseline"),
        ("on_cpu_cmd", "evaluate", "calibrate"), ("on_cpu_cmd", "evaluate", "score"), ("on_cpu_cmd", "evaluate", "report"),
    }  # fmt: skip
    started.clear()
    recipe_module.main([*arguments, "--baselines", "none", "--stage", "5", "--stop_stage", "5"])
    assert not any("baseline" in command for command in started)


@pytest.mark.parametrize(
    ("launcher", "message"), [(None, "not in the environment"), ("no-such-program", "no such file")]
)
def test_a_launcher_that_is_missing_is_named(tmp_path, monkeypatch, capsys, launcher, message):
    """A bash array is not exported, and a recipe would have run on one process in silence."""
    monkeypatch.delenv("cpu_cmd", raising=False)
    if launcher:
        monkeypatch.setenv("cpu_cmd", launcher)
    given = ["--recipe", str(RECIPES / "mini"), "--corpus", "mini", "--exp", str(tmp_path / "exp"), "--max_rows", "40"]
    with pytest.raises(SystemExit) as caught:
        recipe_module.main([*given, "--stop_stage", "1"])
    said = capsys.readouterr().err
    assert caught.value.code == 2 and message in said and "cmd.sh" in said and "To resume from here" in said


@pytest.mark.parametrize("recipe", ["mini"], indirect=True)
def test_what_is_the_recipes_own_is_not_in_the_name(recipe, tmp_path):
    _, script, _ = recipe
    run_copy(script, "--stop_stage", "1", "--max_rows", "20")
    assert [path.name for path in (script.parent / "exp").iterdir()] == ["shala_label_token_seed0_max20"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["crema_d", "goemotions"], indirect=True)
def test_a_new_recipe_goes_from_votes_to_results(recipe, tmp_path):
    like, script, model = recipe
    sound, recipes = like == "crema_d", script.parents[1]
    corpus = tmp_path / "my corpus"  # with a blank in its name
    (corpus / "clips").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with open(corpus / "votes.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "who", "emotion", "speaker", "said"])
        for item in range(48):
            soundfile.write(corpus / "clips" / f"c{item}.wav", 0.1 * rng.standard_normal(8000), 16_000)
            for who in range(3):
                feels = rng.choice(["Angry", "Calm", "don't know"], p=[0.5, 0.4, 0.1])
                writer.writerow([f"c{item}", f"r{who}", feels, f"s{item % 8}", f"words {item}"])
    given = [
        "--item",
        "file",
        "--rater",
        "who",
        "--label",
        "emotion",
        "--speaker",
        "speaker",
        "--leave-out",
        "don't know",
    ]
    given += ["--clips", str(corpus / "clips")] if sound else ["--text", "said"]
    command = ["recipe", "new", "lab", str(corpus / "votes.csv"), *given, "--recipes", str(recipes)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    with pytest.raises(UserError, match="lab: is there already"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    lab = recipes / "lab"
    assert str(tmp_path) not in "".join(path.read_text() for path in lab.rglob("*") if path.is_file())
    assert load_task(lab / "task.yaml").label_names == ("Angry", "Calm")
    few_steps(lab / "conf")
    more = []
    if not sound:
        (tmp_path / "bert").mkdir()
        more = ["--encoder", make_tiny_bert(tmp_path / "bert", ("words", "1", "2"))]
    run_copy(lab / "run.sh", "--corpus_root", corpus, "--model", model, "--exp", tmp_path / "exp", *more)
    systems = {"zero_shot", "warm_start", "shala", "linear"}
    check_experiment(tmp_path / "exp", systems | ({"encoder"} if more else set()))
    summary = json.loads((lab / "data" / "seed0" / "summary.json").read_text())
    assert sum(split["rows"] for split in summary["splits"].values()) == 48
    assert summary["left_out"]["ratings as don't know"] > 0
    refused = run_copy(lab / "run.sh", "--corpus_root", corpus, "--task", "mini", check=False)
    assert (refused.returncode, "has one of its own" in refused.stderr) == (2, True)


def test_new_recipe_says_what_is_wrong(tmp_path):
    (tmp_path / "votes.csv").write_text("a,b\n1,2\n")
    for arguments, says in (
        (["2lab", "votes.csv"], "a recipe's name is letters"),
        (["lab", "votes.csv"], "has no TEMPLATE/cmd.sh; go to a clone"),
        (["lab", "votes.csv", "--recipes", str(RECIPES)], "--clips or --text: say where the sound is"),
        (
            ["lab", "votes.csv", "--text", "b", "--recipes", str(RECIPES)],
            "name the column of what was judged with --item",
        ),
    ):
        arguments[1] = str(tmp_path / arguments[1])
        if "--recipes" not in arguments:
            arguments += ["--recipes", str(tmp_path)]
        with pytest.raises(UserError, match=re.escape(says)):
            CliRunner().invoke(app, ["recipe", "new", *arguments], catch_exceptions=False)
    assert not (RECIPES / "lab").exists() and not list(RECIPES.glob(".lab*"))


@pytest.mark.parametrize("recipe", ["mini"], indirect=True)
def test_the_environment_says_how_commands_are_started(recipe, tmp_path, monkeypatch):
    """cmd.sh put its own in the place of what a job had exported."""
    _, script, _ = recipe
    monkeypatch.setenv("cpu_cmd", "nowhere_to_be_found shala-audio")
    done = run_copy(script, "--stop_stage", "1", "--max_rows", "20", "--exp", tmp_path / "exp", check=False)
    assert done.returncode != 0 and "nowhere_to_be_found" in done.stderr


def test_msp_podcast_as_slurm_starts_it(tmp_path):
    """The job's script, from the folder that it was submitted in; options behind the corpus go to run.sh."""
    make_msp_podcast(tmp_path / "corpus")
    shutil.copytree(
        RECIPES / "msp_podcast",
        tmp_path / "recipes" / "msp_podcast",
        ignore=shutil.ignore_patterns("exp", "data", "features"),
    )
    script = tmp_path / "recipes" / "msp_podcast" / "slurm.sbatch"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "1"}
    command = ["bash", str(script), str(tmp_path / "corpus"), "--stop_stage", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "recipes" / "msp_podcast" / "data").glob("*/manifest.jsonl"))
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode and "name the folder of MSP-Podcast" in done.stderr
    (script.parent / "run.sh").write_text("#!/bin/sh\necho $train_cmd: $@\n")
    several = {**environment, "SLURM_GPUS_ON_NODE": "4"}
    done = subprocess.run([*command, "--model", "x"], capture_output=True, text=True, check=True, env=several)
    assert "multi_gpu.yaml --num_processes 4 -m shala_audio:" in done.stdout and done.stdout.endswith("--model x\n")


def test_a_fold_with_another_classifier_or_start_is_not_done(tmp_path):
    """`--fold all` with another --encoder said that it was done, and kept the other's numbers."""

    def asked(*more: str) -> str:
        words = ["--recipe", str(RECIPES / "chaosnli"), "--corpus", "chaosnli", "--modality", "text", *more]
        return recipe_module._asked(recipe_module.Recipe(recipe_module.parse(words), words))

    start = tmp_path / "trained.safetensors"
    start.write_bytes(b"one")
    found = [asked(), asked("--encoder", "a"), asked("--encoder", "b"), asked("--init", str(tmp_path))]
    start.write_bytes(b"two")
    found.append(asked("--init", str(tmp_path)))
    assert len(set(found)) == 5
    assert asked("--nproc", "2", "--exp", "x", "--stop_stage", "6", "--fold", "all", "--method", "shala") == found[0]
