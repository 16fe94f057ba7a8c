"""A page to try a model in, and the JSON endpoints under it. Nothing that is uploaded is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import UploadFile as StarletteUploadFile
from starlette.middleware.trustedhost import TrustedHostMiddleware

import shala_audio
from shala_audio.audio.io import SAMPLE_RATE, Samples, read_sound
from shala_audio.audio.speech import voiced_seconds
from shala_audio.distribution import Floats, LabelDistribution, LabelRates
from shala_audio.errors import UserError, no_note
from shala_audio.evaluation.score import ONE_LABEL_EACH, read_score
from shala_audio.inference import default
from shala_audio.inference.neighbours import Neighbours
from shala_audio.inference.predictor import Predictor
from shala_audio.inference.transcribe import Transcriber
from shala_audio.io import has_half_characters
from shala_audio.models.folder import CARD
from shala_audio.web import label_studio, schema
from shala_audio.web.endpoints import endpoints_page
from shala_audio.web.limits import BodyLimit, Compute, Headers, Limits, Turns
from shala_audio.web.metrics import Counting, Metrics

UPLOAD_SECONDS = 120.0  # in which an upload must have come
PAUSE = 20.0  # seconds in which an upload may stand still
UPLOADS = 64  # bodies that come in at once
MOST_OVERLAP = 4  # windows of a timeline over the same moment
PEAKS = 600  # points of a waveform
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
PAGE = Path(__file__).parent / "page"
TRANSCRIPT = "transcript"  # the text field that sound itself can fill in
# The page needs nothing from anywhere else, and nothing else may frame or script it.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Answer = schema.Answer | schema.Rates


class Served:
    """A model, and what stands beside it in its folder: its training items, and how good it is."""

    def __init__(
        self, predictor: Predictor, neighbours: bool, transcriber: Transcriber | None = None, limits: Limits = Limits()
    ) -> None:
        self.predictor, self.task, self.limits = predictor, predictor.task, limits
        self.transcriber = transcriber if predictor.task.has_audio else None
        fields = self.task.given_fields() if "text" in self.task.modality else ()
        # Text fields that are filled in with what was heard, where they are not given; and those that must come.
        self.transcribed = [name for name in fields if self.transcriber is not None and name == TRANSCRIPT]
        self.needed = [name for name in fields if name not in self.transcribed]
        predictor.note = no_note  # the page says it
        folder = predictor.folder
        self.name, self.card = _name_and_card(folder)
        self.neighbours = Neighbours.load(folder) if folder and neighbours else None
        self.entropies: Floats | None = self.neighbours.entropies() if self.neighbours else None
        score = read_score(folder / "score.json") if folder and (folder / "score.json").is_file() else {}
        self.trust = None
        if "jsd" in score:
            # Not where raters who name one label each stand for raters of several.
            bound = score.get("agreement_bound", {})
            panel = None if bound.get("kind") == ONE_LABEL_EACH else bound.get("jsd")
            self.trust = schema.Trust(model=score["jsd"]["value"], another_panel=panel["value"] if panel else None)

    def describe(self) -> schema.Task:
        people = None
        if self.neighbours is not None and self.entropies is not None:
            low, median, high = map(float, np.quantile(self.entropies, [0.05, 0.5, 0.95]))
            raters = [sum(item["votes"].values()) for item in self.neighbours.items]
            people = schema.People(items=len(raters), raters=float(np.mean(raters)), low=low, median=median, high=high)
        return schema.Task(
            name=self.task.name,
            model=self.name,
            card=self.card is not None,
            labels=[label.name for label in self.task.asked or self.task.labels],
            several=bool(self.task.asked),
            ordered=self.task.ordered,
            modality=self.task.modality,
            text_fields=self.needed,
            highest_entropy=float(np.log2(len(self.task.labels))),
            people=people,
            trust=self.trust,
        )

    def answers(self, asked: Sequence[tuple[UploadFile | None, str | None]]) -> list[Answer | UserError]:
        """What is said of clips and texts, or what is wrong with them."""
        wrong: dict[int, UserError] = {}
        read: list[tuple[int, float | None, bool, str | None]] = []  # not the sound: one at a time is held

        def inputs() -> Iterator[tuple[tuple[Samples, int] | None, dict[str, str]]]:
            for number, (clip, text) in enumerate(asked):
                try:
                    fields, heard = _fields(self, text), None
                    samples = None if clip is None else _read(clip, self.limits.seconds)
                    if self.transcriber is not None and samples is not None:
                        heard = self.transcriber.transcribe([samples])[0].text
                        fields = {**{name: heard for name in self.transcribed if heard}, **fields}
                except UserError as error:
                    wrong[number] = error.with_traceback(None)
                    continue
                seconds = None if samples is None else len(samples) / SAMPLE_RATE
                read.append((number, seconds, samples is None or voiced_seconds(samples) > 0, heard))
                yield None if samples is None else (samples, SAMPLE_RATE), fields

        found: Sequence[tuple[LabelDistribution | LabelRates, Floats | None]]
        try:
            if self.task.asked:
                found = [(one, None) for one in self.predictor.predict_rates(fields for _, fields in inputs())]
            elif self.neighbours is None:
                found = [(one, None) for one in self.predictor.predict_batch(inputs())]
            else:
                found = self.predictor.predict_with_states(inputs())
        except UserError as error:
            if len(asked) == 1:
                return [error.with_traceback(None)]
            read.clear()
            for clip, _ in asked:  # one of them is to blame
                if clip is not None:
                    clip.file.seek(0)
            return [answer for one in asked for answer in self.answers([one])]
        said = {
            number: self._answer(seconds, speech, heard, *answer)
            for (number, seconds, speech, heard), answer in zip(read, found, strict=True)
        }
        return [wrong[number] if number in wrong else said[number] for number in range(len(asked))]

    def _answer(
        self,
        seconds: float | None,
        speech: bool,
        heard: str | None,
        found: LabelDistribution | LabelRates,
        state: Floats | None,
    ) -> Answer:
        if isinstance(found, LabelRates):
            return schema.Rates(task=self.task.name, rates=dict(found))
        nearest, share = [], None
        if self.neighbours is not None and self.entropies is not None and state is not None:
            nearest = [schema.Neighbour(**vars(item)) for item in self.neighbours.nearest(state)]
            share = float(np.searchsorted(self.entropies, found.entropy) / len(self.entropies))
        return schema.Answer(
            task=self.task.name,
            seconds=seconds,
            speech=speech,
            heard=heard,
            probs=found.to_dict(),
            entropy=found.entropy,
            top=found.top,
            contested=found.contested,
            attributes=dict(found.attributes),
            more_contested_than=share,
            nearest=nearest,
        )

    def timelines(self, asked: Sequence[tuple[UploadFile, float, float]]) -> list[schema.Timeline | UserError]:
        """Of clips with the window and the hop of each, or what is wrong with them."""
        found: list[schema.Timeline | UserError] = []
        for clip, window, hop in asked:
            try:
                found.append(self.timeline(_read(clip, self.limits.seconds), window, hop))
            except UserError as error:
                found.append(error)
        return found

    def timeline(self, samples: Samples, window: float, hop: float) -> schema.Timeline:
        moments = self.predictor.timeline((samples, SAMPLE_RATE), window, hop)
        spans = np.array_split(np.abs(samples), min(PEAKS, len(samples)))
        return schema.Timeline(
            task=self.task.name,
            seconds=len(samples) / SAMPLE_RATE,
            peaks=[round(float(min(span.max(), 1.0)), 4) for span in spans],
            moments=[
                schema.Moment(
                    start=moment.start,
                    end=moment.end,
                    voiced=moment.voiced,
                    probs=moment.distribution.to_dict(),
                    entropy=moment.distribution.entropy,
                )
                for moment in moments
            ],
        )


def create_app(
    predictors: Sequence[Predictor],
    hosts: Sequence[str] = ("*",),
    neighbours: bool = True,
    transcriber: Transcriber | None = None,
    limits: Limits = Limits(),
) -> FastAPI:
    """The web application of one model, or of one for sound and one for text.

    Args:
        predictors: of which the first that takes what was sent answers.
        hosts: names by which it may be called; others are refused, so that no page elsewhere reaches it by its own name.
        neighbours: whether to show training items, with their votes and texts, to whoever asks.
        transcriber: writes down what is said in a clip; it is shown, and fills in the transcript of a task that takes one.
        limits: of uploads and of the waiting line.
    """
    app = FastAPI(
        title="shala-audio",
        version=shala_audio.__version__,
        summary="Distributions of human judgement, from clips and texts.",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
    )
    metrics = Metrics()
    app.add_middleware(
        BodyLimit, bytes_allowed=limits.upload * 2**20, seconds=UPLOAD_SECONDS, pause=PAUSE, uploads=UPLOADS
    )
    app.add_middleware(Headers, headers=HEADERS)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(Counting, metrics=metrics)
    served = [Served(predictor, neighbours, transcriber, limits) for predictor in predictors]
    turns = Turns(limits.waiting, metrics)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/page.js", include_in_schema=False)
    def script() -> FileResponse:
        return FileResponse(PAGE / "page.js")

    @app.get("/page.css", include_in_schema=False)
    def style() -> FileResponse:
        return FileResponse(PAGE / "page.css")

    @app.get("/examples/{name}.ogg", include_in_schema=False)
    def example(name: Literal["clear", "contested"]) -> FileResponse:
        return FileResponse(shala_audio.example(name), media_type="audio/ogg")

    @app.get("/cards/{name}", include_in_schema=False)
    def card(name: str) -> FileResponse:
        for one in served:
            if one.task.name == name and one.card is not None:
                return FileResponse(one.card, media_type="text/plain; charset=utf-8")
        raise HTTPException(404, f"{name}: no such card")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(endpoints_page(app.openapi()))

    @app.get("/health")
    def health() -> schema.Health:
        """That it is up, and what answers."""
        return schema.Health(status="ok", version=shala_audio.__version__, tasks=[one.task.name for one in served])

    @app.get("/metrics", response_class=PlainTextResponse)
    def counted() -> Response:
        """Counts and seconds for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/api/tasks")
    def tasks() -> schema.Tasks:
        """The tasks that are served, how much people disagree in them, and the limits."""
        shown = schema.Limits(bytes=limits.upload * 2**20, seconds=limits.seconds, characters=limits.characters)
        return schema.Tasks(tasks=[one.describe() for one in served], limits=shown)

    refusals: dict[int | str, dict[str, Any]] = {
        408: {"description": "The upload came too slowly."},
        400: {"description": "A form that cannot be read, or another host was called."},
        403: {"description": "A page elsewhere sent it."},
        413: {"description": "The upload or the text is too large."},
        415: {"description": "Not a form."},
        422: {"description": "Nothing that can be judged, or sound that is too long: `detail` says why."},
        503: {"description": "Too many requests are waiting; `Retry-After` says when to come back."},
    }

    @app.post("/api/predict", responses=refusals)
    async def predict(
        request: Request,
        clip: Annotated[
            UploadFile | None,
            File(description="a sound file; m4a and webm need ffmpeg here"),
        ] = None,
        text: Annotated[
            str | None, Form(description="a text, or a JSON object of the task's text fields where it has several")
        ] = None,
    ) -> Answer:
        """The distribution of human judgement of a clip, a text or both; or, where people may choose several labels, the share of
        them who would choose each."""
        await _check_fields(request, "clip", "text")
        if text is not None and len(text) > limits.characters:
            raise HTTPException(413, f"the text is longer than {limits.characters:,} characters")
        return await _answered(turns, request, _chosen(served, clip is not None).answers, limits.together, (clip, text))

    @app.post("/api/timeline", responses=refusals)
    async def timeline(
        request: Request,
        clip: Annotated[
            UploadFile,
            File(description="a sound file; m4a and webm need ffmpeg here"),
        ],
        window: Annotated[float, Query(ge=0.5, le=30, description="seconds of a window")] = 4.0,
        hop: Annotated[float, Query(ge=0.5, le=30, description="seconds between windows, at most a window")] = 2.0,
    ) -> schema.Timeline:
        """The distributions of windows over a clip, for tasks of sound alone."""
        await _check_fields(request, "clip")
        one = _chosen(served, True)
        if hop < window / MOST_OVERLAP:
            raise HTTPException(422, f"hop is {hop} s; a {MOST_OVERLAP}th of the window or more is needed")
        if one.task.modality != "audio":
            raise HTTPException(422, f"task {one.task.name} is not of sound alone")
        return await _answered(turns, request, one.timelines, 1, (clip, window, hop))

    app.include_router(label_studio.router(served, lambda *asked: _answered(turns, *asked)))
    return app


