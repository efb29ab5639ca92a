"""The classifiers that a server asks: a run with torch, or an exported file with ONNX Runtime."""

from __future__ import annotations

import base64
import io
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cafe.classifier.classifier import Classifier
from cafe.classifier.encoder_pair import encoders_of
from cafe.classifier.image_classifier import ImageClassifier
from cafe.classifier.onnx_classifier import OnnxClassifier
from cafe.classifier.training_images import TrainingImages
from cafe.data.images.decoding import decoding_with, read_image
from cafe.errors import InputError

_THUMBNAIL = 112  # pixels of a side
_KEPT_THUMBNAILS = 512  # in memory, some 4 kB each

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ImageAnswer:
    """What is said of one image.

    Attributes
    ----------
    probabilities : ndarray of shape (c,)
    unknown_score : float or None
    zero_shot : ndarray of shape (c,) or None
        What the encoder says by its text alone.
    detail : object
        What sets and neighbours are made of; the predictor's own.
    """

    probabilities: Array
    unknown_score: float | None
    zero_shot: Array | None
    detail: Any


class Predictor(ABC):
    """The interface of a classifier to the server.

    Attributes
    ----------
    name : str
        Of the model in the API.
    class_names : list of str
    platform : str
        Of the Open Inference Protocol.
    batch_size : int
        Images that are classified together at most.
    cores : int
        Cores to divide among batches side by side; 1 where batches run one after the other.
    row : dict or None
        Result row of the test.
    decoder : str
        Decoder of JPEG files.
    """

    name: str
    platform: ClassVar[str]
    batch_size: int
    cores: int

    def __init__(self, classifier: ImageClassifier) -> None:
        self._classifier = classifier
        self.class_names = [str(name) for name in classifier.classes_]
        self.decoder, self.row = classifier.decoder, classifier.row

    @abstractmethod
    def crop(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one RGB image."""

    @abstractmethod
    def classify(self, crops: NDArray[np.uint8], cores: int) -> list[ImageAnswer]:
        """Return the answers of n images, computed on ``cores`` cores; called in any thread."""

    def threshold(self, rate: float | None) -> float | None:
        """Return the score above which an image is called unknown; None for the usual rate. Raises InputError."""
        return self._classifier.unknown_threshold("auto" if rate is None else rate)

    def set_of(self, answer: ImageAnswer, coverage: float) -> list[str]:
        """Return the names of the classes that an image may be of. Raises InputError."""
        return list(self._classifier.set_of(answer.detail, answer.probabilities, coverage))

    def nearest(self, answer: ImageAnswer, k: int) -> list[dict[str, Any]]:
        """Return the nearest training images: class, similarity, thumbnail as a data address; none where unknown."""
        return []


def decode(predictor: Predictor, content: bytes, name: str, most_pixels: int) -> NDArray[np.uint8]:
    """Return the crop that the predictor takes, from the bytes of an image file.

    Raises
    ------
    UnreadableImageError
        If it cannot be decoded.
    TooManyPixelsError
        If it has more pixels than the limit; its pixels are not decoded then.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:  # reads the header alone
            width, height = opened.size
    except Image.DecompressionBombError as error:  # Pillow has a limit of its own
        raise TooManyPixelsError(f"it has more pixels than the limit of {most_pixels:,}") from error
    except Exception:
        width = height = 0  # what is wrong is said below
    if width * height > most_pixels:
        raise TooManyPixelsError(f"{width} x {height} pixels are more than the limit of {most_pixels:,}")
    with decoding_with(predictor.decoder):
        return predictor.crop(read_image(content, name))


class TooManyPixelsError(InputError):
    """An image is larger than the server decodes."""


class RunPredictor(Predictor):
    """A run, with torch; see :class:`Predictor`."""

    platform = "pytorch"
    _classifier: Classifier

    def __init__(self, classifier: Classifier, *, with_training_images: bool = True) -> None:
        if classifier.estimator.chosen_on() == "the batch":
            raise InputError(
                f"{type(classifier.estimator).__name__} cannot be served: what it says of an image depends on the "
                "other images of the batch, which would be those of other people; fit another method, such as auto"
            )
        super().__init__(classifier)
        self.name = "classifier" if classifier.run is None else classifier.run.resolve().name
        self.batch_size = classifier.encoder.batch_size
        self._images: TrainingImages | None = classifier.training_images() if with_training_images else None
        self.cores = _divisible_cores(classifier)
        self._scoring_lock, self._count_lock = threading.Lock(), threading.Lock()
        self._n_running = 0  # batches that are being encoded
        self._thumbnail = lru_cache(maxsize=_KEPT_THUMBNAILS)(self._made_thumbnail)

    def crop(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one RGB image."""
        return self._classifier.encoder.cropper(image)

    def classify(self, crops: NDArray[np.uint8], cores: int) -> list[ImageAnswer]:
        """Return the answers of n images, computed on ``cores`` cores."""
        with self._on_cores(cores):
            features = self._classifier.encode(crops)
        with self._scoring_lock:  # methods are not made for several threads; this is a thousandth of the time
            scored = self._classifier.score(features)
        zero_shot = [None] * len(crops) if scored.zero_shot is None else list(scored.zero_shot)
        return [
            ImageAnswer(probabilities, float(score), of_text, features)
            for probabilities, score, of_text, features in zip(
                scored.probabilities, scored.unknown_scores, zero_shot, scored.features, strict=True
            )
        ]

    @contextmanager
    def _on_cores(self, cores: int) -> Iterator[None]:
        """Run the body on ``cores`` threads of torch; the last of several bodies restores the number of the process."""
        if self.cores == 1:
            yield
            return
        import torch

        with self._count_lock:
            self._n_running += 1
        try:
            if torch.get_num_threads() != cores:
                torch.set_num_threads(cores)
            yield
        finally:
            with self._count_lock:
                self._n_running -= 1
                if self._n_running == 0:
                    torch.set_num_threads(self.cores)

    def nearest(self, answer: ImageAnswer, k: int) -> list[dict[str, Any]]:
        """Return the nearest training images."""
        if self._images is None:
            return []
        neighbours = []
        for row, cosine in self._images.nearest(answer.detail, k):
            label = int(self._images.labels[row])
            name = self._classifier.all_class_names[label]
            neighbours.append({"class": name, "similarity": cosine, "thumbnail": self._thumbnail(row)})
        return neighbours

    def _made_thumbnail(self, row: int) -> str | None:
        """Return a training image as a small JPEG in a data URL; None if the image cannot be read any more."""
        assert self._images is not None
        picture = self._images.picture(row)
        if picture is None:
            return None
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        stream = io.BytesIO()
        picture.convert("RGB").save(stream, "JPEG", quality=80)  # nothing of the file but its pixels
        return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _divisible_cores(classifier: Classifier) -> int:
    """Return the number of torch's threads if batches can be encoded side by side, else 1."""
    import torch

    encoders = encoders_of(classifier.encoder)
    # Features before the projection are taken out of the model's midst, which one call at a time may do.
    unprojected = getattr(classifier.estimator, "projection", None) is not None
    if unprojected or not all(each.device == "cpu" and each.parallel for each in encoders):
        return 1
    return torch.get_num_threads()


class OnnxPredictor(Predictor):
    """An exported file, with ONNX Runtime; see :class:`Predictor`."""

    platform = "onnxruntime_onnx"
    _classifier: OnnxClassifier
    cores = 1  # ONNX Runtime divides them itself

    def __init__(self, classifier: OnnxClassifier) -> None:
        super().__init__(classifier)
        self.name, self.batch_size = classifier.run.stem, classifier.batch_size

    def crop(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one RGB image."""
        return self._classifier.cropper(image)

    def classify(self, crops: NDArray[np.uint8], cores: int = 1) -> list[ImageAnswer]:
        """Return the answers of n images."""
        return [
            ImageAnswer(
                single.probabilities[0],
                None if single.unknown_scores is None else float(single.unknown_scores[0]),
                None if single.zero_shot is None else single.zero_shot[0],
                single,
            )
            for single in self._classifier.classify(crops).split()
        ]
