"""Runs a suite and summarises its rows over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cafe.compare.base import Experiment, Outcome, Progress, Suite
from cafe.compare.published import beside_published
from cafe.compare.summary import compare_pairs, sum_over_seeds
from cafe.compare.two_encoders import with_joined
from cafe.errors import InputError
from cafe.features import Features
from cafe.fitting import check_device_and_dtype
from cafe.registry import find
from cafe.report.comparison import Comparison


def compare(
    suite: str,
    features: Sequence[Features],
    *,
    shots: Sequence[int | None] = (1, 2, 4, 8, 16),
    seeds: Sequence[int] = (1, 2, 3),
    methods: Sequence[str] | None = None,
    include: Sequence[str] = (),
    values: Sequence[float] = (),
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
        One per cache. ``shift`` trains on the first and tests on all. Two of one data set by two encoders are compared
        one by one and joined (:mod:`cafe.compare.two_encoders`).
    shots : sequence of int or None
        Training images per class of the draws; None is all of them.
    seeds : sequence of int
        Of the draws and fits.
    methods : sequence of str, default=None
        Keep only series of these methods; None for all.
    include : sequence of str, default=()
        Methods that a suite leaves out unless asked, for what they cost.
    values : sequence of float, default=()
        Values of the parameter that a suite varies; empty for the suite's own.
    selection, device, dtype : str
        As in :func:`cafe.fitting.fit_method`.
    progress : callable, default=None
        Called as progress(done, of, label) after every series.

    Raises
    ------
    InputError
        If the suite or a method is unknown, nothing is left to compare, or device or dtype cannot be had.
    """
    chosen: Suite = find("compare.suites", "SUITE", "suite", suite).load()()
    if not shots or not seeds or not features:
        raise InputError("compare needs at least one cache, one number of shots and one seed")
    for name in include:
        find("methods", "METHOD", "method", name)
    check_device_and_dtype(device, dtype)
    all_features, notes = with_joined(features) if chosen.one_by_one else (features, [])
    experiment = Experiment(
        tuple(all_features), tuple(shots), tuple(seeds), None if methods is None else tuple(methods), tuple(include),
        tuple(values), selection, device, dtype, progress, notes,
    )  # fmt: skip
    outcomes = chosen.run(experiment)
    return sum_up(suite, chosen, outcomes, experiment.notes, experiment.seconds)


def sum_up(
    suite: str,
    chosen: Suite,
    outcomes: Sequence[Outcome],
    notes: Sequence[str] = (),
    seconds: Sequence[dict[str, Any]] = (),
) -> Comparison:
    """Turn the outcomes of a suite into a comparison.

    Parameters
    ----------
    suite : str
        Its name.
    chosen : Suite
        The suite.
    outcomes : sequence of Outcome
        Outcomes of one run, or of several runs of the same suite.
    notes : sequence of str, default=()
        Remarks about series that were left out.
    seconds : sequence of dict, default=()
        What each grid took; see :class:`cafe.compare.base.Experiment`.
    """
    rows = [outcome.row for outcome in outcomes]
    pairs = compare_pairs(outcomes)
    summary = sum_over_seeds(rows, pairs, chosen.layout.metrics)
    remarks = dict.fromkeys([*notes, *(row["note"] for row in rows if row["note"])])
    return Comparison(
        suite,
        chosen.title,
        rows,
        summary,
        pairs,
        beside_published(summary),
        list(remarks),
        chosen.layout,
        list(seconds),
    )
