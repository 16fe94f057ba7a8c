"""Models on the Hugging Face hub: only the files below are fetched, and only they are sent."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

from shala_audio.errors import UserError, first_line
from shala_audio.files import write_text
from shala_audio.inference.card import model_card
from shala_audio.models.folder import CARD, CONFIG, PREPROCESSOR, SETTINGS, TOKENIZER, TRAINED

FILES = (
    SETTINGS, TRAINED, CONFIG, PREPROCESSOR, TOKENIZER, CARD, "training.json", "score.json", "calibration_*.json",
)  # fmt: skip
REPORT = "RESULTS*"  # is sent with a packed experiment, and not needed to predict
HTTP_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]  # of the HTTP library below, such as for no connection
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_model(name: str | Path, revision: str | None = None) -> Path:
    """The folder of that name, or else the hub's model "user/name", fetched into the hub's cache.

    Raises:
        UserError: it is no folder here, and the hub does not give it.
    """
    folder = Path(name)
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
