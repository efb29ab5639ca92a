"""The page, what it shows of the model, and the counters for Prometheus."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from cafe.serving.service import Service

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
# The page loads nothing from elsewhere, and shows pictures that it was given; nobody may put it into a frame.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class AboutModel(BaseModel):
    """What the page shows of the model."""

    name: str
    class_names: list[str]
    accuracy: float | None
    n_test: int | None
    most_images: int
    most_megabytes: float
    most_pixels: int


def page_routes(service: Service) -> APIRouter:
    """Return the routes of the page, ``/model`` and ``/metrics``."""
    routes = APIRouter()
    for address, (file_name, kind) in _FILES.items():
        content = (_PAGE / file_name).read_bytes()
        headers = {**_HEADERS, "content-type": f"{kind}; charset=utf-8"}

        def page(content: bytes = content, headers: dict[str, str] = headers) -> Response:
            return Response(content, headers=headers)

        routes.add_api_route(address, page, include_in_schema=False, methods=["GET", "HEAD"])

    @routes.get("/model", summary="What the model is")
    async def about() -> AboutModel:
        row = service.predictor.row or {}
        return AboutModel(
            name=service.predictor.name,
            class_names=service.predictor.class_names,
            accuracy=row.get("acc1"),
            n_test=row.get("n_test"),
            most_images=service.limits.images,
            most_megabytes=service.limits.megabytes,
            most_pixels=service.limits.pixels,
        )

    @routes.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
