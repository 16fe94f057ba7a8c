"""The house: how many rooms it has, which way arrows go between them, and what starts without torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from shala_audio.manifest import Row, write_manifest

PACKAGE = Path(__file__).parents[1] / "shala_audio"
# A module may import from layers below its own, and from its own folder. Those of one layer do not import each other.
LAYERS = (
    ("distribution", "errors", "torchaudio_fix"),
    ("devices", "io"),
    ("task", "votes"),
    ("manifest",),
    ("corpora", "audio"),
    ("models", "evaluation"),
    ("inference",),
    ("training",),
    ("baselines",),
    ("recipe", "web"),
    ("cli",),
    ("__init__", "__main__"),
)
# What the lower of two neighbours takes of the other, and why.
ALLOWED = {
    ("votes", "manifest"): "types of rows",
    ("corpora", "audio"): "Lhotse's and datasets' clips are written as sound",
    ("evaluation", "models"): "names of files in a model's folder",
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, also within functions; not for types alone."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("shala_audio"):
            deeper = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "shala_audio"
                else [node.module]
            )
            found.update(name for name in deeper if name)
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("shala_audio"))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def test_arrows_go_one_way():
    layer = {name: level for level, names in enumerate(LAYERS) for name in names}
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE.parent).with_suffix("")
        here = room(".".join(relative.parts))
        for module in imports(path):
            there = room(module)
            if (
                there in layer
                and there not in (here, "__init__")
                and layer[there] >= layer[here]
                and (here, there) not in ALLOWED
            ):
                wrong.append(f"{relative} imports {module}")
    assert not wrong


def test_every_room_has_its_layer():
    rooms = {
        path.stem if path.is_file() else path.name
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or path.is_dir()
    }
    assert rooms - {"__pycache__", "assets", "configs"} == {name for names in LAYERS for name in names}


@pytest.mark.parametrize(
    "module", ["distribution", "manifest", "votes", "task", "corpora.ratings", "evaluation.score", "evaluation.report"]
)
def test_scoring_starts_without_torch(module):
    program = f"import sys, shala_audio.{module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


WITHOUT_EXTRAS = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("trl", "datasets", "fastapi", "openpyxl"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from shala_audio.cli.main import main
sys.argv[0] = "shala-audio"
main()
"""


def test_the_core_predicts_and_scores_without_extras(tiny_lm, tmp_path):
    from tests.tiny import tiny_model

    tiny_model(tiny_lm).save_pretrained(tmp_path / "model")
    rows = [
        Row(f"r{n}", "mini_text", "test", f"s{n}", None, {"comment": "no"}, {"anger": 3, "sadness": 1})
        for n in range(4)
    ]
    write_manifest(tmp_path / "manifest.jsonl", rows)

    def run(*arguments):
        command = [sys.executable, "-c", WITHOUT_EXTRAS, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    predicted = run("predict", "model", "--text", "oh no", "--format", "jsonl")
    assert predicted.returncode == 0 and "anger" in predicted.stdout, predicted.stderr
    answers = [
        {"id": f"r{n}", "probs": {"anger": 0.5, "happiness": 0.0, "sadness": 0.5, "calm": 0.0}} for n in range(4)
    ]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers))
    scored = run("evaluate", "score", "said.jsonl", "manifest.jsonl")
    assert scored.returncode == 0 and "jsd" in scored.stdout, scored.stderr
    for command, extra in ((("train", "--help"), "train"), (("serve", "model"), "serve")):
        refused = run(*command)
        assert refused.returncode == 2 and f"pip install '.[{extra}]'" in refused.stderr


def test_a_step_of_label_token_is_followed_through_few_files(tiny_lm, tmp_path):
    """Files of ours whose code runs in one training step, beside the callbacks around it."""
    from tests.tiny import tiny_model
    from tests.training.helpers import shala_trainer

    trainer = shala_trainer(tiny_model(tiny_lm), tmp_path, max_steps=1, save_strategy="no")
    rows = [trainer.train_dataset[index] for index in range(8)]
    files = set()

    def trace(frame, event, argument):
        name = frame.f_code.co_filename
        if event == "call" and str(PACKAGE) in name:
            files.add(Path(name).relative_to(PACKAGE).as_posix())

    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    sys.setprofile(trace)
    try:
        trainer.training_step(trainer.model, trainer.batcher(rows))
    finally:
        sys.setprofile(None)
    assert len(files) <= 10, sorted(files)
