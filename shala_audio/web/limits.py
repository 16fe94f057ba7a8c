"""What keeps strangers from filling memory or waiting lines: limits on bodies, and one answer at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Result = TypeVar("Result")


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
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] != "POST":
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


class Turns:
    """One computation at a time, in the order in which they were asked for.

    Args:
        waiting: how many may wait; the next is told to come back (503).
    """

    def __init__(self, waiting: int) -> None:
        self.most, self.waiting = waiting, 0
        self._turn = asyncio.Lock()

    async def take(self, request: Request, compute: Callable[..., Result], *arguments: Any) -> Result:
        """The result of `compute(*arguments)`, run in a thread; not run at all for those who have left."""
        if self.waiting > self.most:
            raise HTTPException(503, "too many requests are waiting; try again", headers={"Retry-After": "5"})
        self.waiting += 1
        try:
            async with self._turn:
                if await request.is_disconnected():
                    raise HTTPException(499, "the client has left")
                return await run_in_threadpool(compute, *arguments)
        finally:
            self.waiting -= 1
