"""Probabilities and features of images: read ahead, taken from a cache or encoded in batches, and put to the method."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.known import NOTHING_KNOWN, KnownRows
from cafe.classifier.images import GivenImage
from cafe.classifier.known import known_features
from cafe.classifier.reading import ReadImage, read_ahead
from cafe.encoders.base import Encoder

Array = NDArray[np.floating[Any]]


class ImageScores(NamedTuple):
    """Probabilities (n_classes,) and features (d,) of an image; both empty where it cannot be read."""

    image: ReadImage
    probabilities: Array
    features: Array


def score_images(
    images: Iterable[GivenImage], encoder: Encoder, estimator: Any, decoder: str, cache_dir: Path | None
) -> Iterator[ImageScores]:
    """Go through images with what a fitted method says of them.

    Parameters
    ----------
    images : iterable of GivenImage
        Read ahead in threads; only a few are held in memory.
    encoder : Encoder
        Asked in batches of its own size.
    estimator : fitted classifier
        Asked once a batch. One that trains the encoder's projection is given what goes into it.
    decoder : str
        Of JPEG files, one of :data:`cafe.data.images.decoding.DECODERS`.
    cache_dir : Path or None
        Features of files that are in a cache there are taken; None for nowhere.

    Yields
    ------
    ImageScores
        In the order of the images.
    """
    scorer = _Scorer(encoder, estimator, getattr(estimator, "projection", None) is not None)
    known = NOTHING_KNOWN
    if cache_dir is not None:
        listed = images if isinstance(images, list) else None
        known = known_features(listed, encoder, decoder, cache_dir, unprojected=scorer.unprojected)
    batch: list[ReadImage] = []
    n_readable = 0
    for image in read_ahead(
        images, lambda: encoder.cropper, decoder, lambda sha256: known.keys.has(sha256, "", 0)
    ):  # fmt: skip
        batch.append(image)
        n_readable += image.unreadable is None
        if n_readable == encoder.batch_size:
            yield from scorer.scored(batch, known)
            batch, n_readable = [], 0
    yield from scorer.scored(batch, known)


class _Scorer(NamedTuple):
    """An encoder and a method, and whether this one reads what goes into the encoder's projection."""

    encoder: Encoder
    estimator: Any
    unprojected: bool

    def scored(self, batch: Sequence[ReadImage], known: KnownRows) -> Iterator[ImageScores]:
        """Go through the images of one batch."""
        crops = [image.crop for image in batch if image.crop is not None]
        encoded = iter(self._encoded(np.stack(crops)) if crops else ())
        features = [
            next(encoded) if image.crop is not None else self._taken(image, known)
            for image in batch
            if image.unreadable is None
        ]
        rows = iter(self.estimator.predict_proba(np.stack(features)) if features else ())
        each = iter(features)
        none = np.zeros(0, dtype=np.float32)
        for image in batch:
            readable = image.unreadable is None
            yield ImageScores(image, next(rows), next(each)) if readable else ImageScores(image, none, none)

    def _encoded(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode crops (n, height, width, 3)."""
        return self.encoder.encode_for_prediction(crops, unprojected=self.unprojected)

    def _taken(self, image: ReadImage, known: KnownRows) -> NDArray[np.float32]:
        """Take the features (d,) of an image from a cache; those before the projection stand behind the others."""
        assert image.sha256 is not None, "only files are known"
        (row,) = known.take(image.sha256, "", 0, with_projection=self.unprojected)  # (d,) or (d + w,)
        features: NDArray[np.float32] = row[self.encoder.dim if self.unprojected else 0 :].astype(np.float32)
        return features
