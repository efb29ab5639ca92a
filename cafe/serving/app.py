"""The application: the page, ``POST /predict``, the Open Inference Protocol, health and metrics."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from cafe.errors import InputError, UnreadableImageError
from cafe.serving import inference_protocol as protocol
from cafe.serving.batching import Batcher, QueueFullError
from cafe.serving.predictor import ImageAnswer, Predictor, TooManyPixelsError, decode
from cafe.serving.watching import Metrics, Watch
from cafe.version import __version__

_PAGE = Path(__file__).parent / "page"
_PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
# The page loads nothing from elsewhere, and shows pictures that it was given; nobody may put it into a frame.
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_MOST_NAME = 255  # characters of a file's name
SHOWN = 5


@dataclass(frozen=True)
class Limits:
    """What a request may be.

    Attributes
    ----------
    megabytes : float
        Of a whole request.
    pixels : int
        Of an image, before it is decoded; 50 million are 150 MB.
    images : int
        Of a request.
    waiting : int
        Images that are held at once; above, requests are answered with 429.
    seconds : float
        In which a request must have arrived.
    """

    megabytes: float = 32.0
    pixels: int = 50_000_000
    images: int = 32
    waiting: int = 256
    seconds: float = 30.0


class ClassProbability(BaseModel):
    """A class and its probability."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class")
    probability: float


