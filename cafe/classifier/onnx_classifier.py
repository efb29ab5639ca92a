"""Runs an exported classifier with ONNX Runtime and Pillow alone: images in, names out, without torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.images import GivenImage, ImageLike, given_images
from cafe.classifier.prediction import Prediction
from cafe.classifier.prediction_table import Answer, writing_table
from cafe.classifier.reading import ReadImage, read_ahead
from cafe.encoders.towers.pillow_cropper import cropper_of
from cafe.errors import InputError, MissingDependencyError
from cafe.evaluation.conformal import conformal_threshold, prediction_sets
from cafe.evaluation.unknown import unknown_threshold
from cafe.foreign import check_regular
from cafe.sharing.onnx_metadata import (
    CROPS,
    PROBABILITIES,
    SET_SCORES,
    UNKNOWN_SCORE,
    ZERO_SHOT,
    OnnxMetadata,
)

if TYPE_CHECKING:
    from cafe.classifier.evaluation import LabelledFolder

FALSE_ALARMS = 0.05  # of "auto"
BATCH_SIZE = 32
SUFFIX = ".onnx"

Array = NDArray[np.floating[Any]]


class OnnxOutputs(NamedTuple):
    """What the graph gives for n images; what it lacks is None.

    Attributes
    ----------
    probabilities : ndarray of shape (n, c)
    unknown_scores : ndarray of shape (n,) or None
    zero_shot : ndarray of shape (n, c) or None
    set_scores : ndarray of shape (n, all) or None
    """

    probabilities: Array
    unknown_scores: Array | None
    zero_shot: Array | None
    set_scores: Array | None


class OnnxClassifier:
    """Names what is on images with a file of `cafe export`; it answers as the run does, in float32 on the CPU.

    Parameters
    ----------
    file : path
        Ends in ``.onnx``.
    threads : int, default=0
        Of ONNX Runtime; 0 takes one for each core.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,), str
        Name of each column of :meth:`predict_proba`.
    metadata : OnnxMetadata
        What the file says of itself.
    row : dict or None
        How it did when it was tested.
    run : Path
        The file.
    fitted_images : None
        Which images it was fitted on is not in the file.

    Raises
    ------
    InputError
        If there is no such file, or it is damaged, of another program, or of a newer format.
    MissingDependencyError
        If onnxruntime is not installed.
    """

    fitted_images = None

    def __init__(self, file: Path | str, *, threads: int = 0) -> None:
        self.run = Path(file).expanduser()
        if not self.run.is_file():
            raise InputError(f"there is no file {str(self.run)!r}; `cafe export` makes one of a run")
        check_regular(self.run)
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError("onnxruntime", "onnx", f"opening {self.run}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or (int(os.environ.get("OMP_NUM_THREADS") or 0))
        options.log_severity_level = 4  # what is wrong is said by the exception
        # Weights are not repacked for large batches: for one image, that costs more than it saves.
        options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            self._session = onnxruntime.InferenceSession(str(self.run), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library has classes of its own for every kind of damage
            raise InputError(f"{self.run} cannot be opened by ONNX Runtime: it is damaged, or no ONNX file") from error
        found = dict(self._session.get_modelmeta().custom_metadata_map)
        self.metadata = OnnxMetadata.from_strings(self.run, found)
        self._outputs = [output.name for output in self._session.get_outputs()]
        inputs = [given.name for given in self._session.get_inputs()]
        if inputs != [CROPS] or PROBABILITIES not in self._outputs:
            raise InputError(f"{self.run} takes {', '.join(inputs)}, and a file of `cafe export` takes {CROPS}")
        self.classes_: NDArray[np.str_] = np.array(self.metadata.class_names)
        self.cropper = cropper_of(self.metadata.preprocessing)
        self.decoder = self.metadata.decoder
        self.row = self.metadata.row
        self.batch_size = BATCH_SIZE

    def classify(self, crops: NDArray[np.uint8]) -> OnnxOutputs:
        """Run the graph on crops (n, height, width, 3)."""
        values = dict(zip(self._outputs, self._session.run(None, {CROPS: crops}), strict=True))
        return OnnxOutputs(*(values.get(name) for name in (PROBABILITIES, UNKNOWN_SCORE, ZERO_SHOT, SET_SCORES)))  # type: ignore[arg-type]

    def predict_proba(self, images: ImageLike | Iterable[ImageLike]) -> Array:
        """Return the probability of each class on each image, (n, n_classes); as :class:`Classifier` does."""
        rows = []
        for image, probabilities, _ in self.predictions(given_images(images), 1, unknown="off"):
            if image.unreadable is not None:
                raise image.unreadable
            rows.append(probabilities)
        return np.stack(rows)

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> NDArray[np.str_]:
        """Return the most probable name of each image, (n,)."""
        names: NDArray[np.str_] = self.classes_[self.predict_proba(images).argmax(axis=1)]
        return names

    def predictions(
        self,
        images: Iterable[GivenImage],
        k: int = 3,
        *,
        unknown: float | Literal["auto", "off"] = "auto",
        coverage: float | None = None,
    ) -> Iterator[tuple[ReadImage, Array, Prediction]]:
        """Go through images with what there is to say of each, as :meth:`Classifier.predictions` does.

        Raises
        ------
        InputError
            If images were too few for the rate or the coverage; before an image is read.
        """
        threshold = self.threshold(unknown)
        if coverage is not None:
            conformal_threshold(self._scores("set", "sets of classes"), coverage)
        batch: list[ReadImage] = []
        n_readable = 0
        for image in read_ahead(images, lambda: self.cropper, self.decoder):
            batch.append(image)
            n_readable += image.unreadable is None
            if n_readable == self.batch_size:
                yield from self._named(batch, k, threshold, unknown != "off", coverage)
                batch, n_readable = [], 0
        yield from self._named(batch, k, threshold, unknown != "off", coverage)

    def predictions_to_table(
        self,
        out: Path | str,
        images: Iterable[GivenImage],
        k: int = 3,
        *,
        unknown: float | Literal["auto", "off"] = "auto",
        coverage: float | None = None,
        labelled: LabelledFolder | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> AbstractContextManager[Iterator[Answer]]:
        """As :meth:`predictions`, while each becomes a row of a CSV file; as the method of Classifier does."""
        with self.run.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        return writing_table(
            Path(out),
            images,
            lambda rest: self.predictions(rest, k, unknown=unknown, coverage=coverage),
            request={"onnx": content, "options": [k, unknown, coverage]},
            batch_size=self.batch_size,
            top=k,
            labelled=labelled,
            tell=tell,
        )

    @property
    def why_nothing_is_unknown(self) -> str:
        """Why no image is called unknown unless a rate is asked for; empty where there is a threshold."""
        return "" if self.threshold("auto") is not None else "the run that was exported has no threshold"

    def threshold(self, unknown: float | Literal["auto", "off"]) -> float | None:
        """Return the score above which an image is called unknown; None where none is.

        Raises
        ------
        InputError
            If images were too few for a rate that was given.
        """
        if unknown == "off":
            return None
        if unknown == "auto":
            value = self.metadata.thresholds.get("unknown", {}).get(f"{FALSE_ALARMS:g}")
            return None if value is None else float(value)
        return unknown_threshold(self._scores("unknown", "threshold of unknown images"), float(unknown))

    def sets(self, outputs: OnnxOutputs, coverage: float) -> list[tuple[str, ...]]:
        """Return the names in the set of each image of :meth:`classify`, the most probable first."""
        scores = self._scores("set", "sets of classes")
        assert outputs.set_scores is not None, "whoever has scores has the fit"
        inside = prediction_sets(outputs.set_scores, conformal_threshold(scores, coverage), "lac")
        columns = self.metadata.set_columns
        named = []
        for row, probabilities in zip(inside, outputs.probabilities, strict=True):
            row[columns[int(probabilities.argmax())]] = True
            own = dict(zip(columns, probabilities.tolist(), strict=True))
            order = sorted(np.flatnonzero(row).tolist(), key=lambda label: -own.get(label, 0.0))
            named.append(tuple(self.metadata.all_class_names[label] for label in order))
        return named

    def _scores(self, kind: str, what: str) -> NDArray[np.float64]:
        scores = self.metadata.scores.get(kind)
        if scores is None or (kind == "set" and SET_SCORES not in self._outputs):
            raise InputError(f"{self.run} has no {what}: the run that it was exported from has none")
        return np.asarray(scores, dtype=np.float64)

    def _named(
        self, batch: Sequence[ReadImage], k: int, threshold: float | None, scored: bool, coverage: float | None
    ) -> Iterator[tuple[ReadImage, Array, Prediction]]:
        crops = [image.crop for image in batch if image.crop is not None]
        none = np.zeros(0, dtype=np.float32)
        outputs = self.classify(np.stack(crops)) if crops else OnnxOutputs(none, none, None, None)
        sets = self.sets(outputs, coverage) if coverage is not None and crops else None
        row = 0
        for image in batch:
            if image.unreadable is not None:
                yield image, none, Prediction(image.given.name, (), image.unreadable.reason)
                continue
            probabilities = outputs.probabilities[row]
            best = (-probabilities).argsort(kind="stable")[:k]
            prediction = Prediction(
                image.given.name, tuple((str(self.classes_[column]), float(probabilities[column])) for column in best)
            )
            if scored and outputs.unknown_scores is not None:
                score = float(outputs.unknown_scores[row])
                called = None if threshold is None else score > threshold
                prediction = replace(prediction, unknown=called, unknown_score=score)
            if sets is not None:
                prediction = replace(prediction, set=sets[row])
            yield image, probabilities, prediction
            row += 1

    def __repr__(self) -> str:
        return f"OnnxClassifier({str(self.run)!r}, {len(self.classes_)} classes)"
