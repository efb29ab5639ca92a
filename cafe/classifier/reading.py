"""Reads images ahead of the encoder, in threads: bytes, their hash, pixels, crop."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cafe.classifier.images import ImageInput
from cafe.compute import processors
from cafe.data.images.decoding import as_rgb, decoding_with, read_content, read_image
from cafe.encoders.base import Cropper, Encoder
from cafe.errors import UnreadableImageError

# A photograph of 100 megapixels takes 0.3 GB while it is decoded, in every thread.
_MOST_THREADS = 16
_AHEAD = 4  # images of each thread that are read before they are asked for


@dataclass(frozen=True)
class ReadImage:
    """One image that was read.

    Attributes
    ----------
    input : ImageInput
        Where it was read from.
    sha256 : bytes or None
        Of the file; None for an image that was open already.
    crop : ndarray of shape (height, width, 3), uint8, or None
        What goes into the encoder; None where its features are known, or it cannot be read.
    unreadable : UnreadableImageError or None
        Why it cannot be read.
    """

    input: ImageInput
    sha256: bytes | None = None
    crop: NDArray[np.uint8] | None = None
    unreadable: UnreadableImageError | None = None


def read_ahead(
    images: Iterable[ImageInput],
    cropper: Callable[[], Cropper],
    decoder: str,
    is_known: Callable[[bytes], bool] = lambda sha256: False,
) -> Iterator[ReadImage]:
    """Read, decode and crop images in their order, several at once in threads, ahead of the caller.

    Parameters
    ----------
    images : iterable of ImageInput
        Asked for only as far ahead as there are threads to read them.
    cropper : callable
        Returns the encoder's cropper; called once an image is to be cropped.
    decoder : str
        Of JPEG files, one of :data:`cafe.data.images.decoders.DECODERS`.
    is_known : callable, default: nothing is
        Whether the features of a file with this SHA-256 are known, so that it need not be decoded.

    Yields
    ------
    ReadImage
        One for each image.
    """

    def read(image: ImageInput) -> ReadImage:
        """Read, decode and crop one image."""
        sha256 = None
        try:
            with decoding_with(decoder):
                if isinstance(image.source, Image.Image):
                    return ReadImage(image, crop=cropper()(as_rgb(image.source, image.name)))
                content = read_content(image.source, image.name)
                sha256 = hashlib.sha256(content).digest()
                if is_known(sha256):
                    return ReadImage(image, sha256)
                return ReadImage(image, sha256, cropper()(read_image(content, image.name)))
        except UnreadableImageError as error:
            return ReadImage(image, sha256, unreadable=error)

    threads = min(processors(), _MOST_THREADS)
    pending: deque[Future[ReadImage]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for image in images:
                pending.append(pool.submit(read, image))
                if len(pending) > _AHEAD * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # a caller that stops early does not wait for the images that were read ahead
            for future in pending:
                future.cancel()


def encoded_batches(
    images: Iterable[ImageInput], encoder: Encoder, decoder: str
) -> Iterator[tuple[list[ReadImage], NDArray[np.float32]]]:
    """Read images and encode them: yield each batch with the features of its readable images, (at most batch, d)."""
    for batch in in_batches(read_ahead(images, lambda: encoder.cropper, decoder), encoder.batch_size):
        crops = [image.crop for image in batch if image.crop is not None]
        yield batch, encoder.encode_images(np.stack(crops)) if crops else np.zeros((0, encoder.dim), np.float32)


def in_batches(images: Iterable[ReadImage], size: int) -> Iterator[list[ReadImage]]:
    """Cut images into batches that end with their ``size``-th readable image; the last batch may hold fewer."""
    batch: list[ReadImage] = []
    n_readable = 0
    for image in images:
        batch.append(image)
        n_readable += image.unreadable is None
        if n_readable == size:
            yield batch
            batch, n_readable = [], 0
    if batch:
        yield batch
