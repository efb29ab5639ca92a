"""Runs the application with uvicorn: binds the address, shuts down once what it has begun is answered."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cafe.errors import CafeError, InputError
from cafe.serving.watching import LOG

_HEAD_SECONDS = 20  # in which a connection must have sent the head of its first request
_SHUTDOWN_SECONDS = 30  # in which what has begun is answered
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


class _PunctualProtocol(H11Protocol):
    """Closes connections that do not say what they want."""

    def connection_made(self, transport: Any) -> None:
        """Begin to count."""
        super().connection_made(transport)
        self._first = self.loop.call_later(_HEAD_SECONDS, self._close_silent)

    def _close_silent(self) -> None:
        """Close a connection on which nothing has come."""
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Uvicorn's server, which leaves signals alone once it has shut down: to be stopped is no failure."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Shut down on SIGINT and SIGTERM."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.handle_exit(number, frame)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine reach an address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    return host in _LOOPBACK


def allowed_hosts(host: str) -> list[str]:
    """Return the names by which a server on an address may be called; empty for any."""
    return list(_LOOPBACK) if is_loopback(host) else []


def bind(host: str, port: int) -> socket.socket:
    """Open a socket that listens on an address.

    Raises
    ------
    InputError
        If the address is in use, is none of this machine, or may not be taken.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"{host!r} is no address of this machine; such as 127.0.0.1, or 0.0.0.0 for all") from error
    family, _, _, _, address = addresses[0]
    try:
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"the address {where} is in use already; name another with --port") from error
        if error.errno == errno.EACCES:
            raise InputError(f"the address {where} may not be taken; ports below 1024 need rights") from error
        raise InputError(f"the address {where} cannot be taken: {error.strerror}") from error


def address_of(taken: socket.socket) -> str:
    """Return what to type into a browser."""
    host, port = taken.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def serve(app: Any, taken: socket.socket, started: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM, and then until what has begun is answered.

    Parameters
    ----------
    app : ASGI application
    taken : socket
        Of :func:`bind`.
    started : callable, default: nothing
        Called once it answers.

    Raises
    ------
    CafeError
        If it could not start.
    """
    if not LOG.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
        LOG.propagate = False
    config = uvicorn.Config(
        app, http=_PunctualProtocol, ws="none", lifespan="on", access_log=False, log_level="warning",
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS, timeout_keep_alive=20, server_header=False, proxy_headers=False,
    )  # fmt: skip
    server = _Server(config)

    async def run() -> None:
        task = asyncio.create_task(server.serve(sockets=[taken]))
        while not server.started and not task.done():
            await asyncio.sleep(0.02)
        if server.started:
            started()
        await task

    asyncio.run(run())
    if not server.started:
        raise CafeError("the server could not start; what is wrong is said above")
