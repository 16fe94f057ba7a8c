"""`shala-audio serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from shala_audio.errors import UserError


def serve(
    model: Annotated[str, typer.Argument(help="Folder of a trained model, or default (sound).")],
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.")] = 8000,
) -> None:
    """Serve a page and a JSON endpoint (`POST /api/predict`, described at `/docs`)."""
    try:
        import uvicorn

        from shala_audio.web.app import create_app
    except ImportError:
        raise UserError("the page needs FastAPI: pip install 'shala-audio[web]'") from None
    from shala_audio.inference import default
    from shala_audio.inference.predictor import Predictor

    folder = default.part(sound=True) if model == "default" else model
    uvicorn.run(create_app(Predictor.from_pretrained(folder)), host=host, port=port, log_level="warning")
