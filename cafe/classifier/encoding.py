"""Encodes new images with the encoder that made a cache."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.encoder_pair import decoder_of, encoders_of, open_encoders, parts_of_provenance
from cafe.classifier.images import image_inputs
from cafe.encoders.base import Encoder
from cafe.errors import CafeWarning, InputError
from cafe.features import Features


def encode_like(
    features: Features,
    folder: Path | str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Encode the images of a folder as the images of a cache were encoded.

    Parameters
    ----------
    features : Features
        Of the cache.
    folder : path
        Images at any depth are taken, sorted, without labels.
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
    from cafe.classifier.reading import encoded_batches

    for part in parts_of_provenance(features.provenance):
        if not part.get("encoder") or "encoder" not in (part.get("image") or {}):
            raise InputError("this cache does not say which encoder made it, so that further images cannot be encoded")
    images, decoder = list(image_inputs(folder)), decoder_of(features.provenance)
    encoder = open_again(features, device, dtype)
    parts: list[NDArray[np.float32]] = []
    unreadable, done = list[str](), 0
    for batch, rows in encoded_batches(images, encoder, decoder):
        unreadable += [f"{image.input.name!r}: {image.unreadable.reason}" for image in batch if image.unreadable]
        parts.append(rows)
        done += len(batch)
        if progress is not None:
            progress(done, len(images))
    if len(unreadable) == len(images):
        raise InputError(f"none of the {len(images)} images in {folder} can be read, the first {unreadable[0]}")
    if unreadable:
        message = f"{len(unreadable)} of {len(images)} images were left out, the first {unreadable[0]}"
        warnings.warn(message, CafeWarning, stacklevel=2)
    encoded: NDArray[np.float32] = np.concatenate(parts)  # (m, d)
    return encoded


def unlabelled_images(source: Path | str | None, features: Features, device: str) -> str | NDArray[np.float32] | None:
    """Return the name of a split of unlabelled images, or the features of the images in a folder; None for None.

    Raises
    ------
    InputError
        If the source is neither a split of the features nor a folder, or as of :func:`encode_like`.
    """
    if source is None:
        return None
    if source in features.splits:
        return str(source)
    if not Path(source).is_dir():
        raise InputError(
            f"unlabelled images are a split of the data set ({', '.join(features.splits)}) or a folder of images; "
            f"got {os.fspath(source)!r}"
        )
    return encode_like(features, source, device=device)


def open_again(features: Features, device: str, dtype: str = "auto") -> Encoder:
    """Open the encoder that made features, or both as a pair.

    Raises
    ------
    InputError
        If an encoder cannot be opened or has changed.
    """
    parts = parts_of_provenance(features.provenance)
    encoder = open_encoders([str(part.get("encoder", "")) for part in parts], device, dtype)
    check_encoders(features.provenance, encoder)
    return encoder


def check_encoders(provenance: Mapping[str, Any], encoder: Encoder) -> None:
    """Refuse an encoder, or a pair of which either encoder's image features differ from those of the provenance.

    Raises
    ------
    InputError
        Naming the encoder and what differs.
    """
    for part, part_encoder in zip(parts_of_provenance(provenance), encoders_of(encoder), strict=True):
        check_encoder((part.get("image") or {}).get("encoder", {}), part_encoder)


def check_encoder(fitted: Mapping[str, Any], encoder: Encoder) -> None:
    """Refuse an encoder whose image features differ from those of ``fitted``, the identity recorded at the fit."""
    identity = encoder.image_identity()
    if "named_by_user" in fitted:
        warnings.warn(
            f"this run was fitted on imported features, said to be of {fitted['named_by_user']!r}; whether "
            f"{encoder.id!r} makes the same ones cannot be checked",
            CafeWarning,
            stacklevel=4,  # the caller of Classifier.load
        )
        return
    differing = sorted(key for key in {*fitted, *identity} - {"dtype"} if fitted.get(key) != identity.get(key))
    if differing:
        raise InputError(
            f"encoder {encoder.id!r} is not the one that this run was fitted with: {', '.join(differing)} differ; "
            f"name the right one with --model"
        )
