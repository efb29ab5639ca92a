"""Errors of a request are answered with a status and a sentence, ``{"error": ...}``."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from cafe.errors import InputError
from cafe.serving.batching import QueueFullError


class ServerError(BaseModel):
    """Why a request was refused, in a sentence."""

    error: str


_DESCRIPTIONS = {
    400: "Not a request that can be read", 404: "No such model", 408: "It did not arrive in time",
    413: "Too large, or an image of too many pixels", 415: "No image among the files that can be read",
    422: "A value that is not possible", 429: "Too many images are waiting; try again in a moment",
}  # fmt: skip


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe refusals for OpenAPI.

    Parameters
    ----------
    *statuses : int
        HTTP statuses of a route's refusals.

    Examples
    --------
    >>> described(404)[404]["description"]
    'No such model'
    """
    return {status: {"model": ServerError, "description": _DESCRIPTIONS[status]} for status in statuses}


def answer_with_sentences(app: FastAPI) -> None:
    """Make an application answer every error with a status and JSON, ``{"error": sentence}``."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code in (408, 413):
            headers["connection"] = "close"  # the rest of the request's body is not read
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{place[:80]}: {first['msg']}"}, 422)

    @app.exception_handler(QueueFullError)
    async def queue_full(request: Request, error: QueueFullError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 429, {"retry-after": "1"})

    @app.exception_handler(InputError)
    async def input_error(request: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)
