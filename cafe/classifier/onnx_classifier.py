"""Runs an exported classifier with ONNX Runtime and Pillow alone: images in, names out, without torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.image_classifier import ImageClassifier, ImageScores
from cafe.classifier.images import ImageInput
from cafe.classifier.prediction import Array
from cafe.classifier.reading import in_batches, read_ahead
from cafe.encoders.towers.onnx_graphs import CROPS, import_onnxruntime, open_session
from cafe.encoders.towers.pillow_cropper import cropper_of
from cafe.errors import InputError
from cafe.evaluation.conformal import ConformalScore, conformal_threshold, prediction_sets
from cafe.evaluation.unknown import FALSE_ALARMS, unknown_threshold
from cafe.files import sha256_of_file
from cafe.foreign import check_regular
from cafe.sharing.onnx_metadata import PROBABILITIES, SET_SCORES, UNKNOWN_SCORE, ZERO_SHOT, OnnxMetadata

BATCH_SIZE = 32
SUFFIX = ".onnx"


class OnnxOutputs(NamedTuple):
    """The outputs of the graph for n images; None for those that it lacks.

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

    def split(self) -> list[OnnxOutputs]:
        """Return the outputs of each image, with arrays of one row."""
        return [
            OnnxOutputs(*(None if values is None else values[i : i + 1] for values in self))  # type: ignore[arg-type]
            for i in range(len(self.probabilities))
        ]


class OnnxClassifier(ImageClassifier):
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
        Metadata of the file.
    row : dict or None
        Results of the test.
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

    def __init__(self, file: Path | str, *, threads: int = 0) -> None:
        self.run = Path(file).expanduser()
        if not self.run.is_file():
            raise InputError(f"there is no file {str(self.run)!r}; `cafe export` makes one of a run")
        check_regular(self.run)
        library = import_onnxruntime(f"opening {self.run}")
        threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
        try:
            self._session = open_session(library, self.run, threads, few=True)
        except Exception as error:  # the library has classes of its own for every kind of damage
            raise InputError(f"{self.run} cannot be opened by ONNX Runtime: it is damaged, or no ONNX file") from error
        texts = dict(self._session.get_modelmeta().custom_metadata_map)
        self.metadata = OnnxMetadata.from_strings(self.run, texts)
        self._outputs = [node.name for node in self._session.get_outputs()]
        inputs = [node.name for node in self._session.get_inputs()]
        if inputs != [CROPS] or PROBABILITIES not in self._outputs:
            raise InputError(f"{self.run} takes {', '.join(inputs)}, and a file of `cafe export` takes {CROPS}")
        self.classes_: NDArray[np.str_] = np.array(self.metadata.class_names)
        self.all_class_names, self._labels = self.metadata.all_class_names, self.metadata.set_columns
        self.cropper = cropper_of(self.metadata.preprocessing)
        self.decoder = self.metadata.decoder
        self.row = self.metadata.row
        self.batch_size = BATCH_SIZE

    def classify(self, crops: NDArray[np.uint8]) -> OnnxOutputs:
        """Run the graph on crops (n, height, width, 3)."""
        values = dict(zip(self._outputs, self._session.run(None, {CROPS: crops}), strict=True))
        return OnnxOutputs(*(values.get(name) for name in (PROBABILITIES, UNKNOWN_SCORE, ZERO_SHOT, SET_SCORES)))  # type: ignore[arg-type]

    @property
    def why_nothing_is_unknown(self) -> str:
        """Why no image is called unknown unless a rate is asked for; empty where there is a threshold."""
        return "" if self.unknown_threshold() is not None else "the run that was exported has no threshold"

    def unknown_threshold(self, unknown: float | Literal["auto"] = "auto") -> float | None:
        """Return the score above which an image is called unknown; see the base class."""
        if unknown == "auto":
            value = self.metadata.thresholds.get("unknown", {}).get(f"{FALSE_ALARMS:g}")
            return None if value is None else float(value)
        return unknown_threshold(self._conformal_scores("unknown", "threshold of unknown images"), float(unknown))

    def _scores(self, images: Iterable[ImageInput]) -> Iterator[ImageScores]:
        """Score images by the graph, in batches; see the base class."""
        for batch in in_batches(read_ahead(images, lambda: self.cropper, self.decoder), self.batch_size):
            crops = [image.crop for image in batch if image.crop is not None]
            outputs = iter(self.classify(np.stack(crops)).split() if crops else ())
            for image in batch:
                if image.unreadable is None:
                    single = next(outputs)
                    yield ImageScores(image, single.probabilities[0], single)
                else:
                    yield ImageScores(image, np.zeros(0, dtype=np.float32), None)

    def _unknown_score(self, detail: OnnxOutputs) -> float | None:
        """Return the unknown score of an image, which the graph computed; None where it computes none."""
        return None if detail.unknown_scores is None else float(detail.unknown_scores[0])

    def _check_coverage(self, coverage: float, score: ConformalScore) -> None:
        """Raise InputError where the file allows no sets of this coverage, or by this score."""
        if score != "lac":
            raise InputError(f"a file of `cafe export` makes sets by lac, and not by {score}; load the run for these")
        conformal_threshold(self._conformal_scores("set", "sets of classes"), coverage)

    def _classes_in_set(
        self, detail: OnnxOutputs, best: int, coverage: float, score: ConformalScore
    ) -> NDArray[np.bool_]:
        """Return which classes are in the set of an image, from the scores that the graph computed."""
        threshold = conformal_threshold(self._conformal_scores("set", "sets of classes"), coverage)
        assert detail.set_scores is not None, "a graph with scores of sets has this output"
        inside: NDArray[np.bool_] = prediction_sets(detail.set_scores, threshold, score)[0]
        return inside

    def _batch_size(self) -> int:
        return self.batch_size

    def _prediction_identity(self) -> dict[str, Any]:
        return {"onnx": sha256_of_file(self.run)}

    def _conformal_scores(self, kind: str, description: str) -> NDArray[np.float64]:
        """Return the scores of images that the fit had not seen, or raise InputError where the file has none."""
        scores = self.metadata.scores.get(kind)
        if scores is None or (kind == "set" and SET_SCORES not in self._outputs):
            raise InputError(f"{self.run} has no {description}: the run that it was exported from has none")
        return np.asarray(scores, dtype=np.float64)

    def __repr__(self) -> str:
        return f"OnnxClassifier({str(self.run)!r}, {len(self.classes_)} classes)"
