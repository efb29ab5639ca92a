"""What a kept fit may promise: scores of images by fits that have not seen them, made once, when it is fitted.

Two divisions of the labelled images serve two ends. Three folds in which each class is dealt evenly give every image
probabilities by a fit of the two other folds: of these come the temperature and what is said of labels. Promises need
images that are drawn as new ones are, whatever their class: dealt evenly, classes with few images would be too rare
among them. So a third that is drawn at random gives the scores of sets, by a scoring fit that has seen the two others
and is kept with the run: split-conformal prediction, whose promise holds as proved (:mod:`cafe.evaluation.conformal`).
Unknown images need no fit: twenty parts drawn at random are scored by the means of the others, which are nearly those
of all images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cafe.evaluation.calibration import fit_temperature, tempered
from cafe.evaluation.conformal import (
    CONFORMAL_SCORES,
    ConformalScore,
    conformal_threshold,
    own_scores,
    prediction_sets,
)
from cafe.evaluation.metrics import expected_calibration_error
from cafe.evaluation.unknown import combined_score, unknown_threshold
from cafe.features import Features, Split
from cafe.fitting import FitRequest, fit_all, full_probabilities
from cafe.methods.inputs.cosines import unit_length
from cafe.protocol.tasks import Task

FOLDS = 3
PARTS = 20  # the means of 19 of 20 images are nearly those of all
FALSE_ALARMS = 0.05  # of `--unknown auto`
# Probabilities that are held at once: 4e7 float32 are 160 MB. Of larger data only so many rows are scored.
_MOST_NUMBERS = 40_000_000
_MOST_TEMPERED = 2_000_000  # that a temperature, a single number, is fitted on


@dataclass(frozen=True)
class OutOfFold:
    """Scores of images by fits that have not seen them.

    Attributes
    ----------
    probabilities : ndarray of shape (n, c)
        Of every class of the data set.
    labels : ndarray of shape (n,), int64
        Class of each image.
    rows : ndarray of shape (n,), int64
        Its place among the images that were given. Those of which a class has a single one are never scored.
    fold : ndarray of shape (n,), int64
        In which each image is, from 0.
    unknown_scores : ndarray of shape (m,)
        Of images by the means of other thirds.
    scoring_fit : classifier
        It has not seen a third of the images.
    scoring_probabilities, scoring_labels : ndarray of shape (k, c), ndarray of shape (k,)
        Of that third.
    """

    probabilities: NDArray[Any]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    fold: NDArray[np.int64]
    unknown_scores: NDArray[np.float64]
    scoring_fit: Any
    scoring_probabilities: NDArray[Any]
    scoring_labels: NDArray[np.int64]


def score_out_of_fold(
    features: Features,
    images: Split,
    held_out: list[NDArray[np.int64]],
    third: NDArray[np.int64],
    parts: list[NDArray[np.int64]],
    method: str,
    parameters: Mapping[str, Any],
    **chosen: Any,
) -> OutOfFold:
    """Score each image by fits that have not seen it.

    Parameters
    ----------
    features : Features
        Where class names, text and logit scale come from.
    images : Split
        What the kept fit was fitted on.
    held_out : list of ndarray of int64
        Rows of each fold, at least two, as :func:`cafe.classifier.final_fit.folds` deals them.
    third : ndarray of int64
        Rows that the scoring fit does not see, drawn at random.
    parts : list of ndarray of int64
        Rows of each part, drawn at random, that is scored by the means of all others.
    method, parameters : str, mapping
        As of :func:`cafe.fitting.fit_method`.
    **chosen
        ``seed``, ``selection``, ``device`` and ``dtype`` of :func:`cafe.fitting.fit_method`.

    Returns
    -------
    OutOfFold
    """
    seed = chosen.pop("seed")
    divisions = [*held_out, third]
    most = max(1, _MOST_NUMBERS // (len(features.class_names) * len(divisions)))
    random = np.random.default_rng(seed)
    scored = [np.sort(random.permutation(rows)[:most]) for rows in divisions]
    everything = np.arange(len(images))
    trained = [images.take(np.setdiff1d(everything, rows)) for rows in divisions]
    tasks = [
        Task(features, None, seed, train, None, images.take(rows)) for train, rows in zip(trained, scored, strict=True)
    ]
    fits = fit_all(tasks, [FitRequest(method, parameters, number) for number in range(len(tasks))], **chosen)
    probabilities = [
        full_probabilities(fit.estimator, fit.inputs_of(fit.task.test), len(features.class_names)) for fit in fits
    ]
    X = np.asarray(fits[0].inputs_of(images))
    text, strange = text_of(fits[0].estimator, X.shape[1]), []
    for rows in parts:
        others = np.setdiff1d(everything, rows)
        strange.append(unknown_scores(X[rows], text, means_of_classes(X[others], images.labels[others])))
    return OutOfFold(
        np.concatenate(probabilities[:-1]),
        np.concatenate([task.test.labels for task in tasks[:-1]]),
        np.concatenate(scored[:-1]),
        np.repeat(np.arange(len(held_out)), [len(rows) for rows in scored[:-1]]),
        np.concatenate(strange),
        fits[-1].estimator,
        probabilities[-1],
        tasks[-1].test.labels,
    )


def random_parts(groups: NDArray[np.int64], seed: int, number: int) -> list[NDArray[np.int64]]:
    """Divide rows at random, without a look at their classes; identical images stay together.

    Parameters
    ----------
    groups : ndarray of shape (n,), int64
        A number for each image that identical ones share.
    seed : int
        Of the division.
    number : int
        Of parts; fewer where there are fewer groups.

    Returns
    -------
    list of ndarray of int64
        Rows of each part.
    """
    order = np.random.default_rng([seed, number]).permutation(np.unique(groups))
    return [np.flatnonzero(np.isin(groups, part)) for part in np.array_split(order, number) if len(part)]


def text_of(estimator: Any, width: int) -> NDArray[np.float32] | None:
    """Return the text that a fitted method started from, of unit length; None where it started from means of images.

    Also None where rows of that ``width``, those before the encoder's projection, cannot be compared with text.
    """
    text = np.asarray(estimator.class_embeddings_, dtype=np.float32)
    return unit_length(text) if estimator.embedding_source_ == "text" and text.shape[1] == width else None


def means_of_classes(X: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the unit-length mean of each class that has an image, (at most c, d), float32."""
    rows = unit_length(np.asarray(X, dtype=np.float32))
    if not len(rows):
        return rows
    order = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    return unit_length(np.add.reduceat(rows[order], first, axis=0) / counts[:, None].astype(np.float32))


