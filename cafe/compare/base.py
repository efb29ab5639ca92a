"""What a suite is: a title, a list of series, each a method with its parameters, and a way to run them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cafe.compare.plan import Plan
from cafe.errors import CafeError
from cafe.features import Features
from cafe.fitting import Fitted, Job, fit_jobs
from cafe.protocol.tasks import Task, dataset_name
from cafe.report.layout import SHOTS, Layout


@dataclass(frozen=True)
class Series:
    """One line of a figure, one row of a table; or one point of a line, where ``x`` is given.

    Attributes
    ----------
    label : str
        As it stands in the legend. Series of one label are one grid, and are fitted in one run.
    method : str
        Name of the method.
    parameters : mapping
        Its keyword parameters; ``"auto"`` is resolved by the selection policy.
    x : float, default=None
        Value of the parameter that the suite varies.
    optional : bool, default=False
        Whether it may be left out, with a note, where it cannot run (a text tower that is not at hand).
    """

    label: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    x: float | None = None
    optional: bool = False


@dataclass(frozen=True)
class Outcome:
    """A row, and what paired tests need.

    Attributes
    ----------
    row : dict
        See :func:`cafe.scoring.make_row`; with ``series``, ``x``, ``part`` and ``note``.
    correct : ndarray of shape (n_test,), bool, or None
        Whether each test image was predicted right; None for a row that is computed from others.
    """

    row: dict[str, Any]
    correct: NDArray[np.bool_] | None


class Suite(ABC):
    """A question asked of every method alike; the file that defines one sets ``SUITE``.

    Attributes
    ----------
    title : str
        Of the table and the figure.
    layout : Layout
        What stands across, and what is drawn; shots and lines unless a suite says otherwise.
    """

    title: str
    layout: ClassVar[Layout] = SHOTS

    @abstractmethod
    def series(self, features: Features, plan: Plan) -> Sequence[Series]:
        """Return what is compared on this data set."""

    def run(self, plan: Plan) -> list[Outcome]:
        """Fit every series on every data set, number of shots and seed. Suites with a way of their own override it."""
        outcomes = []
        for tasks, series, fits in self.fitted(plan):
            outcomes += [self.outcome(one, fit, task) for one, fit, task in zip(series, fits, tasks, strict=True)]
        return outcomes

    def outcome(self, series: Series, fit: Fitted, task: Task) -> Outcome:
        """Turn one fit into a row; a suite that measures more adds to it here."""
        return Outcome(named_row(series, fit.row), fit.correct)

    def fitted(self, plan: Plan) -> Iterator[tuple[list[Task], list[Series], list[Fitted]]]:
        """Fit grid after grid; yield tasks, series and fits, of equal length."""
        work = [(one, label, group) for one in plan.features for label, group in self.groups(one, plan)]
        for done, (features, label, group) in enumerate(work):
            plan.report(done, len(work), f"{dataset_name(features)}: {label}")
            try:
                yield fit_group(group, plan.tasks(features), plan)
            except CafeError as error:
                if not all(series.optional for series in group):
                    raise
                plan.notes.append(f"{label} on {dataset_name(features)} was left out: {error}")
        plan.report(len(work), len(work), "done")

    def groups(self, features: Features, plan: Plan) -> list[tuple[str, list[Series]]]:
        """Return the series that were asked for, by label."""
        groups: dict[str, list[Series]] = {}
        for one in plan.kept(self.series(features, plan), Series):
            groups.setdefault(one.label, []).append(one)
        return list(groups.items())


def fit_group(
    group: Sequence[Series], tasks: Sequence[Task], plan: Plan
) -> tuple[list[Task], list[Series], list[Fitted]]:
    """Fit a grid of series on all tasks in one run; zero-shot with text sees no shot, so one fit stands for all."""
    pairs = []
    for series in group:
        fixed = series.method == "zero-shot" and tasks[0].features.text_features is not None
        pairs += [(series, task) for task in (tasks[:1] if fixed else tasks)]
    jobs = [Job(task, series.method, series.parameters) for series, task in pairs]
    fits = fit_jobs(jobs, plan.selection, plan.device, plan.dtype)
    return [task for _, task in pairs], [series for series, _ in pairs], fits


def named_row(series: Series, row: Mapping[str, Any], part: str | None = None, note: str = "") -> dict[str, Any]:
    """Put the suite's own fields before a row.

    Parameters
    ----------
    series : Series
        That it belongs to.
    row : mapping
        Of one fit.
    part : str, default=None
        Part of the test, where a suite has several.
    note : str, default=""
        What a reader has to know of this row.
    """
    return {"series": series.label, "x": series.x, "part": part, **row, "note": note}
