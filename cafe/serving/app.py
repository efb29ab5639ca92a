"""The application: its routes, what every request passes through, and how it starts and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from cafe.serving.inference_routes import add_inference_routes
from cafe.serving.page_routes import page_routes
from cafe.serving.prediction_routes import prediction_routes
from cafe.serving.predictor import Predictor
from cafe.serving.refusals import answer_with_sentences
from cafe.serving.service import Limits, Service
from cafe.serving.watching import Watch
from cafe.version import __version__


def make_app(
    predictor: Predictor,
    limits: Limits | None = None,
    *,
    cors: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> FastAPI:
    """Make the application.

    Parameters
    ----------
    predictor : Predictor
        What is served.
    limits : Limits, default=None
        None for the defaults.
    cors : sequence of str, default=()
        Origins whose pages may call the API; none unless asked.
    hosts : sequence of str, default=()
        Names by which the server may be called; empty for any. A page of somebody else that leads its own name to this
        machine is refused so.

    Returns
    -------
    FastAPI
        Its OpenAPI is at ``/openapi.json``; ``state.service`` is the :class:`~cafe.serving.service.Service`.
    """
    limits = limits or Limits()
    service = Service(predictor, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="cafe", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Names what is on images.",
    )  # fmt: skip
    app.state.service = service
    app.include_router(page_routes(service))
    app.include_router(prediction_routes(service))
    add_inference_routes(app, service)
    answer_with_sentences(app)
    if cors:
        app.add_middleware(CORSMiddleware, allow_origins=list(cors), allow_methods=["GET", "POST"], allow_headers=["*"])
    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.add_middleware(
        Watch, metrics=service.metrics, most_bytes=int(limits.megabytes * 1e6), most_seconds=limits.seconds
    )
    return app
