"""The routes of the Open Inference Protocol, ``/v2``; :mod:`cafe.serving.inference_protocol` reads and writes it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from cafe.serving import inference_protocol as protocol
from cafe.serving.predictor import ImageAnswer, TooManyPixelsError
from cafe.serving.refusals import described
from cafe.serving.service import Service
from cafe.version import __version__

_VERSION = "1"  # of the model: a server has one


def add_inference_routes(app: FastAPI, service: Service) -> None:
    """Add the Open Inference Protocol's routes, ``/v2``."""

    async def check_name(name: str) -> None:
        if name != service.predictor.name:
            raise _no_such_model(name)

    async def check_version(name: str, version: str) -> None:
        if version != _VERSION:
            raise _no_such_model(name)

    def _no_such_model(name: str) -> HTTPException:
        known = f"the model is {service.predictor.name!r}, version {_VERSION}"
        return HTTPException(404, f"there is no model {name[:80]!r} here; {known}")

    def of_a_version(route: APIRoute) -> str:
        return f"{route.name}_of_a_version"

    app.include_router(_server_routes(service), prefix="/v2")
    app.include_router(
        _model_routes(service), prefix="/v2/models/{name}", dependencies=[Depends(check_name)],
        generate_unique_id_function=lambda route: route.name,
    )  # fmt: skip
    app.include_router(
        _model_routes(service), prefix="/v2/models/{name}/versions/{version}",
        dependencies=[Depends(check_name), Depends(check_version)], generate_unique_id_function=of_a_version,
    )  # fmt: skip
    _describe_requests(app)


def _server_routes(service: Service) -> APIRouter:
    """Return the Open Inference Protocol's routes on the server: metadata, live and ready."""
    routes = APIRouter()

    @routes.get("", summary="What the server is")
    async def server() -> protocol.ServerMetadata:
        return protocol.ServerMetadata(name="cafe", version=__version__, extensions=["binary_tensor_data"])

    @routes.get("/health/live", summary="Whether it lives")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/health/ready", summary="Whether it can answer")
    async def ready() -> dict[str, bool]:
        return {"ready": service.ready}

    return routes


def _model_routes(service: Service) -> APIRouter:
    """Return the Open Inference Protocol's routes on the model: metadata, ready and infer."""
    routes = APIRouter()
    predictor, limits = service.predictor, service.limits

    @routes.get("", summary="What the model is", responses=described(404, 422))
    async def metadata() -> protocol.ModelMetadata:
        return protocol.model_metadata(predictor)

    @routes.get("/ready", summary="Whether the model can answer", responses=described(404, 422))
    async def model_ready() -> dict[str, Any]:
        return {"name": predictor.name, "ready": service.ready}

    @routes.post(
        "/infer", summary="Classify images", response_model=protocol.InferenceResponse,
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}},
        responses=described(400, 404, 408, 413, 415, 422, 429),
    )  # fmt: skip
    async def infer(request: Request) -> Response:
        body = await request.body()
        asked = protocol.read_request(body, request.headers.get(protocol.HEADER_LENGTH), limits.images)
        protocol.check_outputs(asked.request)
        with service.batcher.held_images(len(asked.images)):
            if isinstance(asked.images, list):
                answers = await service.classify_files(asked.images, [f"image {i}" for i in range(len(asked.images))])
            elif asked.images[0].size > 3 * limits.pixels:
                raise HTTPException(413, f"an image may have {limits.pixels:,} pixels")
            else:
                answers = await service.classify_pixels(asked.images)
        response, tail = protocol.write_response(predictor, asked.request, list(map(_answer_or_refusal, answers)))
        head = response.model_dump_json(exclude_none=True).encode()
        if not tail:
            return Response(head, media_type="application/json")
        return Response(
            head + tail, media_type="application/octet-stream", headers={protocol.HEADER_LENGTH: str(len(head))}
        )

    return routes


def _answer_or_refusal(answer: ImageAnswer | Exception) -> ImageAnswer:
    """Return an answer; one that cannot be given refuses the whole request."""
    if isinstance(answer, Exception):
        raise HTTPException(413 if isinstance(answer, TooManyPixelsError) else 415, str(answer))
    return answer


def _describe_requests(app: FastAPI) -> None:
    """Put the schemas of a request, which FastAPI does not see, among the others."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        whole = protocol.InferenceRequest.model_json_schema(ref_template="#/components/schemas/{model}")
        for name, schema in whole.pop("$defs", {}).items():
            schemas.setdefault(name, schema)
        schemas.setdefault("InferenceRequest", whole)
        for path, operations in document["paths"].items():
            if path.endswith("/infer"):
                content = operations["post"]["requestBody"]["content"]["application/json"]
                content["schema"] = {"$ref": "#/components/schemas/InferenceRequest"}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
