"""What the service counts, for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COUNTED = ("/api/predict", "/api/timeline")  # other paths are not, since anybody may make some up


class Metrics:
    """Requests by path and status, seconds to an answer, requests that wait, and how many are answered together."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("shala_requests", "Requests.", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "shala_seconds", "Seconds from a request to its answer.", ["path"], registry=self.registry
        )
        self.waiting = Gauge("shala_waiting", "Requests that wait or are being answered.", registry=self.registry)
        sizes = (1, 2, 4, 8, 16, 32)
        self.together = Histogram(
            "shala_together", "Requests answered together.", buckets=sizes, registry=self.registry
        )


class Counting:
    """Counts requests and their seconds.

    Args:
        app: what answers.
        metrics: where.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in COUNTED:
            await self.app(scope, receive, send)
            return
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        try:
            await self.app(scope, receive, noting)
        finally:
            self.metrics.requests.labels(scope["path"], status).inc()
            self.metrics.seconds.labels(scope["path"]).observe(time.perf_counter() - began)
