"""The methods of every classifier of images: names, probabilities, tables, sets of classes, evaluation of a folder.

A subclass scores images, with a fitted method or an exported file; all answers are made from these scores.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.images import ImageInput, ImageLike, image_inputs
from cafe.classifier.prediction import Array, Prediction
from cafe.errors import InputError, unknown_name
from cafe.evaluation.conformal import ConformalScore
from cafe.evaluation.unknown import FALSE_ALARMS

if TYPE_CHECKING:
    from cafe.classifier.evaluation import Evaluation, LabelledFolder
    from cafe.classifier.prediction_table import Answer
    from cafe.classifier.reading import ReadImage


class ImageScores(NamedTuple):
    """Scores of one image.

    Attributes
    ----------
    image : ReadImage
    probabilities : ndarray of shape (n_classes,)
        Empty where the image cannot be read.
    detail : object
        The subclass makes the unknown score and the set of classes from it.
    """

    image: ReadImage
    probabilities: Array
    detail: Any


class ImageClassifier(ABC):
    """Classifies images by the scores of a subclass.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,), str
        Name of each column of :meth:`predict_proba`.
    all_class_names : list of str
        Names of the labels 0, 1, ... of the data set, those of classes without an image too.
    fitted_images : frozenset of bytes or None
        SHA-256 of the image files that the classifier was fitted on, or its settings chosen by; None if not known.
    decoder : str
        Decoder of JPEG files.
    row : dict or None
        Results of the test; None where they are not known.
    """

    classes_: NDArray[np.str_]
    decoder: str
    row: dict[str, Any] | None
    all_class_names: list[str]
    fitted_images: frozenset[bytes] | None = None
    _labels: list[int]  # of each column of probabilities, places in all_class_names

    @property
    @abstractmethod
    def why_nothing_is_unknown(self) -> str:
        """Why no image is called unknown unless a rate is asked for; empty where there is a threshold."""

    @abstractmethod
    def unknown_threshold(self, unknown: float | Literal["auto"] = "auto") -> float | None:
        """Return the score above which an image is called unknown; None where ``"auto"`` has none.

        ``unknown`` is as of :meth:`predictions`; a rate for which there were too few images raises InputError.
        """

    @abstractmethod
    def _scores(self, images: Iterable[ImageInput]) -> Iterator[ImageScores]:
        """Score images in their order, in batches of :meth:`_batch_size` readable ones."""

    @abstractmethod
    def _batch_size(self) -> int:
        """Return how many images are scored together."""

    @abstractmethod
    def _unknown_score(self, detail: Any) -> float | None:
        """Return how much an image looks like none of the classes; None where that is not known."""

    @abstractmethod
    def _check_coverage(self, coverage: float, score: ConformalScore) -> None:
        """Raise InputError where there can be no sets of this coverage."""

    @abstractmethod
    def _classes_in_set(self, detail: Any, best: int, coverage: float, score: ConformalScore) -> NDArray[np.bool_]:
        """Return which of all classes are in the set of an image, whose most probable label is ``best``."""

    @abstractmethod
    def _prediction_identity(self) -> Mapping[str, Any]:
        """Return, as JSON, all that a prediction depends on besides the image and the options of the call."""

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> NDArray[np.str_]:
        """Return the most probable name of each image.

        Parameters
        ----------
        images : image, or iterable of images
            Each the path of a file or of a folder, a pattern of paths such as ``"photos/*.jpg"``, an open
            ``PIL.Image.Image``, or uint8 pixels of shape (height, width), (height, width, 3) or (height, width, 4). A
            folder stands for all images in it, at any depth, sorted by path; an array of shape (n, height, width, 3)
            is n images.

        Returns
        -------
        ndarray of shape (n,), str

        Raises
        ------
        InputError
            If no image was given, a path leads nowhere or is an address, a folder has no image, or an array is of
            another kind.
        UnreadableImageError
            If an image cannot be decoded; :meth:`top` can leave such images out.
        """
        names: NDArray[np.str_] = self.classes_[self.predict_proba(images).argmax(axis=1)]
        return names

    def predict_proba(self, images: ImageLike | Iterable[ImageLike]) -> Array:
        """Return the probability of each class on each image, after the temperature where there is one.

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
        for image, probabilities in self.probabilities(_listed(images)):
            if image.unreadable is not None:
                raise image.unreadable
            rows.append(probabilities)
        return np.stack(rows)  # (n, n_classes)

    def top(
        self,
        images: ImageLike | Iterable[ImageLike],
        k: int = 3,
        *,
        unknown: float | Literal["auto", "off"] = "auto",
        coverage: float | None = None,
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
        unknown, coverage
            As of :meth:`predictions`: what is called unknown, and whether there are sets.
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
        inputs = list(image_inputs(images))
        predictions = []
        for image, _, prediction in self.predictions(inputs, k, unknown=unknown, coverage=coverage):
            if image.unreadable is not None and on_error == "fail":
                raise image.unreadable
            predictions.append(prediction)
            if progress is not None:
                progress(len(predictions), len(inputs))
        return predictions

    def evaluate(self, folder: Path | str, *, progress: Callable[[int, int], None] | None = None) -> Evaluation:
        """Test the classifier on a folder with a folder of images for each class, named as the classes are.

        Parameters
        ----------
        folder : path
            Its class folders may be in folders named train, val and test. Images that the classifier was fitted
            on are left out, whatever they are called now, and so are those of classes that it does not know; both
            are counted.
        progress : callable, default=None
            Called with the images done and their number after each.

        Returns
        -------
        Evaluation

        Raises
        ------
        InputError
            If there is no such folder, none of its folders is named as a class, or no image is left to be tested on.
        """
        if not Path(folder).expanduser().is_dir():
            raise InputError(f"{os.fspath(folder)!r} is no folder; give one with a folder of images for each class")
        from cafe.classifier.evaluation import LabelledFolder

        inputs = list(image_inputs(folder))
        labelled = LabelledFolder(self.classes_, self.fitted_images)
        if not labelled.fits(inputs):
            raise InputError(
                f"no folder in {os.fspath(folder)!r} is called as a class of this classifier; its classes are: "
                f"{', '.join(self.classes_[:8])}{', ...' if len(self.classes_) > 8 else ''}"
            )
        for done, (image, probabilities) in enumerate(self.probabilities(inputs), start=1):
            labelled.add(image, probabilities)
            if progress is not None:
                progress(done, len(inputs))
        return labelled.evaluation()

    def unknown(self, images: ImageLike | Iterable[ImageLike], false_alarms: float = FALSE_ALARMS) -> NDArray[np.bool_]:
        """Return which images look like none of the classes.

        Parameters
        ----------
        images : image, or iterable of images
            As in :meth:`predict`.
        false_alarms : float, default=0.05
            How many images of the classes may be called unknown, as a share: the threshold is that of images that no
            fit had seen.

        Returns
        -------
        ndarray of shape (n,), bool

        Raises
        ------
        InputError, UnreadableImageError
            As :meth:`predict`; or if images were too few for a threshold at this rate.
        """
        threshold = self.unknown_threshold(float(false_alarms))
        assert threshold is not None, 'only "auto" may have none'
        is_unknown: NDArray[np.bool_] = self.unknown_scores(images) > threshold
        return is_unknown

    def unknown_scores(self, images: ImageLike | Iterable[ImageLike]) -> NDArray[np.float64]:
        """Return how much each image looks like none of the classes, (n,): higher is stranger.

        Source and formula: :func:`cafe.evaluation.unknown.combined_score`.

        Parameters
        ----------
        images : image, or iterable of images
            As in :meth:`predict`.

        Raises
        ------
        InputError, UnreadableImageError
            As :meth:`predict`.
        """
        scores = [self._unknown_score(scores.detail) for scores in self._readable(images)]
        if any(score is None for score in scores):
            raise InputError("this classifier has no scores of unknown images")
        return np.array(scores, dtype=np.float64)

    def sets(
        self, images: ImageLike | Iterable[ImageLike], coverage: float = 0.95, score: ConformalScore = "lac"
    ) -> list[tuple[str, ...]]:
        """Return for each image the classes that it may be of.

        Of new images like those it was fitted on, at least a share of ``coverage`` has its class in its set, on average
        over fits and images: split-conformal prediction, :mod:`cafe.evaluation.conformal`.

        Parameters
        ----------
        images : image, or iterable of images
            As in :meth:`predict`.
        coverage : float, default=0.95
            Between 0 and 1.
        score : {"lac", "aps"}, default="lac"
            LAC gives the smallest sets on average; those of APS vary more with how hard an image is.

        Returns
        -------
        list of tuple of str
            The most probable class first; never empty.

        Raises
        ------
        InputError, UnreadableImageError
            As :meth:`predict`; or if images were too few for this coverage.
        """
        self._check_coverage(coverage, score)  # before images are read
        return [self.set_of(scores.detail, scores.probabilities, coverage, score) for scores in self._readable(images)]

    def set_of(
        self, detail: Any, probabilities: Array, coverage: float, score: ConformalScore = "lac"
    ) -> tuple[str, ...]:
        """Return the names in the set of one image, the most probable first.

        Parameters
        ----------
        detail : object
            Of the image: what :meth:`classify` gives besides its probabilities.
        probabilities : ndarray of shape (n_classes,)
        coverage, score
            As of :meth:`sets`.
        """
        best = self._labels[int(probabilities.argmax())]
        inside = self._classes_in_set(detail, best, coverage, score)
        inside[best] = True
        # Classes without an image have no probability.
        probability_of = dict(zip(self._labels, probabilities.tolist(), strict=True))
        order = sorted(np.flatnonzero(inside).tolist(), key=lambda label: -probability_of.get(label, 0.0))
        return tuple(self.all_class_names[label] for label in order)

    def _readable(self, images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageScores]:
        """Score images, and raise UnreadableImageError at the first that cannot be read."""
        for scores in self._scores(image_inputs(images)):
            if scores.image.unreadable is not None:
                raise scores.image.unreadable
            yield scores

    def predictions(
        self,
        images: Iterable[ImageInput],
        k: int = 3,
        *,
        unknown: float | Literal["auto", "off"] = "auto",
        coverage: float | None = None,
    ) -> Iterator[tuple[ReadImage, Array, Prediction]]:
        """Predict images of :func:`~cafe.classifier.images.image_inputs` one after the other.

        Parameters
        ----------
        images : iterable of ImageInput
            As of :meth:`probabilities`.
        k : int, default=3
            Most probable classes that are named.
        unknown : float, "auto" or "off", default="auto"
            Rate at which images of the classes may be called unknown by mistake; ``"auto"`` is 0.05 where there is a
            threshold for that, and gives scores alone elsewhere.
        coverage : float, default=None
            Of sets of classes; None makes none.

        Yields
        ------
        ReadImage, ndarray of shape (n_classes,), Prediction
            Where an image cannot be read the array is empty, and the prediction says why.

        Raises
        ------
        InputError
            If images were too few for the rate or the coverage; before an image is read.
        """
        threshold = None if unknown == "off" else self.unknown_threshold(unknown)
        if coverage is not None:
            self._check_coverage(coverage, "lac")
        for scores in self._scores(images):
            prediction = self._prediction(scores, k, threshold, coverage, with_unknown=unknown != "off")
            yield scores.image, scores.probabilities, prediction

    def _prediction(
        self, scores: ImageScores, k: int, threshold: float | None, coverage: float | None, *, with_unknown: bool
    ) -> Prediction:
        """Return the prediction for an image from its scores: classes, unknown or not, set of classes."""
        image, probabilities = scores.image, scores.probabilities
        if image.unreadable is not None:
            return Prediction(image.input.name, (), image.unreadable.reason)
        best = (-probabilities).argsort(kind="stable")[:k]
        score = self._unknown_score(scores.detail) if with_unknown else None
        return Prediction(
            image.input.name,
            tuple((str(self.classes_[column]), float(probabilities[column])) for column in best),
            unknown=None if threshold is None or score is None else score > threshold,
            unknown_score=score,
            set=None if coverage is None else self.set_of(scores.detail, probabilities, coverage),
        )

    def predictions_to_table(
        self,
        out: Path | str,
        images: Iterable[ImageInput],
        k: int = 3,
        *,
        unknown: float | Literal["auto", "off"] = "auto",
        coverage: float | None = None,
        labelled: LabelledFolder | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> AbstractContextManager[Iterator[Answer]]:
        """Return a context whose iterator makes :meth:`predictions` and writes each as a row of a CSV file.

        The file takes its place in one step when the context ends. Until then the rows are in a file beside it, and
        after a kill the same call carries on from there: see :mod:`cafe.classifier.prediction_table`.

        Parameters
        ----------
        out : path
            The file; one that exists is replaced.
        images, k, unknown, coverage
            As of :meth:`predictions`.
        labelled : LabelledFolder, default=None
            Says the label of each image, for a column of its own.
        tell : callable, default: nobody
            Called with a sentence about what is kept of an earlier call.
        """
        from cafe.classifier.prediction_table import writing_table

        return writing_table(
            Path(out),
            images,
            lambda others: self.predictions(others, k, unknown=unknown, coverage=coverage),
            request={**self._prediction_identity(), "options": [k, unknown, coverage]},
            batch_size=self._batch_size(),
            top=k,
            labelled=labelled,
            tell=tell,
        )

    def write_table(
        self,
        images: ImageLike | Iterable[ImageLike],
        out: Path | str,
        k: int = 3,
        *,
        unknown: float | Literal["auto", "off"] = "auto",
        coverage: float | None = None,
        force: bool = False,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> int:
        """Name what is on any number of images, in a CSV file with one image a line, as ``cafe predict --out`` does.

        Only some images are in memory at once. A call that was killed is carried on by the same call: what was named
        before is kept where the images are the same.

        Parameters
        ----------
        images : image, or iterable of images
            As in :meth:`predict`; an iterator is asked for one after the other.
        out : path
            The file, which ends in ``.csv``. Its columns: image, class, probability, class_2, ... up to ``k``, unknown,
            unknown_score, set, and unreadable, which says why an image has no class.
        k, unknown, coverage
            As of :meth:`top`.
        force : bool, default=False
            Replace the file if it is there.
        progress : callable, default=None
            Called with the images done and their number, None where that is not known, after each.

        Returns
        -------
        int
            Rows.

        Raises
        ------
        InputError
            As :meth:`top`; or if the file is there, or cannot be one.
        """
        from cafe.classifier.prediction_table import check_table

        check_table(Path(out), force)
        inputs = _listed(images)
        total = len(inputs) if isinstance(inputs, list) else None
        done = 0
        with self.predictions_to_table(out, inputs, k, unknown=unknown, coverage=coverage) as answers:
            for done, _ in enumerate(answers, start=1):
                if progress is not None:
                    progress(done, total)
        return done

    def probabilities(self, images: Iterable[ImageInput]) -> Iterator[tuple[ReadImage, Array]]:
        """Yield images of :func:`~cafe.classifier.images.image_inputs` with their probabilities.

        Images are read ahead in threads, encoded, and the method asked, in batches of the encoder's own size; what is
        held in memory is a few of them. Of files whose features are in a cache of the cache folder, these are taken.

        Yields
        ------
        ReadImage, ndarray of shape (n_classes,)
            In the order of the images; the array is empty where the image cannot be read.
        """
        for scores in self._scores(images):
            yield scores.image, scores.probabilities


def _listed(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageInput]:
    """Return the images as a list, but those of an iterator one by one: they may be more than memory holds."""
    inputs = image_inputs(images)
    return inputs if isinstance(images, Iterator) else list(inputs)
