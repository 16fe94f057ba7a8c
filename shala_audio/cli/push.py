"""`shala-audio push`: a trained model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    name: Annotated[str, typer.Argument(help="Repository on the hub: user/name.", metavar="USER/NAME")],
    public: Annotated[bool, typer.Option("--public", help="Let everyone see a repository that is made.")] = False,
) -> None:
    """Put a trained model on the Hugging Face hub, with a card of its task, corpus, results and limits.

    Example: shala-audio push exp/crema_d/shala my-lab/crema-d-emotions
    """
    from shala_audio.inference.hub import push as send

    print(send(model, name, private=not public))
