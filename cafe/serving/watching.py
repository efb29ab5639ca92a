"""What every request passes through: limits of size and time, one line of log, counters for Prometheus."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger("cafe.serving")
_SHOWN_PATH = 200  # characters of a path in a line of log
_MOST_DRAINED = 20.0  # seconds for which what is too large is read and thrown away, so that its sender gets the answer
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server."""

    def __init__(self, waiting: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ["method", "path", "status"]
        self.requests = Counter("cafe_requests", "Requests, by answer.", labels, registry=registry)
        self.seconds = Histogram(
            "cafe_request_seconds", "From the first byte to the answer.", ["path"], buckets=_SECONDS, registry=registry
        )
        self.images = Counter("cafe_images", "Images that were classified.", registry=registry)
        self.batches = Histogram(
            "cafe_batch_images", "Images that were classified together.", buckets=_SIZES, registry=registry
        )
        self.waiting = Gauge("cafe_waiting_images", "Images that are held at this moment.", registry=registry)
        self.waiting.set_function(waiting)

    def count_batch(self, size: int) -> None:
        """Count a batch."""
        self.images.inc(size)
        self.batches.observe(size)

    def text(self) -> bytes:
        """Return all of them in Prometheus's format."""
        return generate_latest(self._registry)


class Watch:
    """Holds requests to their limits, writes one line of log for each, and counts it.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    most_bytes : int
        Of a body; a larger one is answered with 413, and never held.
    most_seconds : float
        In which a body must have arrived; else 408.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, most_bytes: int, most_seconds: float) -> None:
        self._app, self._metrics, self._most_bytes, self._most_seconds = app, metrics, most_bytes, most_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = {key.lower(): value for key, value in scope["headers"]}
            length = headers.get(b"content-length", b"")
            if length.isdigit() and int(length) > self._most_bytes:
                if b"100-continue" not in headers.get(b"expect", b"").lower():
                    await self._drain(receive)
                await self._refuse(413, scope, receive, watched)
            else:
                await self._app(scope, self._limited(receive), watched)
        except Exception:
            if status == 0:
                LOG.exception("a request failed")
                await self._refuse(500, scope, receive, watched)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(scope["method"], route, str(status or 499)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            client = (scope.get("client") or ("-",))[0]
            LOG.info("%s %s %s %d %.0f ms", client, _shown(scope["method"]), _shown(scope["path"]), status or 499,
                     1000 * seconds)  # fmt: skip

    def _limited(self, receive: Receive) -> Receive:
        """Return a receiver that refuses a request which is too large or too slow."""
        deadline = asyncio.get_running_loop().time() + self._most_seconds
        read, whole = 0, False

        async def limited() -> Message:
            nonlocal read, whole
            if whole:  # what is waited for now is that the client goes
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):  # without a task of its own, unlike wait_for
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the request has not arrived within {self._most_seconds:g} s") from None
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > self._most_bytes:
                if not whole:
                    await self._drain(receive)
                raise HTTPException(413, self._too_large())
            return message

        return limited

    async def _drain(self, receive: Receive) -> None:
        try:
            async with asyncio.timeout(_MOST_DRAINED):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass

    def _too_large(self) -> str:
        """Say how large a request may be."""
        return f"a request may hold {self._most_bytes / 1e6:g} MB; send fewer or smaller images"

    async def _refuse(self, status: int, scope: Scope, receive: Receive, send: Send) -> None:
        message = self._too_large() if status == 413 else "the server failed; its log says why"
        await JSONResponse({"error": message}, status, {"connection": "close"})(scope, receive, send)


def _shown(text: Any) -> str:
    """Return text of a stranger for a line of log: no control character, no line break, not too long."""
    plain = "".join(c if c.isprintable() and c != "\\" else f"\\x{ord(c):02x}" for c in str(text))
    return plain if len(plain) <= _SHOWN_PATH else plain[:_SHOWN_PATH] + "..."