def unknown_scores(
    X: NDArray[Any], text: NDArray[np.float32] | None, means: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return how much each image looks like none of the classes, higher is stranger.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Image features, as the method reads them.
    text : ndarray of shape (c, d) or None
        Of :func:`text_of`; the means stand in.
    means : ndarray of shape (k, d)
        Of :func:`means_of_classes`; of no row where no image was seen.

    Returns
    -------
    ndarray of shape (n,), float64
        Of :func:`cafe.evaluation.unknown.combined_score`.
    """
    rows = unit_length(np.asarray(X, dtype=np.float32))
    return combined_score(rows, means if text is None else text, means if len(means) else None)


def _temperature(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Fit a temperature, on some of the rows where they are very many."""
    some = np.random.default_rng(0).permutation(len(labels))[: max(100, _MOST_TEMPERED // probabilities.shape[1])]
    return fit_temperature(probabilities[some], labels[some])


def calibration_fields(scored: OutOfFold) -> dict[str, float]:
    """Return how well probabilities out of fold are calibrated, before and after a temperature.

    Returns
    -------
    dict
        ``temperature``; ``ece_out_of_fold``, the expected calibration error of images out of fold; ``ece_tempered``,
        the same after a temperature that was fitted on the images of the other folds.
    """
    after = np.empty(scored.probabilities.shape)
    for fold in np.unique(scored.fold):
        own = scored.fold == fold
        after[own] = tempered(scored.probabilities[own], _temperature(scored.probabilities[~own], scored.labels[~own]))
    return {
        "temperature": _temperature(scored.probabilities, scored.labels),
        "ece_out_of_fold": expected_calibration_error(scored.probabilities, scored.labels),
        "ece_tempered": expected_calibration_error(after, scored.labels),
    }


@dataclass(frozen=True)
class Promises:
    """What a kept fit promises of new images.

    Attributes
    ----------
    temperature : float
        That of highest likelihood on images out of fold: above 1 where the method is too sure of itself.
    unknown_scores : ndarray of shape (n,)
        Of images of the classes, out of fold.
    means : ndarray of shape (k, d)
        Of the images that the kept fit has seen.
    scoring_fit : classifier
        What sets are made with; it has seen two thirds of the images.
    own_scores : mapping of str to ndarray of shape (m,)
        Conformal scores of images that the scoring fit has not seen, for each of
        :data:`cafe.evaluation.conformal.CONFORMAL_SCORES`.
    """

    temperature: float
    unknown_scores: NDArray[np.float64]
    means: NDArray[np.float32]
    scoring_fit: Any
    own_scores: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, scored: OutOfFold, means: NDArray[np.float32]) -> Self:
        """Sum up the scores of images out of fold."""
        return cls(
            _temperature(scored.probabilities, scored.labels),
            scored.unknown_scores,
            means,
            scored.scoring_fit,
            {
                score: own_scores(scored.scoring_probabilities, scored.scoring_labels, score)
                for score in CONFORMAL_SCORES
            },
        )

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], scoring_fit: Any) -> Self:
        """Read back what :meth:`to_save` wrote."""
        return cls(
            float(saved["temperature"]), saved["unknown_scores"], saved["means"], scoring_fit, saved["own_scores"]
        )

    def to_save(self) -> dict[str, Any]:
        """Return all but the scoring fit, as numbers and arrays."""
        return {
            "temperature": self.temperature,
            "unknown_scores": self.unknown_scores,
            "means": self.means,
            "own_scores": dict(self.own_scores),
        }

    def reaches(self, false_alarms: float) -> bool:
        """Return whether there are images enough for a threshold at this rate."""
        return math.ceil((len(self.unknown_scores) + 1) * (1 - false_alarms) - 1e-9) <= len(self.unknown_scores)

    def threshold(self, false_alarms: float) -> float:
        """Return the unknown score above which an image is called unknown.

        Raises
        ------
        InputError
            If the rate is none, or images are too few for it.
        """
        return unknown_threshold(self.unknown_scores, false_alarms)

    def sets(
        self, X: NDArray[Any], best: NDArray[np.int64], n_classes: int, coverage: float, score: ConformalScore = "lac"
    ) -> NDArray[np.bool_]:
        """Return which classes are in the set of each image, (n, n_classes).

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Image features.
        best : ndarray of shape (n,), int64
            What the kept fit names: it is in the set as well, which can only raise the coverage.
        n_classes : int
            Of the data set.
        coverage : float
            Of the images, how many have their class in their set, at least, on average over fits and images.
        score : {"lac", "aps"}, default="lac"
            See :func:`cafe.evaluation.conformal.class_scores`.

        Raises
        ------
        InputError
            If the coverage is none, or images are too few for it.
        """
        threshold = conformal_threshold(self.own_scores[score], coverage)
        inside = prediction_sets(full_probabilities(self.scoring_fit, X, n_classes), threshold, score)
        inside[np.arange(len(inside)), best] = True
        return inside
