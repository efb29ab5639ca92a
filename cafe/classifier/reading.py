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

from cafe.cache.extract.decode import processors
from cafe.classifier.images import GivenImage
from cafe.data.images.decoding import as_rgb, decoding_with, read_content, read_image
from cafe.encoders.base import Cropper
from cafe.errors import UnreadableImageError

# A photograph of 100 megapixels takes 0.3 GB while it is decoded, in every thread.
_MOST_THREADS = 16
_AHEAD = 4  # images of each thread that are read before they are asked for


@dataclass(frozen=True)
class ReadImage:
    """One image that was read.

    Attributes
    ----------
    given : GivenImage
        What was asked for.
    sha256 : bytes or None
        Of the file; None for an image that was open already.
    crop : ndarray of shape (height, width, 3), uint8, or None
        What goes into the encoder; None where it is not needed or cannot be had.
    unreadable : UnreadableImageError or None
        Why it cannot be had.
    """

    given: GivenImage
    sha256: bytes | None = None
    crop: NDArray[np.uint8] | None = None
    unreadable: UnreadableImageError | None = None


def read_ahead(
    images: Iterable[GivenImage],
    cropper: Callable[[], Cropper],
    decoder: str,
    is_known: Callable[[bytes], bool] = lambda sha256: False,
) -> Iterator[ReadImage]:
    """Read images in their order, some of them ahead.

    Parameters
    ----------
    images : iterable of GivenImage
        Asked for only as far ahead as there are threads to read them.
    cropper : callable
        Gives the encoder's; called once an image is to be cropped.
    decoder : str
        Of JPEG files, one of :data:`cafe.data.images.decoding.DECODERS`.
    is_known : callable, default: nothing is
        Whether the features of a file with this SHA-256 are known, so that it need not be decoded.

    Yields
    ------
    ReadImage
        One for each.
    """

    def read(given: GivenImage) -> ReadImage:
        sha256 = None
        try:
            with decoding_with(decoder):
                if isinstance(given.source, Image.Image):
                    return ReadImage(given, crop=cropper()(as_rgb(given.source, given.name)))
                content = read_content(given.source, given.name)
                sha256 = hashlib.sha256(content).digest()
                if is_known(sha256):
                    return ReadImage(given, sha256)
                return ReadImage(given, sha256, cropper()(read_image(content, given.name)))
        except UnreadableImageError as error:
            return ReadImage(given, sha256, unreadable=error)

    threads = min(processors(), _MOST_THREADS)
    waiting: deque[Future[ReadImage]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for given in images:
                waiting.append(pool.submit(read, given))
                if len(waiting) > _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # whoever stops asking does not wait for what was read ahead
            for future in waiting:
                future.cancel()