def _name_and_card(folder: Path | None) -> tuple[str, Path | None]:
    """What a model is called, and its card if it has one; the default model's parts share one."""
    if folder is None:
        return "unsaved", None
    if folder.parent == default.FOLDER:
        return "default", default.FOLDER / CARD
    return folder.name, folder / CARD if (folder / CARD).is_file() else None


async def _answered(turns: Turns, request: Request, compute: Compute, together: int, item: Any) -> Any:
    try:
        return await turns.take(request, compute, together, item)
    except UserError as error:
        raise HTTPException(422, str(error)) from None


async def _check_fields(request: Request, *known: str) -> None:
    """Raise where no form was sent, or it has a field that nobody reads: what stands under a wrong name would not be missed."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in FORMS:
        raise HTTPException(415, f"{kind}: send a form (multipart/form-data), as `curl -F` does")
    for name, value in (await request.form()).items():
        if name not in known:
            right = known[0] if isinstance(value, StarletteUploadFile) else known[-1]
            raise HTTPException(
                422, f"{name}: no such field; {'a sound file' if right == 'clip' else 'a text'} goes in `{right}`"
            )


def _chosen(served: Sequence[Served], sound: bool) -> Served:
    """The first model that takes sound, or that needs none."""
    for one in served:
        if one.task.has_audio == sound:
            return one
    names = ", ".join(one.task.name for one in served)
    raise HTTPException(422, f"{names}: takes no sound" if sound else f"{names}: send a clip")


def _fields(one: Served, text: str | None) -> dict[str, str]:
    """Text fields by name; what is no JSON object of them is the text of a task with one field."""
    names = one.needed
    if text and not names:
        names = one.transcribed  # a transcript may come all the same
    if not text:
        if names:
            raise UserError(f"task {one.task.name} needs a text: {', '.join(names)}")
        return {}
    if not names:
        raise UserError(f"task {one.task.name} takes no text")
    if len(names) == 1:
        if one.task.asked and text.lstrip().startswith("{"):
            raise UserError(f"task {one.task.name}: asks about all labels; send {names[0]} alone, as it is")
        return {names[0]: text}
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if (
        not isinstance(fields, dict)
        or has_half_characters(fields)
        or set(fields) != set(names)
        or not all(isinstance(v, str) for v in fields.values())
    ):
        raise UserError(f"`text` must be a JSON object with the strings {', '.join(names)}")
    return fields


def _read(clip: UploadFile, longest: float) -> Samples:
    if not clip.size:
        raise UserError("the clip is empty")
    return read_sound(clip.file, longest=longest)
