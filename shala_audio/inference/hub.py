"""Models on the Hugging Face hub, with their card. Only the files below are fetched, and only they are sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError

from shala_audio.errors import UserError, first_line
from shala_audio.evaluation.report import cell
from shala_audio.evaluation.score import read_score
from shala_audio.io import read_json, render_template, write_text
from shala_audio.models.folder import CARD, CONFIG, PREPROCESSOR, SETTINGS, TOKENIZER, TRAINED
from shala_audio.models.pretrained import DEFAULT_MODELS
from shala_audio.task import task_from_dict

MEASURES = {
    "jsd": "Jensen-Shannon distance to the raters (base 2; smaller is better)",
    "accuracy": "accuracy of the plurality label",
    "macro_f1": "macro-F1 of the plurality label",
    "uar": "UAR of the plurality label",
    "entropy_correlation": "rank correlation of stated and human entropy",
}


def model_card(folder: str | Path, name: str | None = None) -> str:
    """The card in Markdown, of `shala.json`, and of `training.json` and `score.json` where they are there.

    Args:
        folder: of the model.
        name: by which others load it; the folder's where None.

    Raises:
        UserError: the folder holds no model.
    """
    folder = Path(folder)
    if not (folder / SETTINGS).is_file():
        raise UserError(f"{folder}: not a model folder ({SETTINGS} is missing)")
    settings = read_json(folder / SETTINGS)
    training = read_json(folder / "training.json") if (folder / "training.json").is_file() else {}
    score = read_score(folder / "score.json") if (folder / "score.json").is_file() else {}
    task = task_from_dict(settings["task"], str(folder / SETTINGS))
    return render_template(
        "model_card.md",
        name=name or folder.resolve().name,
        task=task,
        fields=task.text_fields() if "text" in task.modality else (),
        model=settings["model"],
        readout=settings["readout"],
        training=training,
        data=training.get("data") or {},
        rows=_rows(score),
        score=score,
        base_models=_on_the_hub(settings["model"]),
    )


def _on_the_hub(model: Mapping[str, Any]) -> list[str]:
    """Names on the hub of the language model and the encoder that a model is made of; none of what is a folder here."""
    parts = dict.fromkeys(str(model[part]) for part in ("audio_lm", "lm", "encoder") if model.get(part))
    ids = (DEFAULT_MODELS[part].hub_id if part in DEFAULT_MODELS else part for part in parts)
    return [name for name in ids if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists()]


def write_card(folder: Path) -> None:
    """Write a model folder's card into it."""
    write_text(folder / CARD, model_card(folder))


def _rows(score: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Measure, model, constant prior and human agreement bound, as written."""
    rows: list[tuple[str, ...]] = []
    for name, words in MEASURES.items():
        if name in score:
            found = (score[name], score.get("prior", {}).get(name), score.get("agreement_bound", {}).get(name))
            rows.append((words, *(cell(one or {}, interval=True) for one in found)))
    return rows


FILES = (
    SETTINGS, TRAINED, CONFIG, PREPROCESSOR, TOKENIZER, CARD, "training.json", "score.json", "calibration_*.json",
)  # fmt: skip
REPORT = "RESULTS*"  # is sent with a packed experiment, and not needed to predict
HTTP_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]  # of the HTTP library below, such as for no connection
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Comes with the toolkit, on a base of 1.5 billion parameters that is fetched at first use.
LARGE = "default-1.5b-nli"
LARGE_FOLDER = Path(__file__).parents[1] / "assets" / LARGE


def find_model(name: str | Path, revision: str | None = None) -> Path:
    """The folder of that name, or else the hub's model "user/name", fetched into the hub's cache; of "default-1.5b-nli",
    where it lies in the package.

    Raises:
        UserError: it is no folder here, and the hub does not give it.
    """
    folder = LARGE_FOLDER if str(name) == LARGE else Path(name)
    if folder.is_dir() or not REPO_ID.fullmatch(str(name)) or folder.parent.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=list(FILES)))
    except (OSError, ValueError, HTTP_ERROR) as error:
        raise UserError(
            f"{name}: no such folder, and the hub does not give a model of that name ({first_line(error)})"
        ) from None


def push(folder: str | Path, repo_id: str, private: bool = True) -> str:
    """Put a trained model on the hub, with a card made of what its folder knows.

    Args:
        folder: of the model.
        repo_id: "user/name"; made where there is none.
        private: whether only its owner sees a repository that is made.

    Returns:
        Its address.

    Raises:
        UserError: the folder holds no model, or the hub refuses.
    """
    folder = Path(folder)
    card = model_card(folder, repo_id)  # before anything is sent: it refuses a folder without a model
    if not REPO_ID.fullmatch(repo_id):
        raise UserError(f"{repo_id!r} is not the name of a repository; write it as user/name")
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if api.repo_info(repo_id).private != private:
            now, wanted = ("public", "private") if private else ("private", "public")
            raise UserError(f"{repo_id} is there already, and {now}: make it {wanted} on the hub, or take another name")
        write_text(folder / CARD, card)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, allow_patterns=[*FILES, REPORT], commit_message="Upload by shala-audio"
        )
    except (OSError, ValueError, HTTP_ERROR) as error:
        raise UserError(f"{repo_id}: the hub refuses ({first_line(error)}); `hf auth login` signs in") from None
    return f"{api.endpoint}/{repo_id}"
