"""`shala-audio models list|pull`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Default models: what they are, and fetching them.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """Default models, their licence, and where they came from.

    Example: shala-audio models list
    """
    from shala_audio.models.sources import DEFAULT_MODELS, cache_folder, describe

    table = Table("name", "role", "licence", "state")
    for name in DEFAULT_MODELS:
        table.add_row(*describe(name).values())
    console = Console()
    console.print(table)
    console.print(f"cache: {cache_folder()} (SHALA_CACHE moves it)", highlight=False)


@app.command("pull")
def pull_models(
    names: Annotated[list[str] | None, typer.Argument(help="Names; all where none is given.", metavar="NAME")] = None,
) -> None:
    """Fetch default models, check their sha256, and keep them as safetensors. The licence is printed first.

    Example: shala-audio models pull whisper-base
    """
    from shala_audio.models.sources import DEFAULT_MODELS, pull

    for name in names or list(DEFAULT_MODELS):
        print(pull(name, print))
