"""Base classes of comparisons: a suite lists series (methods with their parameters) and runs an experiment."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CafeError
from cafe.features import Features
from cafe.fitting import FitRequest, Fitted, fit_all
from cafe.methods import make_method, method_names
from cafe.protocol.tasks import Task, dataset_name, encoder_name, make_task
from cafe.registry import find
from cafe.report.comparison import BY_SHOTS, ReportLayout

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Series:
    """A method with its parameters: one line of a figure, one row of a table, or one point of a line if ``x`` is given.

    Attributes
    ----------
    label : str
        Name in the legend. Series of the same label are one grid, and are fitted in one run.
    method : str
        Name of the method.
    parameters : mapping
        Its keyword parameters; ``"auto"`` is resolved by the selection policy.
    x : float, default=None
        Value of the parameter that the suite varies.
    optional : bool, default=False
        Whether it is left out, with a note, if it cannot run (for example without its text tower).
    """

    label: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    x: float | None = None
    optional: bool = False


@dataclass(frozen=True)
class Experiment:
    """The inputs of a suite.

    Attributes
    ----------
    features : tuple of Features
        One per cache, in the order given.
    shots, seeds : tuple of int
        The grid of draws.
    methods : tuple of str or None
        Keep only these; None for all.
    include : tuple of str
        Costly methods (``"coop"``), which a suite runs only if they are named here.
    values : tuple of float
        Values of the parameter that a suite varies; empty for the suite's own.
    selection, device, dtype : str
        As in :func:`cafe.fitting.fit_method`.
    progress : callable or None
        Called as progress(done, of, label).
    notes : list of str
        Series that were left out, and why; filled while the suite runs.
    seconds : list of dict
        Duration of each grid of a series, filled while the suite runs: ``dataset``, ``series``, ``seconds`` in all, and
        of these ``fit_seconds``, choosing included; the rest went into scoring the test.
    """

    features: tuple[Features, ...]
    shots: tuple[int | None, ...] = (1, 2, 4, 8, 16)
    seeds: tuple[int, ...] = (1, 2, 3)
    methods: tuple[str, ...] | None = None
    include: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    selection: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    progress: Progress | None = None
    notes: list[str] = field(default_factory=list)
    seconds: list[dict[str, Any]] = field(default_factory=list)
    # By position of the data set. It is no argument, since a copy with other data sets must make its own draws.
    _tasks: dict[int, list[Task]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def tasks(self, dataset: int) -> list[Task]:
        """Return the draws of the data set at a position, shots by shots and seed by seed; drawn and checked once."""
        if dataset not in self._tasks:
            features = self.features[dataset]
            self._tasks[dataset] = [make_task(features, k, seed) for k in self.shots for seed in self.seeds]
        return self._tasks[dataset]

    def report(self, done: int, of: int, label: str) -> None:
        """Report progress to the caller."""
        if self.progress is not None:
            self.progress(done, of, label)

    def kept(self, series: Sequence[Series]) -> list[Series]:
        """Return the series whose method was asked for, and a default series of each requested method without any."""
        if self.methods is None:
            return list(series)
        for name in self.methods:
            find("methods", "METHOD", "method", name)
        kept = [member for member in series if member.method in self.methods]
        missing = set(self.methods) - {member.method for member in kept}
        return kept + [Series(name, name) for name in method_names() if name in missing]


@dataclass(frozen=True)
class Outcome:
    """A result row, and the data for paired tests.

    Attributes
    ----------
    row : dict
        See :func:`cafe.fitting.make_row`; with ``series``, ``x``, ``part`` and ``note``.
    correct : ndarray of shape (n_test,), bool, or None
        Whether each test image was predicted right; None for a row that is computed from others.
    """

    row: dict[str, Any]
    correct: NDArray[np.bool_] | None


class Suite(ABC):
    """A comparison of methods under the same conditions; the file that defines one sets ``SUITE``.

    Attributes
    ----------
    title : str
        Of the table and the figure.
    layout : ReportLayout
        Columns of the table and kind of the figure; by default a line over the shots.
    """

    title: str
    layout: ClassVar[ReportLayout] = BY_SHOTS
    # Whether each cache is an experiment of its own, so that two encoders of a data set are compared joined as well.
    one_by_one: ClassVar[bool] = True

    @abstractmethod
    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return the series that are compared on this data set."""

    def run(self, experiment: Experiment) -> list[Outcome]:
        """Fit every series on every data set, number of shots and seed; a suite may override it."""
        return [self.outcome(series, fit) for _, series, fit in self.fits(experiment)]

    def outcome(self, series: Series, fit: Fitted) -> Outcome:
        """Turn one fit into a row; a suite that measures more adds to it here."""
        return Outcome(named_row(series, fit.row), fit.correct)

    def fits(
        self, experiment: Experiment, datasets: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Series, Fitted]]:
        """Fit the series, one grid after another.

        Parameters
        ----------
        experiment : Experiment
            What was asked for.
        datasets : sequence of int, default=None
            Positions of the data sets to fit on; None for all.

        Yields
        ------
        tuple of int, Series and Fitted
            Position of the data set, the series, and its fit.
        """
        positions = range(len(experiment.features)) if datasets is None else datasets
        work = [
            (position, label, group) for position in positions for label, group in self._groups(position, experiment)
        ]
        for done, (position, label, group) in enumerate(work):
            name = dataset_name(experiment.features[position])
            experiment.report(done, len(work), f"{name}: {label}")
            tasks, started = experiment.tasks(position), time.perf_counter()
            try:
                fits = _fit_group(group, tasks, experiment)
            except CafeError as error:
                if not all(series.optional for series in group):
                    raise
                experiment.notes.append(f"{label} on {name} was left out: {error}")
                continue
            seconds, fitting = time.perf_counter() - started, sum(fit.row["fit_seconds"] for _, fit in fits)
            experiment.seconds.append({"dataset": name, "series": label, "seconds": seconds, "fit_seconds": fitting})
            for series, fit in fits:
                yield position, series, fit
        experiment.report(len(work), len(work), "done")

    def _groups(self, position: int, experiment: Experiment) -> list[tuple[str, list[Series]]]:
        """Return the requested series by label; series that cannot learn from two encoders become notes instead."""
        groups: dict[str, list[Series]] = {}
        features = experiment.features[position]
        for series in experiment.kept(self.series(features, experiment)):
            if features.second_width and (reason := make_method(series.method).one_encoder):
                name = f"{series.label} on {dataset_name(features)}, {encoder_name(features)}"
                note = f"{name} was left out: {series.method} learns from one encoder alone, {reason}"
                if note not in experiment.notes:
                    experiment.notes.append(note)
                continue
            groups.setdefault(series.label, []).append(series)
        return list(groups.items())


def _fit_group(group: Sequence[Series], tasks: Sequence[Task], experiment: Experiment) -> list[tuple[Series, Fitted]]:
    """Fit a grid of series on all tasks in one run; a method that learns from no image is fitted once for all tasks."""
    members, requests = [], []
    has_text = tasks[0].features.text_features is not None
    for series in group:
        learns = make_method(series.method, **series.parameters).learns_from_images(has_text)
        for position in range(len(tasks) if learns else 1):
            members.append(series)
            requests.append(FitRequest(series.method, series.parameters, position))
    fits = fit_all(tasks, requests, experiment.selection, experiment.device, experiment.dtype)
    return list(zip(members, fits, strict=True))


def named_row(series: Series, row: Mapping[str, Any], part: str | None = None, note: str = "") -> dict[str, Any]:
    """Add the suite's fields to a result row.

    Parameters
    ----------
    series : Series
        The series that the row belongs to.
    row : mapping
        Result row of one fit.
    part : str, default=None
        Part of the test, where a suite has several.
    note : str, default=""
        Remark for readers of this row.
    """
    return {"series": series.label, "x": series.x, "part": part, **row, "note": note}
