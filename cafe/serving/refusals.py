"""Whatever is wrong with a request is answered with its status and a sentence, ``{"error": ...}``."""

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
        With which a route refuses.

    Examples
    --------
    >>> described(404)[404]["description"]
    'No such model'
    """
    return {status: {"model": ServerError, "description": _DESCRIPTIONS[status]} for status in statuses}


def answer_with_sentences(app: FastAPI) -> None:
    """Make an application answer every error so."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code in (408, 413):
            headers["connection"] = "close"
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{place[:80]}: {first['msg']}"}, 422)

    @app.exception_handler(QueueFullError)
    async def full(request: Request, error: QueueFullError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 429, {"retry-after": "1"})

    @app.exception_handler(InputError)
    async def wrong(request: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)
