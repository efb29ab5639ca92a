"""From images to probabilities: images are read ahead, their features taken from a cache or encoded, and scored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.known import NOTHING_KNOWN, KnownRows
from cafe.classifier.image_classifier import ImageScores
from cafe.classifier.images import ImageInput
from cafe.classifier.known import known_features
from cafe.classifier.reading import ReadImage, in_batches, read_ahead
from cafe.encoders.base import Encoder


def score_images(
    images: Iterable[ImageInput], encoder: Encoder, estimator: Any, decoder: str, cache_dir: Path | None
) -> Iterator[ImageScores]:
    """Score images with a fitted method.

    Parameters
    ----------
    images : iterable of ImageInput
        Read ahead in threads; only a few are held in memory.
    encoder : Encoder
        Encodes batches of its own size.
    estimator : fitted classifier
        Scores each batch. A method that trains the encoder's projection gets features before the projection.
    decoder : str
        Of JPEG files, one of :data:`cafe.data.images.decoders.DECODERS`.
    cache_dir : Path or None
        The folder in whose caches features of files are looked up; None looks nothing up.

    Yields
    ------
    ImageScores
        In the order of the images; ``detail`` is the features (d,), empty where the image cannot be read.
    """
    scorer = _Scorer(encoder, estimator, getattr(estimator, "projection", None) is not None)
    known = NOTHING_KNOWN
    if cache_dir is not None:
        listed = images if isinstance(images, list) else None
        known = known_features(listed, encoder, decoder, cache_dir, unprojected=scorer.unprojected)
    read = read_ahead(images, lambda: encoder.cropper, decoder, lambda sha256: known.keys.has(sha256, "", 0))
    for batch in in_batches(read, encoder.batch_size):
        yield from scorer.score(batch, known)


class _Scorer(NamedTuple):
    """Scores batches of images by an encoder and a method, which may read features before the projection."""

    encoder: Encoder
    estimator: Any
    unprojected: bool

    def score(self, batch: Sequence[ReadImage], known: KnownRows) -> Iterator[ImageScores]:
        """Score the images of one batch."""
        crops = [image.crop for image in batch if image.crop is not None]
        encoded = iter(
            self.encoder.encode_for_prediction(np.stack(crops), unprojected=self.unprojected) if crops else ()
        )
        features = [
            next(encoded) if image.crop is not None else self._from_cache(image, known)
            for image in batch
            if image.unreadable is None
        ]
        rows = self.estimator.predict_proba(np.stack(features)) if features else ()
        of_readable = zip(rows, features, strict=True)
        empty = np.zeros(0, dtype=np.float32)
        for image in batch:
            yield ImageScores(image, *(next(of_readable) if image.unreadable is None else (empty, empty)))

    def _from_cache(self, image: ReadImage, known: KnownRows) -> NDArray[np.float32]:
        """Return the features (d,) of an image from a cache; those before the projection are the last columns."""
        assert image.sha256 is not None, "only files are known"
        (row,) = known.take(image.sha256, "", 0, with_projection=self.unprojected)  # (d,) or (d + w,)
        features: NDArray[np.float32] = row[self.encoder.dim if self.unprojected else 0 :].astype(np.float32)
        return features
