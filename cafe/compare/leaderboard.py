"""Compares one fitted method with others on the same images, by paired tests of every two methods.

On one test split, each method has one answer for each image, and two methods differ where only one of them is right:
McNemar's exact test asks whether these images are divided between the two as by a fair coin. A cross-validation that
deals its folds several times has several answers for each image; it takes the paired test over images and deals of
:mod:`cafe.protocol.paired`. Holm's correction covers all pairs, so that the best method may be picked afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.compare.base import Experiment, Series
from cafe.compare.suites.methods import COSTLY, Methods
from cafe.compare.summary import SIGNIFICANT
from cafe.errors import CafeError
from cafe.evaluation.calibration import calibration_error, reliability_bins
from cafe.evaluation.metrics import majority_accuracy, mean_per_class_recall, wilson_interval
from cafe.features import Features
from cafe.fitting import FitRequest, fit_all
from cafe.protocol.paired import holm, paired_test
from cafe.protocol.tasks import Task
from cafe.report.leaderboard import BELOW, BEST, LEVEL, Leaderboard, LeaderboardEntry

# A search for CLIP-Adapter's ratio takes longer than all other methods together, so the published ratio is used.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {"clip-adapter": {}}
# These methods see all test images at once, and cannot classify a single one.
TRANSDUCTIVE = ("trans-clip", "stat-a")
MCNEMAR, OVER_DEALS = "McNemar's exact test", "paired test over images and deals of the folds"


@dataclass(frozen=True)
class Contender:
    """A method that has been fitted and tested.

    Attributes
    ----------
    method : str
        Its name.
    parameters : mapping
        Parameters that the user gave.
    row : mapping
        Result row of the fit.
    predicted : ndarray of shape (n,), int64
        Class row predicted for each test image, task after task.
    confidence : ndarray of shape (n,)
        Probability of that class.
    """

    method: str
    parameters: Mapping[str, Any]
    row: Mapping[str, Any]
    predicted: NDArray[np.int64]
    confidence: NDArray[Any]


def compare_methods(
    tasks: Sequence[Task],
    fitted: Contender,
    *,
    images: NDArray[np.int64] | None = None,
    methods: Sequence[str] | None = None,
    selection: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    tell: Callable[[str], None] | None = None,
) -> Leaderboard:
    """Fit other methods on the tasks of a fitted one, and test every two methods on the same images.

    Parameters
    ----------
    tasks : sequence of Task
        One task, or the folds of a cross-validation, one deal after the other.
    fitted : Contender
        The method that was fitted on the tasks; it is not fitted again.
    images : ndarray of shape (n,), int64, default=None
        Number of the image of each test row, task after task. In a cross-validation each image occurs once in every
        deal; None if each image occurs once.
    methods : sequence of str, default=None
        Which methods to compare with; None for all of the suite ``methods``.
    selection, device, dtype : str, default="auto"
        As in :func:`cafe.fitting.fit_method`. ``"oracle-test"``, which chooses on test images, is replaced by "auto".
    tell : callable, default=None
        Called with a sentence before each method.

    Returns
    -------
    Leaderboard
    """
    started = time.perf_counter()
    features = tasks[0].features
    labels = np.concatenate([task.test.labels for task in tasks])  # (n,)
    images = np.arange(len(labels)) if images is None else images
    repeats = len(images) // len(np.unique(images))
    order = np.argsort(images.reshape(repeats, -1), axis=1, kind="stable")  # (repeats, n images)
    tasks = [replace(task, unlabelled=None) for task in tasks]  # the other methods know nothing of unlabelled images
    series = _other_series(features, fitted, methods)
    notes = [
        f"{name} was left out for its cost; `cafe compare methods --include {name}` runs it"
        for name in COSTLY
        if methods is None and name != fitted.method
    ]
    contenders = {_label(fitted.method, fitted.parameters): fitted}
    for number, member in enumerate(series, start=1):
        same_method = member.method == fitted.method
        label = _label(member.method, member.parameters if same_method else _distinguishing_parameters(member))
        if tell is not None:
            tell(f"comparing with {label} ({number} of {len(series)})")
        try:
            policy = "auto" if selection == "oracle-test" else selection
            contenders[label] = _fit_on_all(member, tasks, policy, device, dtype)
        except CafeError as error:
            notes.append(f"{label} was left out: {error}")
    n_images = order.shape[1]
    entries = [
        _entry(label, contender, labels, n_images, kept=contender is fitted) for label, contender in contenders.items()
    ]
    correct = [
        np.take_along_axis((contender.predicted == labels).reshape(repeats, -1), order, axis=1)
        for contender in contenders.values()
    ]
    standing, pairs = _rank(entries, correct)
    return Leaderboard(
        standing, pairs, MCNEMAR if repeats == 1 else OVER_DEALS, "test split" if repeats == 1 else "cross-validation",
        str(features.class_names[int(np.bincount(labels).argmax())]), majority_accuracy(labels),
        time.perf_counter() - started, notes,
    )  # fmt: skip


def _other_series(features: Features, fitted: Contender, methods: Sequence[str] | None) -> list[Series]:
    """Return the requested series of the suite ``methods``, without the series that was fitted already."""
    experiment = Experiment((features,), methods=None if methods is None else tuple(methods))
    suite = [
        replace(series, parameters=PUBLISHED.get(series.method, series.parameters))
        for series in Methods().series(features, experiment)
    ]
    return [series for series in experiment.kept(suite) if not _is_fitted(series, fitted)]


def _fit_on_all(series: Series, tasks: Sequence[Task], selection: str, device: str, dtype: str) -> Contender:
    """Fit a method on every task, and join its predictions."""
    requests = [FitRequest(series.method, series.parameters, position) for position in range(len(tasks))]
    fits = fit_all(tasks, requests, selection, device, dtype)
    return Contender(
        series.method,
        series.parameters,
        {**fits[0].row, "fit_seconds": sum(fit.row["fit_seconds"] for fit in fits)},
        np.concatenate([fit.predicted for fit in fits]),
        np.concatenate([fit.confidence for fit in fits]),
    )


def _entry(
    label: str, contender: Contender, labels: NDArray[np.int64], n_images: int, *, kept: bool
) -> LeaderboardEntry:
    """Measure the predictions of a method; its standing is set by :func:`_rank`."""
    row = contender.row
    right = contender.predicted == labels
    acc1 = float(right.mean())
    shown = {
        "method": row["method"], "params": row["params"], "chosen_on": row["chosen_on"], "n_test": n_images,
        "acc1": acc1, "acc1_interval": wilson_interval(acc1, n_images),
        "mean_per_class_recall": mean_per_class_recall(contender.predicted, labels),
        "ece": calibration_error(reliability_bins(contender.confidence, right)), "fit_seconds": row["fit_seconds"],
    }  # fmt: skip
    return LeaderboardEntry(label, shown, BEST, None, None, kept=kept)


def _label(method: str, parameters: Mapping[str, Any]) -> str:
    """Return the name of a method with the parameters that it was given."""
    descriptions = [f"{name} {value}" for name, value in parameters.items()]
    descriptions += ["transductive"] if method in TRANSDUCTIVE else []
    return f"{method} ({', '.join(descriptions)})" if descriptions else method


def _distinguishing_parameters(series: Series) -> dict[str, Any]:
    """Return the parameters by which series of one method differ in the suite."""
    return {name: value for name, value in series.parameters.items() if name == "template_weights"}


def _is_fitted(series: Series, fitted: Contender) -> bool:
    """Return whether a series is the method that was fitted already."""
    return series.method == fitted.method and dict(series.parameters) == dict(fitted.parameters)


def _rank(
    entries: Sequence[LeaderboardEntry], correct: Sequence[NDArray[np.bool_]]
) -> tuple[list[LeaderboardEntry], list[dict[str, Any]]]:
    """Test every two methods, and compare each with the most accurate; ``correct`` are (repeats, n images)."""
    one_split = len(correct[0]) == 1
    pairs: list[dict[str, Any]] = []
    for a, b in combinations(range(len(entries)), 2):
        test = paired_test(correct[a], correct[b])
        pairs.append(
            {
                "a": entries[a].label, "b": entries[b].label, "difference": test.difference,
                "a_only": float(np.mean([only for only, _, _ in test.mcnemar])),
                "b_only": float(np.mean([only for _, only, _ in test.mcnemar])),
                "p_value": test.mcnemar[0][2] if one_split else test.p_value,
            }
        )  # fmt: skip
    for pair, corrected in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
        pair["p_holm"] = corrected
    best = max(entries, key=lambda entry: entry.row["acc1"]).label
    against = {frozenset({pair["a"], pair["b"]}): pair for pair in pairs}
    standing = []
    for entry in sorted(
        entries, key=lambda entry: -entry.row["acc1"]
    ):  # among equal methods, the fitted one comes first
        if entry.label == best:
            standing.append(entry)
            continue
        pair = against[frozenset({best, entry.label})]
        verdict = BELOW if pair["p_holm"] < SIGNIFICANT else LEVEL
        standing.append(replace(entry, standing=verdict, p_value=pair["p_value"], p_holm=pair["p_holm"]))
    return standing, pairs
