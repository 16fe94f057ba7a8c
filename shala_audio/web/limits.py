"""What keeps strangers from filling memory or waiting lines: limits on bodies, and one computation at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shala_audio.web.metrics import Metrics


class BodyLimit:
    """Refuses bodies that are too large (413), come too slowly (408), from a page elsewhere (403), or beside too many others
    (503), before they are held.

    Args:
        app: what answers.
        bytes_allowed: of a body.
        seconds: in which all of it must have come.
        pause: seconds in which nothing need come.
        uploads: bodies that may be on their way, or wait for their answer, at once.
    """

    def __init__(self, app: ASGIApp, bytes_allowed: int, seconds: float, pause: float, uploads: int) -> None:
        self.pause = pause
        self.app, self.bytes_allowed, self.seconds, self.uploads = app, bytes_allowed, seconds, uploads
        self.at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        come, complete, admitted = 0, False, self.at_once < self.uploads
        deadline = asyncio.get_running_loop().time() + self.seconds

        async def limited() -> Message:
            nonlocal come, complete
            if complete:
                return await receive()
            if headers.get(b"sec-fetch-site") == b"cross-site":
                raise HTTPException(403, "sent by a page elsewhere")
            if not admitted:
                raise HTTPException(503, "too many uploads at once; try again", headers={"Retry-After": "5"})
            if declared.isdigit() and int(declared) > self.bytes_allowed:
                raise self._too_large()
            try:
                async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + self.pause)):
                    message = await receive()
            except TimeoutError:
                limits = f"longer than {self.seconds:.0f} s, or stood still for {self.pause:.0f} s"
                raise HTTPException(408, f"the upload took {limits}") from None
            come += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if come > self.bytes_allowed:
                raise self._too_large()
            return message

        self.at_once += 1
        try:
            await self.app(scope, limited, send)
        finally:
            self.at_once -= 1

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the upload is larger than {self.bytes_allowed // 2**20} MiB")


class Headers:
    """Adds headers to every response.

    Args:
        app: what answers.
        headers: to add.
    """

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self.app, self.headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


@dataclass(frozen=True)
class Limits:
    """Of the service.

    Attributes:
        upload: MiB of a body.
        seconds: of sound.
        characters: of a text.
        waiting: requests that may wait; the next is told to come back.
        together: of those that wait for the same model, how many are answered at once.
    """

    upload: int = 20
    seconds: float = 600.0
    characters: int = 10_000
    waiting: int = 32
    together: int = 16


Compute = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(eq=False)
class _Place:
    """In the waiting line."""

    request: Request
    compute: Compute
    together: int
    item: Any
    result: asyncio.Future[Any]


class Turns:
    """One computation at a time, in the order in which they were asked for; what waits for the same one is computed together.

    Args:
        waiting: how many may wait; the next is told to come back (503).
        metrics: where it is counted.
    """

    def __init__(self, waiting: int, metrics: Metrics) -> None:
        self.most, self.metrics = waiting, metrics
        self._line: list[_Place] = []
        self._work: asyncio.Task[None] | None = None

    async def take(self, request: Request, compute: Compute, together: int, item: Any) -> Any:
        """What `compute`, run in a thread, makes of an item. Nothing is computed for those who have left.

        Args:
            request: of whoever asks.
            compute: gets a list of items that wait for it, and returns a result or an exception for each.
            together: how many of them at most.
            item: what is asked.

        Raises:
            HTTPException: the line is full, or the client has left.
            Exception: what `compute` returned or raised.
        """
        if len(self._line) >= self.most and self._work is not None and not self._work.done():
            raise HTTPException(503, "too many requests are waiting; try again", headers={"Retry-After": "5"})
        place = _Place(request, compute, together, item, asyncio.get_running_loop().create_future())
        self._line.append(place)
        self.metrics.waiting.inc()
        try:
            if self._work is None or self._work.done():
                self._work = asyncio.create_task(self._answer())
            return await place.result
        finally:
            self.metrics.waiting.dec()
            if place in self._line:  # whoever asked was cancelled
                self._line.remove(place)

    async def _answer(self) -> None:
        while self._line:
            first = self._line[0]
            same = [place for place in self._line if place.compute == first.compute][: first.together]
            self._line = [place for place in self._line if place not in same]
            here = [place for place in same if await _waits(place)]
            if not here:
                continue
            self.metrics.together.observe(len(here))
            try:
                results = await run_in_threadpool(first.compute, [place.item for place in here])
                pairs = list(zip(here, results, strict=True))
            except Exception as error:
                pairs = [(place, error) for place in here]
            for place, result in pairs:
                if place.result.done():
                    continue
                if isinstance(result, Exception):
                    place.result.set_exception(result)
                else:
                    place.result.set_result(result)


async def _waits(place: _Place) -> bool:
    """Whether somebody still wants the answer. The body may be read only now, and may be refused."""
    try:
        if place.result.done():
            return False
        if not await place.request.is_disconnected():
            return True
        place.result.set_exception(HTTPException(499, "the client has left"))
    except Exception as error:
        place.result.set_exception(error)
    return False
