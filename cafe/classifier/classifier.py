"""The classifier of images: preprocessing and encoder of the features, and the method that was fitted on these."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.images import GivenImage, ImageLike, given_images
from cafe.data.images.decoding import PILLOW, decoding_with
from cafe.encoders.base import Encoder
from cafe.encoders.opening import open_encoder
from cafe.errors import InputError, UnreadableImageError, unknown_name
from cafe.files import cache_dir as cache_folder
from cafe.runs import find_run
from cafe.runs import load as load_run


@dataclass(frozen=True)
class Prediction:
    """What is on one image.

    Attributes
    ----------
    image : str
        The path as it was given; of an open image or an array its place, such as ``"image 0"``.
    classes : tuple of (str, float)
        The most probable names with their probabilities, best first; empty if the image cannot be read.
    unreadable : str or None
        Why the image cannot be read; None for one that can.
    """

    image: str
    classes: tuple[tuple[str, float], ...]
    unreadable: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as `cafe predict --json` writes it: a readable image with its classes, another with the reason."""
        if self.unreadable is not None:
            return {"image": self.image, "reason": self.unreadable}
        return {
            "image": self.image,
            "predictions": [{"class": name, "probability": probability} for name, probability in self.classes],
        }


class Classifier:
    """Names what is on images.

    It cuts every image as the encoder's checkpoint says, encodes it, and asks the fitted method; what it needs of
    memory grows with one batch of images, not with all. Usually it comes from a run that `cafe fit` saved:
    ``Classifier.load("digits-cafe-mini-auto-16-shot-seed-1").predict(["new.jpg", "more_photos"])``.

    Parameters
    ----------
    estimator : fitted classifier
        Any method of cafe, fitted on features of the encoder.
    encoder : Encoder
        As of :func:`cafe.encoders.opening.open_encoder`.
    class_names : sequence of str, default=None
        Names of the labels 0, 1, ... that the estimator was fitted on; None where its labels are names already.
    decoder : str, default="pillow"
        What decodes JPEG files, as for the features of the fit: one of :data:`cafe.data.images.decoding.DECODERS`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,), str
        Name of each column of :meth:`predict_proba`.
    estimator, encoder, decoder
        As given.
    run : Path or None
        The folder it was loaded from.

    Examples
    --------
    A classifier that has seen no image: zero-shot, from names alone.

    >>> import cafe
    >>> from cafe.data import open_dataset
    >>> from cafe.encoders.opening import open_encoder
    >>> encoder = open_encoder("cafe:mini", device="cpu", dtype="float32")
    >>> names = ["one", "two", "three"]
    >>> text = encoder.encode_text([f"a photo of the number {name}." for name in names])
    >>> classifier = cafe.Classifier(cafe.ZeroShot(text, classes=names).fit(text, names), encoder)
    >>> digits = open_dataset("digits")
    >>> test = digits.splits["test"]
    >>> image = digits.image("test", int((test.labels == 2).argmax()))
    >>> print(*classifier.predict([image]))
    two
    >>> classifier.predict_proba([image]).shape
    (1, 3)
    """

    def __init__(
        self, estimator: Any, encoder: Encoder, class_names: Sequence[str] | None = None, *, decoder: str = PILLOW
    ) -> None:
        self.estimator = estimator
        self.encoder = encoder
        self.decoder = decoder
        self.run: Path | None = None
        labels = estimator.classes_
        self.classes_: NDArray[np.str_] = np.array(
            [str(label) if class_names is None else str(class_names[int(label)]) for label in labels]
        )

    @classmethod
    def load(
        cls,
        run: Path | str,
        *,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        cache_dir: Path | str | None = None,
    ) -> Self:
        """Open a run that `cafe fit` or :func:`cafe.runs.save` wrote, and its encoder.

        Parameters
        ----------
        run : path or str
            Its folder; or its name below the cache folder's ``runs``, such as ``"demo/fit"``.
        model : str, default=None
            Where the encoder is now, if it has moved: a name, folder or hub id; None for what the run names.
        device, dtype : str, default="auto"
            Where and in what images are encoded, as :func:`cafe.encoders.opening.open_encoder` takes them.
        cache_dir : path, default=None
            Folder of caches and runs; None for ``$CAFE_CACHE``, else ``$XDG_CACHE_HOME/cafe``.

        Returns
        -------
        Classifier

        Raises
        ------
        InputError
            If there is no such run; if it names no encoder or no classes; or if the encoder cannot be opened, or has
            other weights or another preprocessing than the one that the run was fitted with. A different dtype does
            not count.

        Warns
        -----
        UserWarning
            If the run was fitted on imported features: of their encoder there is only the name that a user gave, so
            that whether it is the right one cannot be checked.
        """
        folder = find_run(os.fspath(run), cache_folder(cache_dir))
        estimator = load_run(folder)
        saved = estimator.run_
        if not saved.get("encoder") or not saved.get("class_names"):
            raise InputError(f"the run {folder} names no encoder and no classes, so it cannot name what is on an image")
        try:
            encoder = open_encoder(model or str(saved["encoder"]), device, dtype)
        except InputError as error:
            if model is not None:
                raise
            raise InputError(
                f"the run {folder} needs its encoder: {error}; say where it is now with --model"
            ) from error
        fitted_on = saved["provenance"]["image"]
        check_encoder(fitted_on["encoder"], encoder)
        classifier = cls(estimator, encoder, saved["class_names"], decoder=fitted_on.get("decoder", PILLOW))
        classifier.run = folder
        return classifier

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> NDArray[np.str_]:
        """Return the most probable name of each image.

        Parameters
        ----------
        images : image, or iterable of images
            Each the path of a file or of a folder, an open ``PIL.Image.Image``, or uint8 pixels of shape
            (height, width), (height, width, 3) or (height, width, 4). A folder stands for all images in it, at any
            depth, sorted by path; an array of shape (n, height, width, 3) is n images.

        Returns
        -------
        ndarray of shape (n,), str

        Raises
        ------
        InputError
            If no image was given, a path leads nowhere, a folder has no image, or an array is of another kind.
        UnreadableImageError
            If an image cannot be decoded; :meth:`top` can leave such images out.
        """
        names: NDArray[np.str_] = self.classes_[self.predict_proba(images).argmax(axis=1)]
        return names

    def predict_proba(self, images: ImageLike | Iterable[ImageLike]) -> NDArray[np.floating[Any]]:
        """Return the probability of each class on each image.

        Parameters
        ----------
        images : image, or iterable of images
            As in :meth:`predict`.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Columns in the order of ``classes_``; rows sum to 1.

        Raises
        ------
        InputError, UnreadableImageError
            As :meth:`predict`.
        """
        rows = []
        for _, probabilities in self._probabilities(given_images(images)):
            if isinstance(probabilities, UnreadableImageError):
                raise probabilities
            rows.append(probabilities)
        return np.stack(rows)  # (n, n_classes)

    def top(
        self,
        images: ImageLike | Iterable[ImageLike],
        k: int = 3,
        *,
        on_error: Literal["fail", "skip"] = "fail",
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Prediction]:
        """Return the most probable classes of each image, with their probabilities.

        Parameters
        ----------
        images : image, or iterable of images
            As in :meth:`predict`.
        k : int, default=3
            Classes of each image, at least 1; all where there are fewer.
        on_error : {"fail", "skip"}, default="fail"
            What an image that cannot be decoded does: it ends the call, or its prediction says why.
        progress : callable, default=None
            Called with the images done and their number after each.

        Returns
        -------
        list of Prediction
            One for each image, in their order.

        Raises
        ------
        InputError
            As :meth:`predict`; or if ``k`` is less than 1, or ``on_error`` is unknown.
        UnreadableImageError
            If an image cannot be decoded under ``"fail"``.
        """
        if k < 1:
            raise InputError(f"k, the number of classes to name, must be at least 1; got {k}")
        if on_error not in ("fail", "skip"):
            raise unknown_name("on_error", on_error, ("fail", "skip"))
        given = given_images(images)
        predictions = []
        for image, probabilities in self._probabilities(given):
            if isinstance(probabilities, UnreadableImageError):
                if on_error == "fail":
                    raise probabilities
                predictions.append(Prediction(image.name, (), probabilities.reason))
            else:
                best = (-probabilities).argsort(kind="stable")[:k]
                named = tuple((str(self.classes_[column]), float(probabilities[column])) for column in best)
                predictions.append(Prediction(image.name, named))
            if progress is not None:
                progress(len(predictions), len(given))
        return predictions

    def __repr__(self) -> str:
        method = type(self.estimator).__name__
        where = "" if self.run is None else f", run={str(self.run)!r}"
        return f"Classifier({method} on {self.encoder.id!r}, {len(self.classes_)} classes{where})"

    def _probabilities(
        self, images: Sequence[GivenImage]
    ) -> Iterator[tuple[GivenImage, NDArray[np.floating[Any]] | UnreadableImageError]]:
        """Yield each image with its row of probabilities, or with why it cannot be read.

        Images are encoded, and the method asked, in batches of the encoder's own size; an image that cannot be read
        leaves its batch smaller.
        """
        size = self.encoder.batch_size
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            crops = [self._crop(image) for image in batch]
            readable = [crop for crop in crops if not isinstance(crop, UnreadableImageError)]
            rows: Iterator[NDArray[np.floating[Any]]] = iter(())
            if readable:
                rows = iter(self.estimator.predict_proba(self._features(np.stack(readable))))
            for image, crop in zip(batch, crops, strict=True):
                yield image, crop if isinstance(crop, UnreadableImageError) else next(rows)

    def _crop(self, image: GivenImage) -> NDArray[np.uint8] | UnreadableImageError:
        try:
            with decoding_with(self.decoder):
                return self.encoder.cropper(image.read())
        except UnreadableImageError as error:
            return error

    def _features(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode crops (n, height, width, 3): before the projection for a method that trains the projection."""
        if getattr(self.estimator, "projection", None) is not None:
            return self.encoder.encode_images_unprojected(crops)[1]
        return self.encoder.encode_images(crops)


def check_encoder(fitted: Mapping[str, Any], encoder: Encoder) -> None:
    """Refuse an encoder whose image features are not those of the fit; ``fitted`` is the identity of the one then."""
    here = encoder.identity()["image"]
    if "named_by_user" in fitted:
        warnings.warn(
            f"this run was fitted on imported features, said to be of {fitted['named_by_user']!r}; whether "
            f"{encoder.id!r} makes the same ones cannot be checked",
            UserWarning,
            stacklevel=3,
        )
        return
    differing = sorted(key for key in {*fitted, *here} - {"dtype"} if fitted.get(key) != here.get(key))
    if differing:
        raise InputError(
            f"encoder {encoder.id!r} is not the one that this run was fitted with: {', '.join(differing)} differ; "
            f"name the right one with --model"
        )
