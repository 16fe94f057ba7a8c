"""A page to try a model in, and the JSON endpoint under it. Nothing that is uploaded is kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from fastapi import FastAPI, File, Form, HTTPException, UploadFile
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from shala_audio.errors import UserError
from shala_audio.inference.predictor import Predictor

LARGEST_UPLOAD = 20 * 2**20  # bytes
PAGE = Path(__file__).with_name("index.html")


def create_app(predictor: Predictor) -> FastAPI:
    """The web application of one model."""
    app = FastAPI(title="shala-audio", summary="Distributions of human judgement, from clips and texts.")
    task = predictor.task

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.get("/api/task")
    def describe_task() -> dict[str, Any]:
        """The task's name, labels in order, and what it takes."""
        return {"name": task.name, "labels": list(task.label_names), "modality": task.modality}

    @app.post("/api/predict")
    async def predict(clip: UploadFile | None = File(None), text: str | None = Form(None)) -> dict[str, Any]:
        """The distribution of human judgement of a clip (a sound file) or a text."""
        sound = None
        if clip is not None:
            content = await clip.read(LARGEST_UPLOAD + 1)
            if len(content) > LARGEST_UPLOAD:
                raise HTTPException(413, f"the clip is larger than {LARGEST_UPLOAD // 2**20} MiB")
            if not content:
                raise HTTPException(422, "the clip is empty")
            sound = io.BytesIO(content)
        try:
            found = await run_in_threadpool(predictor.predict, sound, text)
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        return {**found.to_record(), "top": found.top, "contested": found.contested}

    return app