class Neighbour(BaseModel):
    """A training image that is near in features."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class")
    similarity: float
    thumbnail: str | None


class PredictedImage(BaseModel):
    """What is said of one image, or why nothing is."""

    image: str
    predictions: list[ClassProbability] | None = None
    zero_shot: list[ClassProbability] | None = None
    unknown: bool | None = None
    unknown_score: float | None = None
    set: list[str] | None = None
    nearest: list[Neighbour] | None = None
    reason: str | None = None


class Predictions(BaseModel):
    """The answer of ``POST /predict``."""

    model: str
    images: list[PredictedImage]


class AboutModel(BaseModel):
    """What the page shows of the model."""

    name: str
    class_names: list[str]
    accuracy: float | None
    n_test: int | None
    most_images: int
    most_megabytes: float
    most_pixels: int


class ServerError(BaseModel):
    """Why a request was refused, in a sentence."""

    error: str


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    said = {
        400: "Not a request that can be read", 404: "No such model", 408: "It did not arrive in time",
        413: "Too large, or an image of too many pixels", 415: "No image among the files that can be read",
        422: "A value that is not possible", 429: "Too many images are waiting; try again in a moment",
    }  # fmt: skip
    return {status: {"model": ServerError, "description": said[status]} for status in statuses}


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
        Its OpenAPI is at ``/openapi.json``.
    """
    limits = limits or Limits()
    decoding = ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
    batcher: Batcher
    metrics = Metrics(lambda: float(batcher.held))
    batcher = Batcher(predictor, limits.waiting, metrics.count_batch)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await batcher.start()
        app.state.ready = True
        yield
        app.state.ready = False
        await batcher.stop()
        decoding.shutdown()

    app = FastAPI(
        title="cafe", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Names what is on images.",
    )  # fmt: skip
    app.state.ready = False
    app.state.batcher = batcher

    async def classified(images: Sequence[Callable[[], NDArray[np.uint8]]]) -> list[ImageAnswer | Exception]:
        """Decode and classify images; of each what is said, or what is wrong with it."""
        loop = asyncio.get_running_loop()

        async def one_image(decoded: Callable[[], NDArray[np.uint8]]) -> ImageAnswer | Exception:
            try:
                crop = await loop.run_in_executor(decoding, decoded)
            except (UnreadableImageError, TooManyPixelsError) as error:
                return error
            return await batcher.classify(crop)

        return list(await asyncio.gather(*map(one_image, images)))

    def file_decoder(content: bytes, name: str) -> Callable[[], NDArray[np.uint8]]:
        return lambda: decode(predictor, content, name, limits.pixels)

    # ------------------------------------------------------------------ the page

    for address, (file_name, kind) in _PAGE_FILES.items():
        content = (_PAGE / file_name).read_bytes()
        headers = {**_PAGE_HEADERS, "content-type": f"{kind}; charset=utf-8"}

        def page(content: bytes = content, headers: dict[str, str] = headers) -> Response:
            return Response(content, headers=headers)

        app.add_api_route(address, page, include_in_schema=False, methods=["GET", "HEAD"])

    @app.get("/model", summary="What the model is")
    async def about() -> AboutModel:
        row = predictor.row or {}
        return AboutModel(
            name=predictor.name,
            class_names=predictor.class_names,
            accuracy=row.get("acc1"),
            n_test=row.get("n_test"),
            most_images=limits.images,
            most_megabytes=limits.megabytes,
            most_pixels=limits.pixels,
        )

    @app.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    # ------------------------------------------------------------------ predictions

    @app.post(
        "/predict", summary="Name what is on images", responses=_errors(400, 408, 413, 415, 422, 429),
        response_model=Predictions,
    )  # fmt: skip
    async def predict(
        files: Annotated[
            list[UploadFile], File(min_length=1, description="Images: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF")
        ],
        top: Annotated[int, Query(ge=1, le=1000, description="Classes of each image")] = SHOWN,
        unknown: Annotated[
            float | None, Query(gt=0, lt=1, description="Rate of false alarms of unknown images")
        ] = None,
        coverage: Annotated[float | None, Query(gt=0, lt=1, description="Also give sets of classes")] = None,
        zero_shot: Annotated[bool, Query(description="Also what the text alone says")] = False,
        nearest: Annotated[int, Query(ge=0, le=20, description="Nearest training images")] = 0,
    ) -> Response:
        names = [_checked_name(file.filename) for file in files]
        if len(files) > limits.images:
            raise HTTPException(413, f"a request may hold {limits.images} images; got {len(files)}")
        threshold = predictor.threshold(unknown)
        with batcher.held_images(len(files)):
            contents = [await file.read() for file in files]
            said = await classified(list(map(file_decoder, contents, names)))
            del contents

            def described() -> list[PredictedImage]:
                return [
                    _described(predictor, name, each, top, threshold, coverage, zero_shot, nearest)
                    for name, each in zip(names, said, strict=True)
                ]

            images = await asyncio.to_thread(described) if nearest else described()  # thumbnails may have to be read
        if all(isinstance(each, Exception) for each in said):
            first = next(each for each in said if isinstance(each, Exception))
            raise HTTPException(413 if isinstance(first, TooManyPixelsError) else 415, str(first))
        document = Predictions(model=predictor.name, images=images)
        return Response(document.model_dump_json(by_alias=True, exclude_none=True), media_type="application/json")

    # ------------------------------------------------------------------ the Open Inference Protocol

    def check_model(name: str, version: str = "1") -> None:
        if name != predictor.name or version != "1":
            raise HTTPException(
                404, f"there is no model {name[:80]!r} here; the model is {predictor.name!r}, version 1"
            )

    @app.get("/v2", summary="What the server is")
    async def server() -> protocol.ServerMetadata:
        return protocol.ServerMetadata(name="cafe", version=__version__, extensions=["binary_tensor_data"])

    @app.get("/v2/health/live", summary="Whether it lives")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", summary="Whether it can answer")
    async def ready() -> dict[str, bool]:
        return {"ready": bool(app.state.ready)}

    async def metadata(name: str, version: str = "1") -> protocol.ModelMetadata:
        check_model(name, version)
        return protocol.model_metadata(predictor)

    async def model_ready(name: str, version: str = "1") -> dict[str, Any]:
        check_model(name, version)
        return {"name": predictor.name, "ready": bool(app.state.ready)}

    async def infer(request: Request, name: str, version: str = "1") -> Response:
        check_model(name, version)
        body = await request.body()
        asked = protocol.read_request(body, request.headers.get(protocol.HEADER_LENGTH), limits.images)
        protocol.check_outputs(asked.request)
        with batcher.held_images(len(asked.images)):
            if isinstance(asked.images, list):
                decoders = [file_decoder(content, f"image {i}") for i, content in enumerate(asked.images)]
            else:
                if asked.images[0].size > 3 * limits.pixels:
                    raise HTTPException(413, f"an image may have {limits.pixels:,} pixels")
                decoders = [_pixel_decoder(predictor, pixels) for pixels in asked.images]
            said = await classified(decoders)
        answers: list[ImageAnswer] = []
        for each in said:
            if isinstance(each, Exception):
                raise HTTPException(413 if isinstance(each, TooManyPixelsError) else 415, str(each))
            answers.append(each)
        response, tail = protocol.write_response(predictor, asked.request, answers)
        head = response.model_dump_json(exclude_none=True).encode()
        if not tail:
            return Response(head, media_type="application/json")
        return Response(
            head + tail, media_type="application/octet-stream", headers={protocol.HEADER_LENGTH: str(len(head))}
        )

    body_schema = {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": protocol.InferenceRequest.model_json_schema(
                ref_template="#/components/schemas/{model}"
            )}},
        }
    }  # fmt: skip
    for place in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        numbered = "version" in place
        suffix = "_of_a_version" if numbered else ""
        app.add_api_route(
            place, _with_version(metadata, numbered), response_model=protocol.ModelMetadata,
            operation_id=f"metadata{suffix}", summary="What the model is", responses=_errors(404, 422),
        )  # fmt: skip
        app.add_api_route(
            f"{place}/ready", _with_version(model_ready, numbered), operation_id=f"model_ready{suffix}",
            response_model=dict[str, Any], summary="Whether the model can answer", responses=_errors(404, 422),
        )  # fmt: skip
        app.add_api_route(
            f"{place}/infer", _infer_with_version(infer, numbered), methods=["POST"], operation_id=f"infer{suffix}",
            response_model=protocol.InferenceResponse, summary="Classify images", openapi_extra=body_schema,
            responses=_errors(400, 404, 408, 413, 415, 422, 429),
        )  # fmt: skip

    _answer_with_sentences(app)
    _describe_infer(app)
    if cors:
        app.add_middleware(CORSMiddleware, allow_origins=list(cors), allow_methods=["GET", "POST"], allow_headers=["*"])
    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.add_middleware(Watch, metrics=metrics, most_bytes=int(limits.megabytes * 1e6), most_seconds=limits.seconds)
    return app


