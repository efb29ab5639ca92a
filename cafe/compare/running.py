"""Run a suite: every series on every data set, number of shots and seed, and sum up over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cafe.compare.base import Series, Suite
from cafe.errors import InputError
from cafe.features import Features
from cafe.fitting import Fitted, fit_tasks
from cafe.methods import method_names
from cafe.rooms import find
from cafe.tasks import Task, dataset_name, make_task

METRICS = ("acc1", "acc5", "mean_per_class_recall", "ece", "nll")
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Comparison:
    """What a suite gave.

    Attributes
    ----------
    suite, title : str
        Its name, and what stands above tables and figures.
    rows : list of dict
        One per fit; see :func:`cafe.fitting.fit_method`, plus ``series``.
    summary : list of dict
        One per data set, series and number of shots: mean, standard deviation and n over seeds.
    """

    suite: str
    title: str
    rows: list[dict[str, Any]]
    summary: list[dict[str, Any]]


def compare(
    suite: str,
    features: Sequence[Features],
    *,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    seeds: Sequence[int] = (1, 2, 3),
    methods: Sequence[str] | None = None,
    selection: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Comparison:
    """Run a suite on one or more caches.

    Parameters
    ----------
    suite : str
        Name of a file in ``cafe/compare/suites``.
    features : sequence of Features
        One per cache.
    shots, seeds : sequence of int
        The grid of draws.
    methods : sequence of str, default=None
        Keep only series of these methods; None for all.
    selection, device, dtype : str
        As in :func:`cafe.fitting.fit_method`.
    progress : callable, default=None
        Called as progress(done, of, label) after every series.

    Raises
    ------
    InputError
        If the suite or a method is unknown, or nothing is left to compare.
    """
    chosen: Suite = find("compare.suites", "SUITE", "suite", suite).load()()
    if not shots or not seeds or not features:
        raise InputError("compare needs at least one cache, one number of shots and one seed")
    work = [(one, series) for one in features for series in _kept(chosen.series(one), methods)]
    rows: list[dict[str, Any]] = []
    tasks: dict[int, list[Task]] = {}
    for done, (one, series) in enumerate(work):
        if id(one) not in tasks:
            tasks[id(one)] = [make_task(one, k, seed) for k in shots for seed in seeds]
        if progress is not None:
            progress(done, len(work), f"{dataset_name(one)}: {series.label}")
        fits = _run_series(series, tasks[id(one)], selection, device, dtype)
        rows.extend({"series": series.label, **fit.row} for fit in fits)
    if progress is not None:
        progress(len(work), len(work), "done")
    return Comparison(suite, chosen.title, rows, summarise(rows))


def _run_series(series: Series, tasks: list[Task], selection: str, device: str, dtype: str) -> list[Fitted]:
    """Fit one series on all tasks; zero-shot with text sees no shot, so one fit stands for all."""
    fixed = series.method == "zero-shot" and tasks[0].features.text_features is not None
    chosen = tasks[:1] if fixed else tasks
    fits = fit_tasks(chosen, series.method, series.parameters, selection=selection, device=device, dtype=dtype)
    if fixed:
        fits[0].row.update(shots=0, seed=None, n_train=0)
    return fits


def _kept(series: Sequence[Series], methods: Sequence[str] | None) -> list[Series]:
    if methods is None:
        return list(series)
    for name in methods:
        find("methods", "METHOD", "method", name)
    kept = [one for one in series if one.method in methods]
    missing = set(methods) - {one.method for one in kept}
    if not missing:
        return kept
    # A method that the suite does not name is compared with its own defaults.
    return kept + [Series(name, name) for name in method_names() if name in missing]


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean, standard deviation (n - 1) and n over seeds of every cell.

    Examples
    --------
    >>> base = {"dataset": "d", "encoder": "e", "method": "m", "variant": None, "series": "m", "shots": 1,
    ...         "oracle": False, "acc5": 1.0, "mean_per_class_recall": 0.5, "ece": 0.1, "nll": 1.0, "fit_seconds": 0.1}
    >>> cell, = summarise([{**base, "acc1": 0.5}, {**base, "acc1": 0.7}])
    >>> cell["n"], round(cell["acc1_mean"], 3), round(cell["acc1_std"], 3)
    (2, 0.6, 0.141)
    """
    keys = ("dataset", "encoder", "series", "method", "variant", "shots")
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault(tuple(row[key] for key in keys), []).append(row)
    summary = []
    for cell, members in cells.items():
        entry: dict[str, Any] = dict(zip(keys, cell, strict=True))
        entry["n"] = len(members)
        entry["oracle"] = any(row["oracle"] for row in members)
        for metric in (*METRICS, "fit_seconds"):
            values = np.array([row[metric] for row in members], dtype=float)
            entry[f"{metric}_mean"] = float(values.mean())
            entry[f"{metric}_std"] = float(values.std(ddof=1)) if len(values) > 1 else None
        summary.append(entry)
    return summary
