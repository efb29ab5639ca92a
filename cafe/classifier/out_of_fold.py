"""What a fit may promise of new images, from scores of labelled images by fits that have not seen them.

The labelled images are divided in three ways:

- Folds with an even share of each class. Every image gets probabilities from a fit of the other folds; the temperature
  and the doubtful labels come from these.
- A third drawn at random, whatever the classes. A scoring fit of the other two thirds, kept with the run, gives the
  scores of sets of classes: split-conformal prediction, whose promise is proved (:mod:`cafe.evaluation.conformal`) for
  images that are drawn as new ones are. In folds with even shares, classes with few images would be too rare for that.
- Twenty parts drawn at random. Each is scored for unknown images by the class means of the others, which are nearly
  those of all images; this needs no fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from cafe.evaluation.calibration import calibration_error, fit_temperature, reliability_bins, tempered
from cafe.evaluation.conformal import (
    CONFORMAL_SCORES,
    ConformalScore,
    conformal_threshold,
    fewest_rows,
    own_scores,
    prediction_sets,
)
from cafe.evaluation.unknown import FALSE_ALARMS, combined_score, unknown_threshold
from cafe.features import Features, Split
from cafe.methods.inference.fitted import full_probabilities
from cafe.methods.inputs.cosines import unit_length

if TYPE_CHECKING:
    from cafe.fitting import FitSettings

FOLDS = 3
PARTS = 20  # the means of 19 of 20 images are nearly those of all
USUAL_RATES, USUAL_COVERAGES = (0.01, FALSE_ALARMS, 0.1), (0.9, 0.95, 0.99)  # whose thresholds a run records
# Probabilities held at once: 4e7 float32 are 160 MB. Larger data are scored on a random sample of rows.
_MOST_NUMBERS = 40_000_000
_MOST_TEMPERED = 2_000_000  # probabilities that the one number of a temperature is fitted on
_BLOCK = 4096  # rows tempered at once: 4096 x 1,000 classes in float64 are 33 MB
_USED_TEMPERATURE = "used_temperature"  # key of the temperature in a saved run
_LEAST_GAIN = 2.0  # standard errors that the gain of a temperature must exceed


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
        Row of each image in the split. The single image of a class is never scored.
    fold : ndarray of shape (n,), int64
        Fold of each image, from 0.
    learned_share : float
        Mean share of all images that the fit of a fold has seen.
    unknown_scores : ndarray of shape (m,)
        Of each image by the class means of the other parts.
    scoring_fit : classifier
        A fit that has not seen a third of the images.
    scoring_probabilities, scoring_labels : ndarray of shape (k, c), ndarray of shape (k,)
        Of that third, by the scoring fit.
    """

    probabilities: NDArray[Any]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    fold: NDArray[np.int64]
    learned_share: float
    unknown_scores: NDArray[np.float64]
    scoring_fit: Any
    scoring_probabilities: NDArray[Any]
    scoring_labels: NDArray[np.int64]

    @property
    def fold_numbers(self) -> list[int]:
        """The numbers of the folds that hold images."""
        return [int(fold) for fold in np.unique(self.fold)]


