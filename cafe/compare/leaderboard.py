"""Other methods beside one that was fitted, on the same rows: paired tests of every two, and how each stands.

One test split has one answer of each method for each image, so two methods differ where one alone is right: McNemar's
exact test asks whether those images fall to either side like a fair coin. A cross-validation that deals its folds anew
several times has several answers for each image: there it is the paired test over images and deals of
:mod:`cafe.protocol.paired`. Holm's correction is over all pairs, so that the best may be picked out after the fact.
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
from cafe.fitting import FitRequest, fit_all
from cafe.protocol.paired import holm, paired_test
from cafe.protocol.tasks import Task
from cafe.report.leaderboard import BELOW, BEST, LEVEL, Leaderboard, LeaderboardEntry

# The search for CLIP-Adapter's ratio takes longer than all other methods together; here it has the published one.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {"clip-adapter": {}}
# They see all test images at once, and have no answer for a single one.
TRANSDUCTIVE = ("trans-clip", "stat-a")
MCNEMAR, OVER_DEALS = "McNemar's exact test", "paired test over images and deals of the folds"


@dataclass(frozen=True)
class Contender:
    """A method that was fitted and tested already.

    Attributes
    ----------
    method : str
        Its name.
    parameters : mapping
        Those that it was given.
    row : mapping
        Of the fit.
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
    """Fit other methods on tasks that one was tested on, and test every two on the same images.

    Parameters
    ----------
    tasks : sequence of Task
        One, or the folds of a cross-validation, one deal after the other.
    fitted : Contender
        What was fitted on them; it is not fitted again.
    images : ndarray of shape (n,), int64, default=None
        Which image each test row is, task after task: in a cross-validation each stands there once in each deal. None
        where each stands there once.
    methods : sequence of str, default=None
        Which methods to compare with; None for all of the suite ``methods``.
    selection, device, dtype : str, default="auto"
        As in :func:`cafe.fitting.fit_method`. ``"oracle-test"`` would choose on the test images: it is not handed on.
    tell : callable, default=None
        Called with a sentence before each method.

    Returns
    -------
    Leaderboard
    """
    started = time.perf_counter()
    features = tasks[0].features
    labels = np.concatenate([task.test.labels for task in tasks])
    images = np.arange(len(labels)) if images is None else images
    repeats = len(images) // len(np.unique(images))
    order = np.argsort(images.reshape(repeats, -1), axis=1, kind="stable")  # (repeats, n images)
    experiment = Experiment((features,), methods=None if methods is None else tuple(methods))
    entries: list[LeaderboardEntry] = []
    correct: list[NDArray[np.bool_]] = []

    def enter(label: str, row: Mapping[str, Any], predicted: NDArray[np.int64], confidence: NDArray[Any]) -> None:
        right = predicted == labels
        acc1 = float(right.mean())
        shown = {
            "method": row["method"], "params": row["params"], "chosen_on": row["chosen_on"],
            "n_test": order.shape[1], "acc1": acc1, "acc1_interval": wilson_interval(acc1, order.shape[1]),
            "mean_per_class_recall": mean_per_class_recall(predicted, labels),
            "ece": calibration_error(reliability_bins(confidence, right)), "fit_seconds": row["fit_seconds"],
        }  # fmt: skip
        entries.append(LeaderboardEntry(label, shown, BEST, None, None, kept=not entries))
        correct.append(np.take_along_axis(right.reshape(repeats, -1), order, axis=1))

    own = _label(fitted.method, fitted.parameters)
    enter(own, fitted.row, fitted.predicted, fitted.confidence)
    tasks = [replace(task, unlabelled=None) for task in tasks]  # of which other methods know nothing
    suite = [
        replace(each, parameters=PUBLISHED.get(each.method, each.parameters))
        for each in Methods().series(features, experiment)
    ]
    series = [each for each in experiment.kept(suite) if not _same(each, fitted)]
    notes = [
        f"{name} was left out for its cost; `cafe compare methods --include {name}` runs it"
        for name in COSTLY
        if methods is None and name != fitted.method
    ]
    for number, each in enumerate(series, start=1):
        label = _label(each.method, each.parameters if each.method == fitted.method else _told_apart_by(each))
        if tell is not None:
            tell(f"comparing with {label} ({number} of {len(series)})")
        requests = [FitRequest(each.method, each.parameters, position) for position in range(len(tasks))]
        try:
            fits = fit_all(tasks, requests, "auto" if selection == "oracle-test" else selection, device, dtype)
        except CafeError as error:
            notes.append(f"{label} was left out: {error}")
            continue
        row = {**fits[0].row, "fit_seconds": sum(fit.row["fit_seconds"] for fit in fits)}
        enter(
            label, row, np.concatenate([fit.predicted for fit in fits]),
            np.concatenate([fit.confidence for fit in fits]),
        )  # fmt: skip
    standing, pairs = _ranked(entries, correct)
    return Leaderboard(
        standing, pairs, MCNEMAR if repeats == 1 else OVER_DEALS, "test split" if repeats == 1 else "cross-validation",
        str(features.class_names[int(np.bincount(labels).argmax())]), majority_accuracy(labels),
        time.perf_counter() - started, notes,
    )  # fmt: skip


def _label(method: str, parameters: Mapping[str, Any]) -> str:
    """Return the name of a method with the parameters that it was given."""
    given = [f"{name} {value}" for name, value in parameters.items()]
    given += ["transductive"] if method in TRANSDUCTIVE else []
    return f"{method} ({', '.join(given)})" if given else method


def _told_apart_by(series: Series) -> dict[str, Any]:
    """Return the parameters by which series of one method differ in the suite."""
    return {name: value for name, value in series.parameters.items() if name == "template_weights"}


def _same(series: Series, fitted: Contender) -> bool:
    """Whether a series is the fit itself."""
    return series.method == fitted.method and dict(series.parameters) == dict(fitted.parameters)


def _ranked(
    entries: Sequence[LeaderboardEntry], correct: Sequence[NDArray[np.bool_]]
) -> tuple[list[LeaderboardEntry], list[dict[str, Any]]]:
    """Test every two methods, and say how each stands to the most accurate; ``correct`` are (repeats, n images)."""
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
    for entry in sorted(entries, key=lambda entry: -entry.row["acc1"]):  # of equal ones the fit itself comes first
        if entry.label == best:
            standing.append(entry)
            continue
        pair = against[frozenset({best, entry.label})]
        told = BELOW if pair["p_holm"] < SIGNIFICANT else LEVEL
        standing.append(replace(entry, standing=told, p_value=pair["p_value"], p_holm=pair["p_holm"]))
    return standing, pairs
