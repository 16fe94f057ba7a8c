"""Label Studio's machine-learning backend: pre-labels with what most people would say, and how many, of the served models.

Label Studio calls `/label-studio/setup` and `/label-studio/predict` (its ML backend API) where the address of the service with
`/label-studio` behind it is connected to a project. A project's choices must be the labels of a served task, in any letter case.
Sound is fetched from the Label Studio that `LABEL_STUDIO_URL` and `LABEL_STUDIO_API_KEY` name, and from nowhere else.
"""

from __future__ import annotations

import io
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from fastapi import APIRouter, HTTPException, Request, UploadFile
from pydantic import BaseModel, Field

from shala_audio.errors import UserError

SECONDS = 30.0  # in which Label Studio must hand over a clip


class Job(BaseModel):
    """What Label Studio sends: tasks, and its labelling interface as XML."""

    tasks: list[dict[str, Any]] = Field(default_factory=list, max_length=1000)
    label_config: str = Field("", max_length=1_000_000)


@dataclass(frozen=True)
class Control:
    """The choices of a labelling interface: their tag's name, the name of what is judged, the key of a task's data that has it, and
    what each label is called there."""

    name: str
    judged: str
    field: str
    choices: dict[str, str]


def control_of(config: str, labels: Sequence[str]) -> Control:
    """The first tag with choices of a labelling interface that has the labels of a task.

    >>> choices = '<Choices name="c" toName="t"><Choice value="Sad"/><Choice value="happy"/></Choices>'
    >>> control_of(f'<View><Text name="t" value="$text"/>{choices}</View>', ["happy", "sad"]).choices
    {'happy': 'happy', 'sad': 'Sad'}

    Raises:
        UserError: it is no XML, or no choices are the labels.
    """
    if "<!" in config:  # entities could make it grow
        raise UserError("label_config: declarations are not read")
    try:
        tree = ElementTree.fromstring(config)
    except ElementTree.ParseError as error:
        raise UserError(f"label_config: not XML ({error})") from None
    objects = {tag.get("name"): tag for tag in tree.iter() if (tag.get("value") or "").startswith("$")}
    for tag in tree.iter("Choices"):
        offered = {(one.get("value") or "").casefold(): one.get("value") or "" for one in tag.iter("Choice")}
        judged = objects.get(tag.get("toName"))
        if judged is not None and {label.casefold() for label in labels} <= offered.keys():
            choices = {label: offered[label.casefold()] for label in labels}
            field = (judged.get("value") or "").removeprefix("$")
            return Control(tag.get("name") or "", judged.get("name") or "", field, choices)
    raise UserError(f"label_config: no Choices has all labels of the model: {', '.join(labels)}")


def fetch(address: str, most: int) -> UploadFile:
    """A clip of Label Studio's.

    Args:
        address: as the task has it.
        most: bytes.

    Raises:
        UserError: it is not there, too large, or the address is of another server.
    """
    base = os.environ.get("LABEL_STUDIO_URL", "").rstrip("/")
    if not base:
        raise UserError("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, so that clips can be fetched")
    whole = base + address if address.startswith("/") else address
    if not whole.startswith(f"{base}/"):
        raise UserError(f"{address}: not of {base}; let Label Studio serve it")
    token = os.environ.get("LABEL_STUDIO_API_KEY", "")
    wanted = urllib.request.Request(whole)
    wanted.add_unredirected_header("Authorization", f"Token {token}")  # where it leads elsewhere, that is nobody else's
    try:
        with urllib.request.urlopen(wanted, timeout=SECONDS) as answer:
            content = answer.read(most + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise UserError(f"{address}: cannot be fetched ({error})") from None
    if len(content) > most:
        raise UserError(f"{address}: larger than {most // 2**20} MiB")
    return UploadFile(io.BytesIO(content), size=len(content), filename=address.rpartition("/")[2])


def router(served: Sequence[Any], answered: Callable[..., Any]) -> APIRouter:
    """The backend's endpoints.

    Args:
        served: the models, of which the first whose labels are offered answers.
        answered: takes a request, what computes, and an item, to its turn.
    """
    found = APIRouter(prefix="/label-studio", include_in_schema=False)

    @found.get("/health")
    def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "shala-audio"}

    @found.post("/setup")
    def setup() -> dict[str, str]:
        return {"model_version": version()}

    @found.post("/webhook")
    def webhook() -> dict[str, str]:
        """It learns nothing from annotations."""
        return {}

    def version() -> str:
        return ", ".join(dict.fromkeys(f"{one.name}: {one.task.name}" for one in served))

    @found.post("/predict")
    async def predict(request: Request, job: Job) -> dict[str, Any]:
        one, control = _chosen(served, job.label_config)
        values = [str(task.get("data", {}).get(control.field, "")) for task in job.tasks]

        def asked(value: str) -> tuple[UploadFile | None, str | None]:
            return (fetch(value, one.limits.upload * 2**20), None) if one.task.has_audio else (None, value)

        def compute(jobs: Sequence[Sequence[str]]) -> list[Any]:
            (job,), size = jobs, one.limits.together  # so many clips are held, and not those of all tasks
            parts = (job[start : start + size] for start in range(0, len(job), size))
            try:
                return [[answer for part in parts for answer in one.answers([asked(value) for value in part])]]
            except UserError as error:
                return [error]

        results = []
        for task, answer in zip(job.tasks, await answered(request, compute, 1, values), strict=True):
            if isinstance(answer, UserError):
                raise HTTPException(422, f"task {task.get('id')}: {answer}")
            shares = sorted(answer.probs.items(), key=lambda pair: -pair[1])
            region = {
                "from_name": control.name,
                "to_name": control.judged,
                "type": "choices",
                "value": {"choices": [control.choices[answer.top]]},
                "meta": {"text": [", ".join(f"{label} {share:.2f}" for label, share in shares[:6])]},
            }
            results.append({"result": [region], "score": answer.probs[answer.top], "model_version": version()})
        return {"results": results}

    return found


def _chosen(served: Sequence[Any], config: str) -> tuple[Any, Control]:
    reasons = []
    for one in served:
        try:
            if one.task.asked:
                raise UserError(
                    f"task {one.task.name}: asks about its labels one at a time, which the backend does not"
                )
            return one, control_of(config, one.task.label_names)
        except UserError as error:
            reasons.append(str(error))
    raise HTTPException(422, "; ".join(dict.fromkeys(reasons)))
