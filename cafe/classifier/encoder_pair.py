"""Two encoders of the same images, for classifiers that were fitted on features of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.known import KnownKeys, KnownRows
from cafe.data.images.decoders import PILLOW
from cafe.encoders.base import Cropper, Encoder
from cafe.encoders.opening import open_encoder
from cafe.errors import InputError
from cafe.features import side_by_side

if TYPE_CHECKING:
    from PIL import Image

MOST_ENCODERS = 2  # of one fit


def model_names(models: str) -> list[str]:
    """Return the names in ``"A,B"``; a folder is one model, whatever its name.

    Examples
    --------
    >>> model_names("cafe:mini,facebook/dinov2-base")
    ['cafe:mini', 'facebook/dinov2-base']
    """
    if Path(models).expanduser().exists():
        return [models]
    return [name for name in map(str.strip, models.split(",")) if name] or [models]


def pair_of(models: str) -> list[str]:
    """Return the names of the encoder, or the two encoders, of a fit.

    Raises
    ------
    InputError
        If there are more than two, or one is named twice.
    """
    names = model_names(models)
    if len(names) > MOST_ENCODERS:
        raise InputError(f"a fit takes the features of one encoder or of two; got {len(names)}: {', '.join(names)}")
    if len(set(names)) < len(names):
        raise InputError(f"--model names one model twice: {models}; a second encoder is another one")
    return names


def parts_of_provenance(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the provenance of each encoder's features: a list of one, or of the two that were joined."""
    return list(provenance.get("joined") or [provenance])


def open_encoders(
    names: Sequence[str], device: str, dtype: str = "auto", preferred_dtypes: Sequence[str | None] | None = None
) -> Encoder:
    """Open an encoder, or two as one; ``"auto"`` takes the preferred dtype of each, where there is one."""
    encoders = [
        open_encoder(name, device, dtype, preferred_dtype=preferred)
        for name, preferred in zip(names, preferred_dtypes or [None] * len(names), strict=True)
    ]
    return encoders[0] if len(encoders) == 1 else EncoderPair(*encoders)


def encoders_of(encoder: Encoder) -> list[Encoder]:
    """Return the two encoders of a pair, or a list of the encoder itself."""
    return list(encoder.encoders) if isinstance(encoder, EncoderPair) else [encoder]


def dtypes_of(provenance: Mapping[str, Any]) -> list[str | None]:
    """Return the dtype in which each encoder made its features; None where that is not recorded."""
    return [(part.get("image") or {}).get("encoder", {}).get("dtype") for part in parts_of_provenance(provenance)]


def decoder_of(provenance: Mapping[str, Any]) -> str:
    """Return the name of the decoder of JPEG files that features were made with.

    Raises
    ------
    InputError
        If the two encoders had different decoders: an image is decoded only once.
    """
    decoders = [str((part.get("image") or {}).get("decoder", PILLOW)) for part in parts_of_provenance(provenance)]
    if len(set(decoders)) > 1:
        raise InputError(
            f"the caches of both encoders were made with different decoders ({' and '.join(decoders)}), and an image "
            f"is decoded once; extract both with one --decoder"
        )
    return decoders[0]


class _PairCropper:
    """Crops an image for both encoders: the bytes of both crops, one after the other, in one row."""

    def __init__(self, croppers: Sequence[Cropper]) -> None:
        self._croppers = tuple(croppers)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        return np.concatenate([np.ascontiguousarray(cropper(image)).reshape(-1) for cropper in self._croppers])


class EncoderPair(Encoder):
    """Two encoders as one, whose features are concatenated as :meth:`cafe.features.Features.join` puts them.

    Parameters
    ----------
    first, second : Encoder
        The first is the one with text.

    Attributes
    ----------
    encoders : tuple of Encoder
        Both.
    """

    def __init__(self, first: Encoder, second: Encoder) -> None:
        from PIL import Image  # a fit on features needs none

        self.encoders = (first, second)
        self.id = f"{first.id}+{second.id}"
        self.dim = first.dim + second.dim
        self.logit_scale = first.logit_scale * np.sqrt(2).item() if first.has_text else first.logit_scale
        self.logit_bias = first.logit_bias
        self.device = first.device
        self.dtype = first.dtype if first.dtype == second.dtype else f"{first.dtype}+{second.dtype}"
        self.batch_size = min(first.batch_size, second.batch_size)
        self.cropper = _PairCropper([first.cropper, second.cropper])
        blank = Image.new("RGB", (32, 32))
        self._shapes = [encoder.cropper(blank).shape for encoder in self.encoders]  # of every crop

    @property
    def has_text(self) -> bool:
        """Whether the first encoder has a text tower."""
        return self.encoders[0].has_text

    @property
    def takes_views(self) -> bool:
        """Always False: a view is a crop of one encoder."""
        return False

    def encode_images(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode the bytes of both crops of n images, (n, bytes): features (n, d1 + d2), each part of unit length."""
        parts, start = [], 0
        for encoder, shape in zip(self.encoders, self._shapes, strict=True):
            end = start + int(np.prod(shape))
            parts.append(encoder.encode_images(crops[:, start:end].reshape(len(crops), *shape)))
            start = end
        joined: NDArray[np.float32] = side_by_side(*parts)
        return joined

    def encode_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Encode prompts by the first encoder, with zeros in the columns of the second."""
        text = self.encoders[0].encode_text(prompts)
        return np.concatenate([text, np.zeros((len(text), self.encoders[1].dim), text.dtype)], axis=1)

    def identity(self) -> dict[str, Any]:
        """Return both identities, ``first`` and ``second`` in each part."""
        first, second = (encoder.identity() for encoder in self.encoders)
        parts = {key: {"first": first[key], "second": second[key]} for key in ("image", "recorded")}
        return {**parts, "text": first["text"]}


class KnownByBoth(KnownRows):
    """Known rows of images whose features by both encoders are in caches.

    Parameters
    ----------
    known : sequence of KnownRows
        Of each encoder.
    """

    def __init__(self, known: Sequence[KnownRows]) -> None:
        super().__init__((), [sentence for rows in known for sentence in rows.damaged])
        first, second = (rows.keys.images for rows in known)
        self._known = tuple(known)
        self.keys = KnownKeys(np.intersect1d(first, second))

    def take(self, sha256: bytes, sample_id: str, views: int, *, with_projection: bool) -> NDArray[Any]:
        """Return the features of an image by both, (1, d1 + d2); without views and projections."""
        parts = (rows.take(sha256, sample_id, 0, with_projection=False) for rows in self._known)
        return side_by_side(*parts)