def score_out_of_fold(
    features: Features,
    images: Split,
    held_out: list[NDArray[np.int64]],
    third: NDArray[np.int64],
    parts: list[NDArray[np.int64]],
    settings: FitSettings,
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
    settings : FitSettings
        Method and parameters, and how they are fitted.

    Returns
    -------
    OutOfFold
    """
    from cafe.protocol.tasks import Task

    divisions = [*held_out, third]
    most = max(1, _MOST_NUMBERS // (len(features.class_names) * len(divisions)))
    random = np.random.default_rng(settings.seed)
    scored = [np.sort(random.permutation(rows)[:most]) for rows in divisions]
    everything = np.arange(len(images))
    trained = [images.take(np.setdiff1d(everything, rows)) for rows in divisions]
    tasks = [
        Task(features, None, settings.seed, train, None, images.take(rows))
        for train, rows in zip(trained, scored, strict=True)
    ]
    fits = settings.fit_each(tasks)
    probabilities = [fit.test_probabilities() for fit in fits]
    X = np.asarray(fits[0].inputs_of(images))
    text, unknown = class_text(fits[0].estimator, X.shape[1]), []
    for rows in parts:
        others = np.setdiff1d(everything, rows)
        unknown.append(unknown_scores(X[rows], text, means_of_classes(X[others], images.labels[others])))
    return OutOfFold(
        np.concatenate(probabilities[:-1]),
        np.concatenate([task.test.labels for task in tasks[:-1]]),
        np.concatenate(scored[:-1]),
        np.repeat(np.arange(len(held_out)), [len(rows) for rows in scored[:-1]]),
        float(np.mean([len(train) for train in trained[:-1]])) / len(images),
        np.concatenate(unknown),
        fits[-1].estimator,
        probabilities[-1],
        tasks[-1].test.labels,
    )


def random_parts(groups: NDArray[np.int64], seed: int, number: int) -> list[NDArray[np.int64]]:
    """Divide rows at random, whatever their classes; identical images stay in one part.

    Parameters
    ----------
    groups : ndarray of shape (n,), int64
        A number for each image that identical ones share.
    seed : int
        Of the division.
    number : int
        Number of parts; there are fewer where there are fewer groups.

    Returns
    -------
    list of ndarray of int64
        Rows of each part.
    """
    order = np.random.default_rng([seed, number]).permutation(np.unique(groups))
    return [np.flatnonzero(np.isin(groups, part)) for part in np.array_split(order, number) if len(part)]


def class_text(estimator: Any, width: int) -> NDArray[np.float32] | None:
    """Return the unit-length text embeddings that a fitted method started from; None where it started from images.

    None too where text is not ``width`` wide, as image features before the encoder's projection are not.
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
        Of :func:`class_text`; without text the means take its place.
    means : ndarray of shape (k, d)
        Of :func:`means_of_classes`; no row where no image was seen.

    Returns
    -------
    ndarray of shape (n,), float64
        Of :func:`cafe.evaluation.unknown.combined_score`.
    """
    rows = unit_length(np.asarray(X, dtype=np.float32))
    return combined_score(rows, means if text is None else text, means if len(means) else None)


@dataclass(frozen=True)
class Calibration:
    """The temperature of a kept fit, used only where images out of fold show that it makes probabilities more honest.

    The fit of a fold has seen a share s of the images of the kept fit. With few images per class that fit may be far
    too sure, or not sure enough. With many images, probabilities need no temperature; if log T falls as one over the
    number of images, then

    ::

        log T(kept fit)  =  s log T(fits of folds)

    which is never stronger than what was measured.

    Attributes
    ----------
    temperature : float
        What the logits of new images are divided by: the milder one above where it is sure to help, else 1.
    temperature_fitted : float
        That of highest likelihood on all images out of fold: above 1 where the method is too sure of itself.
    ece_out_of_fold, nll_out_of_fold : float
        Expected calibration error and mean negative log-likelihood of images out of fold.
    ece_tempered, nll_tempered : float
        The same after a temperature, the milder one, of the images of the other folds.
    confidence, tempered_confidence : ndarray of shape (n,)
        Probability of the predicted class before and after that.
    correct : ndarray of shape (n,), bool
        Whether it is right.
    """

    temperature: float
    temperature_fitted: float
    ece_out_of_fold: float
    ece_tempered: float
    nll_out_of_fold: float
    nll_tempered: float
    confidence: NDArray[np.float64] = field(repr=False)
    tempered_confidence: NDArray[np.float64] = field(repr=False)
    correct: NDArray[np.bool_] = field(repr=False)

    @classmethod
    def of(cls, scored: OutOfFold) -> Self:
        """Fit temperatures, and keep the one of all images where it is sure to help.

        The gain of image i is what its negative log-likelihood falls by with the temperature of the other folds. The
        temperature is kept where the mean gain exceeds two of its standard errors, and the expected calibration error
        falls as well: elsewhere it would be fitted to chance.
        """
        p, labels = scored.probabilities, scored.labels
        share = scored.learned_share
        of_others = {
            fold: _temperature(p[scored.fold != fold], labels[scored.fold != fold]) ** share
            for fold in scored.fold_numbers
        }
        temperatures = np.array([of_others[fold] for fold in scored.fold.tolist()])  # (n,)
        correct = p.argmax(axis=1) == labels
        own, confidence = _own_and_highest(p, labels, np.ones(len(labels)))
        own_after, confidence_after = _own_and_highest(p, labels, temperatures)
        gain = np.log(own_after) - np.log(own)  # (n,)
        error = float(gain.std(ddof=1)) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
        ece, ece_after = (calibration_error(reliability_bins(c, correct)) for c in (confidence, confidence_after))
        fitted = _temperature(p, labels)
        helps = float(gain.mean()) > _LEAST_GAIN * error and ece_after < ece
        return cls(
            fitted**share if helps else 1.0, fitted, ece, ece_after, float(-np.log(own).mean()),
            float(-np.log(own_after).mean()), confidence, confidence_after, correct,
        )  # fmt: skip

    def fields(self) -> dict[str, float]:
        """Return the fields of a row: all that are single numbers."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}


def _temperature(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Fit the temperature of highest likelihood, on a random sample where rows are very many."""
    sample = np.random.default_rng(0).permutation(len(labels))[: max(100, _MOST_TEMPERED // probabilities.shape[1])]
    return fit_temperature(probabilities[sample], labels[sample])


def _own_and_highest(
    probabilities: NDArray[Any], labels: NDArray[np.int64], temperatures: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the probability of each row's true class, at least the smallest float32, and the highest of the row.

    Logits of each row are divided by its temperature first; ``temperatures`` is (n,).
    """
    own, highest = np.empty(len(labels)), np.empty(len(labels))
    for temperature in np.unique(temperatures):
        rows = np.flatnonzero(temperatures == temperature)
        for block in np.array_split(rows, math.ceil(len(rows) / _BLOCK)):
            p = probabilities[block].astype(np.float64)
            p = p if temperature == 1.0 else tempered(p, float(temperature))  # (block, c)
            own[block] = np.take_along_axis(p, labels[block, None], axis=1)[:, 0]
            highest[block] = p.max(axis=1)
    return np.maximum(own, np.finfo(np.float32).tiny), highest


@dataclass(frozen=True)
class Promises:
    """What a kept fit promises of new images: thresholds of unknown images, sets of classes, a temperature.

    Attributes
    ----------
    temperature : float
        The number that logits of new images are divided by, as of :class:`Calibration`.
    unknown_scores : ndarray of shape (n,)
        Of images of the classes, out of fold.
    means : ndarray of shape (k, d)
        Class means of the images that the kept fit has seen.
    scoring_fit : classifier
        Sets are made with it; it has seen two thirds of the images.
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
    def of(cls, scored: OutOfFold, means: NDArray[np.float32], temperature: float) -> Self:
        """Return the promises that scores of images out of fold allow, with the temperature fitted on them."""
        return cls(
            temperature,
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
        """Read what :meth:`to_save` wrote.

        Runs of older versions hold a fitted temperature that predictions did not use: 1 is used for them, as then.
        """
        temperature = float(saved.get(_USED_TEMPERATURE, 1.0))
        return cls(temperature, saved["unknown_scores"], saved["means"], scoring_fit, saved["own_scores"])

    def thresholds(self) -> dict[str, dict[str, float]]:
        """Return the thresholds of the usual rates and coverages for which there are enough images.

        Returns
        -------
        dict
            ``unknown``: by rate of false alarms, the score above which an image is called unknown. ``set``: by
            coverage, the LAC score above which a class is not in the set.
        """
        own = self.own_scores["lac"]
        return {
            "unknown": {f"{rate:g}": self.threshold(rate) for rate in USUAL_RATES if self.reaches(rate)},
            "set": {f"{c:g}": conformal_threshold(own, c) for c in USUAL_COVERAGES if len(own) >= fewest_rows(c)},
        }

    def to_save(self) -> dict[str, Any]:
        """Return everything but the scoring fit, as numbers and arrays."""
        return {
            _USED_TEMPERATURE: self.temperature,
            "thresholds": self.thresholds(),  # for readers of run.json; cafe itself reads the scores
            "unknown_scores": self.unknown_scores,
            "means": self.means,
            "own_scores": dict(self.own_scores),
        }

    @property
    def highest_coverage(self) -> float:
        """The highest coverage that n images allow: n / (n + 1)."""
        n = len(self.own_scores["lac"])
        return n / (n + 1)

    @property
    def lowest_false_alarms(self) -> float:
        """The lowest rate of false alarms that n images allow: 1 / (n + 1)."""
        return 1 / (len(self.unknown_scores) + 1)

    def reaches(self, false_alarms: float) -> bool:
        """Return whether there are enough images for a threshold at this rate."""
        return math.ceil((len(self.unknown_scores) + 1) * (1 - false_alarms) - 1e-9) <= len(self.unknown_scores)

    def threshold(self, false_alarms: float) -> float:
        """Return the unknown score above which an image is called unknown.

        Raises
        ------
        InputError
            If the rate is not between 0 and 1, or images are too few for it.
        """
        return unknown_threshold(self.unknown_scores, false_alarms)

    def calibrated(self, probabilities: NDArray[Any]) -> NDArray[Any]:
        """Return probabilities (n, c) of the kept fit after its temperature, in the same dtype."""
        if self.temperature == 1.0:
            return probabilities
        return tempered(probabilities, self.temperature).astype(probabilities.dtype)

    def sets(
        self, X: NDArray[Any], best: NDArray[np.int64], n_classes: int, coverage: float, score: ConformalScore = "lac"
    ) -> NDArray[np.bool_]:
        """Return which classes are in the set of each image, (n, n_classes).

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Image features.
        best : ndarray of shape (n,), int64
            Class that the kept fit predicts: it joins the set, which can only raise the coverage.
        n_classes : int
            Of the data set.
        coverage : float
            Least share of images whose set holds their class, on average over fits and images.
        score : {"lac", "aps"}, default="lac"
            See :func:`cafe.evaluation.conformal.class_scores`.

        Raises
        ------
        InputError
            If the coverage is not between 0 and 1, or images are too few for it.
        """
        threshold = conformal_threshold(self.own_scores[score], coverage)
        inside = prediction_sets(full_probabilities(self.scoring_fit, X, n_classes), threshold, score)
        inside[np.arange(len(inside)), best] = True
        return inside