def _with_version(call: Callable[..., Awaitable[Any]], numbered: bool) -> Callable[..., Any]:
    if numbered:

        async def of_version(name: str, version: str) -> Any:
            return await call(name, version)

        return of_version

    async def of_model(name: str) -> Any:
        return await call(name)

    return of_model


def _infer_with_version(call: Callable[..., Awaitable[Response]], numbered: bool) -> Callable[..., Any]:
    if numbered:

        async def of_version(request: Request, name: str, version: str) -> Response:
            return await call(request, name, version)

        return of_version

    async def of_model(request: Request, name: str) -> Response:
        return await call(request, name)

    return of_model


def _describe_infer(app: FastAPI) -> None:
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


def _answer_with_sentences(app: FastAPI) -> None:
    """Answer whatever is wrong with a request with its status and a sentence."""

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
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


def _checked_name(file_name: str | None) -> str:
    """Return the name of an uploaded file, which is only ever echoed. Raises HTTPException for a path."""
    name = file_name or "image"
    if "/" in name or "\\" in name or "\0" in name or name in (".", ".."):
        raise HTTPException(400, "the name of a file holds no path; send the name alone")
    return name[:_MOST_NAME]


def _pixel_decoder(predictor: Predictor, pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
    return lambda: predictor.crop(Image.fromarray(np.ascontiguousarray(pixels)))


def _described(
    predictor: Predictor,
    name: str,
    said: ImageAnswer | Exception,
    top: int,
    threshold: float | None,
    coverage: float | None,
    zero_shot: bool,
    nearest: int,
) -> PredictedImage:
    if isinstance(said, Exception):
        return PredictedImage(image=name, reason=getattr(said, "reason", str(said)))
    described = PredictedImage(image=name, predictions=_best(predictor, said.probabilities, top))
    if said.unknown_score is not None:
        described.unknown_score = said.unknown_score
        described.unknown = None if threshold is None else said.unknown_score > threshold
    if coverage is not None:
        described.set = predictor.set_of(said, coverage)
    if zero_shot and said.zero_shot is not None:
        described.zero_shot = _best(predictor, said.zero_shot, len(predictor.class_names))
        named = {each.name for each in described.predictions or ()}
        described.zero_shot = [each for i, each in enumerate(described.zero_shot) if i < top or each.name in named]
    if nearest:
        described.nearest = [Neighbour.model_validate(each) for each in predictor.nearest(said, nearest)]
    return described


def _best(predictor: Predictor, probabilities: NDArray[Any], top: int) -> list[ClassProbability]:
    order = (-probabilities).argsort(kind="stable")[:top]
    return [
        ClassProbability.model_validate(
            {"class": predictor.class_names[int(column)], "probability": float(probabilities[column])}
        )
        for column in order
    ]
