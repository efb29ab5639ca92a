"""Features of further images, by the encoder that made a cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.classifier import check_encoder
from cafe.classifier.images import given_images
from cafe.data.images.decoding import PILLOW, decoding_with
from cafe.encoders.opening import open_encoder
from cafe.errors import InputError, UnreadableImageError
from cafe.features import Features


def encode_like(
    features: Features,
    folder: Path | str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Encode the images of a folder as a cache's were encoded.

    Parameters
    ----------
    features : Features
        Of the cache.
    folder : path
        Its images at any depth, sorted; labels are not looked for.
    device, dtype : str, default="auto"
        As :func:`cafe.encoders.opening.open_encoder` takes them.
    progress : callable, default=None
        Called with the images done and their number after each batch.

    Returns
    -------
    ndarray of shape (m, d), float32

    Raises
    ------
    InputError
        If the folder has no image that can be read, or the cache's encoder cannot be opened or has changed.

    Warns
    -----
    UserWarning
        For images that cannot be read, which are left out.
    """
    made: dict[str, Any] = features.provenance.get("image") or {}
    if not features.provenance.get("encoder") or "encoder" not in made:
        raise InputError("this cache does not say which encoder made it, so that further images cannot be encoded")
    images = given_images(folder)
    encoder = open_encoder(str(features.provenance["encoder"]), device, dtype)
    check_encoder(made["encoder"], encoder)
    parts, unreadable, first = [], 0, ""
    for start in range(0, len(images), encoder.batch_size):
        crops = []
        for image in images[start : start + encoder.batch_size]:
            try:
                with decoding_with(made.get("decoder", PILLOW)):
                    crops.append(encoder.cropper(image.read()))
            except UnreadableImageError as error:
                unreadable, first = unreadable + 1, first or f"{image.name!r}: {error.reason}"
        if crops:
            parts.append(encoder.encode_images(np.stack(crops)))
        if progress is not None:
            progress(min(start + encoder.batch_size, len(images)), len(images))
    if unreadable:
        warnings.warn(
            f"{unreadable} of {len(images)} images were left out, the first {first}", UserWarning, stacklevel=2
        )
    if not parts:
        raise InputError(f"none of the {len(images)} images in {folder} can be read, the first {first}")
    encoded: NDArray[np.float32] = np.concatenate(parts)
    return encoded
