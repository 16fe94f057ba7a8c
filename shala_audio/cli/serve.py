"""`shala-audio serve`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shala_audio.errors import UserError, missing_extra

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    model: Annotated[str, typer.Argument(help="Folder of a trained model, or default: the ones that come with us.")],
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.", min=0, max=65535)] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="On loopback, behind another server: a name by which that one is called.")
    ] = None,
    neighbours: Annotated[
        bool, typer.Option(help="Show training items, with their votes and texts, to whoever asks.")
    ] = True,
    transcribe: Annotated[
        bool, typer.Option(help="Write down, with Whisper, what is said in a clip; a task with a transcript takes it.")
    ] = False,
    upload: Annotated[int, typer.Option(help="MiB of the largest upload.", min=1)] = 20,
    seconds: Annotated[float, typer.Option(help="Of the longest sound.", min=1)] = 600.0,
    characters: Annotated[int, typer.Option(help="Of the longest text.", min=1)] = 10_000,
    waiting: Annotated[int, typer.Option(help="Requests that may wait.", min=0)] = 32,
    together: Annotated[int, typer.Option(help="Requests of those that are answered together.", min=1)] = 16,
) -> None:
    """Serve a page to try a model in, and JSON endpoints (`POST /api/predict`, described at `/docs`).

    shala-audio serve default

    shala-audio serve exp/crema_d/shala --port 8080

    curl -F clip=@clip.wav http://127.0.0.1:8000/api/predict
    """
    try:
        import uvicorn

        from shala_audio.web.app import create_app
        from shala_audio.web.limits import Limits
    except ImportError as error:
        raise missing_extra(error, "the page", "serve") from None
    import socket

    from shala_audio.inference import default
    from shala_audio.inference.predictor import Predictor
    from shala_audio.inference.transcribe import Transcriber

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))  # before the model is loaded
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror}; choose another") from None
    folders = [default.part(sound=True), default.part(sound=False)] if model == "default" else [model]
    hosts = ["127.0.0.1", "localhost", "[::1]", *(allow_host or ())] if host in LOOPBACK else ["*"]
    transcriber = Transcriber() if transcribe else None
    limits = Limits(upload, seconds, characters, waiting, together)
    app = create_app([Predictor.from_pretrained(folder) for folder in folders], hosts, neighbours, transcriber, limits)
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{listening.getsockname()[1]} (Ctrl+C ends it)", file=sys.stderr)
    if host not in LOOPBACK:
        print(f"listening on {host}: whoever reaches this machine there can use it", file=sys.stderr)
    config = uvicorn.Config(app, log_level="warning", limit_concurrency=512, timeout_keep_alive=10)
    uvicorn.Server(config).run(sockets=[listening])
