"""A scikit-learn transformer from images to features of a frozen encoder."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from cafe.classifier.images import image_inputs
from cafe.classifier.reading import encoded_batches
from cafe.data.images.decoders import PILLOW
from cafe.data.images.decoding import check_decoder
from cafe.encoders.base import Encoder
from cafe.encoders.opening import MINI, open_encoder
from cafe.errors import InputError

_MOST_OPEN = 2  # encoders that stay open: clones of a search share them


class ImageFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns images into features of a frozen encoder, as a step of a scikit-learn pipeline.

    It learns nothing and keeps only its parameters, so it can be cloned, searched over and pickled; the encoder is
    opened by name, once in a process.

    Parameters
    ----------
    model : str, default="cafe:mini"
        As :func:`cafe.encoders.opening.open_encoder` takes it.
    device, dtype : str, default="auto"
        Where and in what to encode.
    decoder : str, default="pillow"
        Of JPEG files.

    Attributes
    ----------
    n_features_out_ : int
        Width of a feature.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> import cafe
    >>> from cafe.data import open_dataset
    >>> digits = open_dataset("digits")
    >>> images = [digits.image("train", i) for i in range(40)]
    >>> labels = digits.splits["train"].labels[:40]
    >>> pipeline = make_pipeline(cafe.ImageFeatures(), cafe.LinearProbe()).fit(images, labels)
    >>> pipeline.predict(images[:1]).shape
    (1,)
    """

    def __init__(self, model: str = MINI, device: str = "auto", dtype: str = "auto", decoder: str = PILLOW) -> None:
        self.model = model
        self.device = device
        self.dtype = dtype
        self.decoder = decoder

    def fit(self, X: Any = None, y: ArrayLike | None = None) -> Self:
        """Open the encoder; nothing is learned.

        Parameters
        ----------
        X, y : ignored

        Raises
        ------
        InputError
            If the encoder or the decoder cannot be had.
        """
        check_decoder(self.decoder)
        self.n_features_out_ = _open(self.model, self.device, self.dtype).dim
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """Return True: there is nothing to learn."""
        return True

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Encode images.

        Parameters
        ----------
        X : sequence of n images
            Paths of files, open images or arrays of pixels; as an array of shape (n,) or (n, 1), too.

        Returns
        -------
        ndarray of shape (n, d), float32

        Raises
        ------
        InputError
            If a path leads nowhere, or stands for several images.
        UnreadableImageError
            If an image cannot be decoded.
        """
        if isinstance(X, np.ndarray) and X.dtype.kind in "OUS":
            X = X.ravel().tolist()
        elif hasattr(X, "to_numpy"):  # a column of a table
            X = X.to_numpy().ravel().tolist()
        elif isinstance(X, str):
            raise InputError(f"images are given as a list, one for each row; got the text {X!r}")
        rows = list(X)
        encoder = _open(self.model, self.device, self.dtype)
        images = list(image_inputs(rows)) if rows else []
        if len(images) != len(rows):
            raise InputError(f"{len(rows)} rows stand for {len(images)} images; name one image in each, and no folder")
        parts = [np.zeros((0, encoder.dim), dtype=np.float32)]
        for batch, encoded in encoded_batches(images, encoder, self.decoder):
            if unreadable := next((image.unreadable for image in batch if image.unreadable), None):
                raise unreadable
            parts.append(encoded)
        features: NDArray[np.float32] = np.concatenate(parts)  # (n, d)
        return features

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the columns."""
        return np.array([f"feature{i}" for i in range(self.n_features_out_)], dtype=object)


@lru_cache(maxsize=_MOST_OPEN)
def _open(model: str, device: str, dtype: str) -> Encoder:
    """Open an encoder, or return one that is still open."""
    return open_encoder(model, device, dtype)
