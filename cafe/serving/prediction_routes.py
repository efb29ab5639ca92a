"""``POST /predict``: files in, names out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, File, HTTPException, Query, UploadFile
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cafe.serving.predictor import ImageAnswer, Predictor, TooManyPixelsError
from cafe.serving.refusals import described
from cafe.serving.service import Service

SHOWN = 5
_MOST_NAME = 255  # characters of a file's name


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


def prediction_routes(service: Service) -> APIRouter:
    """Return the route ``POST /predict``."""
    routes = APIRouter()

    @routes.post(
        "/predict", summary="Name what is on images", responses=described(400, 408, 413, 415, 422, 429),
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
        if len(files) > service.limits.images:
            raise HTTPException(413, f"a request may hold {service.limits.images} images; got {len(files)}")
        threshold = service.predictor.threshold(unknown)
        wanted = _Wanted(service.predictor, top, threshold, coverage, zero_shot, nearest)
        with service.batcher.held_images(len(files)):
            answers = await service.classify_files([await file.read() for file in files], names)

            def describe_all() -> list[PredictedImage]:
                return list(map(wanted.describe, names, answers))

            images = await asyncio.to_thread(describe_all) if nearest else describe_all()  # thumbnails are read
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        if len(errors) == len(answers):
            raise HTTPException(413 if isinstance(errors[0], TooManyPixelsError) else 415, str(errors[0]))
        document = Predictions(model=service.predictor.name, images=images)
        return Response(document.model_dump_json(by_alias=True, exclude_none=True), media_type="application/json")

    return routes


def _checked_name(file_name: str | None) -> str:
    """Return the name of an uploaded file, which is only ever echoed. Raises HTTPException for a path."""
    name = file_name or "image"
    if "/" in name or "\\" in name or "\0" in name or name in (".", ".."):
        raise HTTPException(400, "the name of a file holds no path; send the name alone")
    return name[:_MOST_NAME]


@dataclass(frozen=True)
class _Wanted:
    """What a request wants to know of its images."""

    predictor: Predictor
    top: int
    threshold: float | None
    coverage: float | None
    zero_shot: bool
    nearest: int

    def describe(self, name: str, answer: ImageAnswer | Exception) -> PredictedImage:
        """Describe one image."""
        if isinstance(answer, Exception):
            return PredictedImage(image=name, reason=getattr(answer, "reason", str(answer)))
        described = PredictedImage(image=name, predictions=self._best(answer.probabilities, self.top))
        if answer.unknown_score is not None:
            described.unknown_score = answer.unknown_score
            described.unknown = None if self.threshold is None else answer.unknown_score > self.threshold
        if self.coverage is not None:
            described.set = self.predictor.set_of(answer, self.coverage)
        if self.zero_shot and answer.zero_shot is not None:
            ranked = self._best(answer.zero_shot, len(self.predictor.class_names))
            predicted = {each.name for each in described.predictions or ()}
            described.zero_shot = [each for i, each in enumerate(ranked) if i < self.top or each.name in predicted]
        if self.nearest:
            neighbours = self.predictor.nearest(answer, self.nearest)
            described.nearest = [Neighbour.model_validate(each) for each in neighbours]
        return described

    def _best(self, probabilities: NDArray[Any], top: int) -> list[ClassProbability]:
        """Return the most probable classes, best first."""
        order = (-probabilities).argsort(kind="stable")[:top]
        return [
            ClassProbability.model_validate(
                {"class": self.predictor.class_names[int(column)], "probability": float(probabilities[column])}
            )
            for column in order
        ]
