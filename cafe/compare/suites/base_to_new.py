"""Training on half of the classes and testing on both halves: generalisation to new classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cafe.compare.base import Experiment, Outcome, Series, Suite, named_row
from cafe.compare.suites.baselines import Baselines, coop_series
from cafe.errors import InputError
from cafe.evaluation.metrics import METRIC_FIELDS, all_metrics
from cafe.features import Features
from cafe.fitting import Fitted, zero_shot_accuracy
from cafe.methods.inference.fitted import full_probabilities
from cafe.protocol.base_to_new import harmonic_mean, split_classes
from cafe.report.comparison import ReportLayout

SUITE = "base-to-new"
BASE, NEW, MEAN = "base", "new", "harmonic mean"


class BaseToNew(Suite):
    """CoCoOp's split: learn on the first half of the classes, score both halves; base, new and their harmonic mean.

    A method whose weights belong to classes cannot score new ones; its rows say so.
    """

    title = "Base-to-new generalisation"
    layout = ReportLayout(axis="part", axis_label="classes tested", figure="dots")

    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return the baselines, the text adapter, which changes the classifier itself, and CoOp where included."""
        text = Series("clip-adapter, text", "clip-adapter", {"variant": "text", "beta": 0.2})
        return (*Baselines().series(features, experiment), text, *coop_series(experiment))

    def run(self, experiment: Experiment) -> list[Outcome]:
        """Fit on base classes; score base, then new."""
        outcomes: list[Outcome] = []
        halves = [split_classes(features) for features in experiment.features]
        base_experiment = replace(experiment, features=tuple(base for base, _ in halves))
        for position, series, fit in self.fits(base_experiment):
            base = Outcome(named_row(series, fit.row, part=BASE), fit.correct)
            new = _score_on_new(fit, series, halves[position][1])
            outcomes += [base, new, _mean(base, new)]
        return outcomes


def _score_on_new(fit: Fitted, series: Series, new: Features) -> Outcome:
    """Score a method fitted on the base classes on the new ones; a method that cannot gets a row that says why."""
    test = new.split("test")
    unmeasured: dict[str, Any] = {**fit.row, "n_test": len(test), "zero_shot_acc1": zero_shot_accuracy(new, test)}
    unmeasured.update(dict.fromkeys(METRIC_FIELDS))
    embeddings = new.class_embeddings
    if embeddings is None:
        note = "without text, nothing is known of new classes"
        return Outcome(named_row(series, unmeasured, NEW, f"{series.label}: {note}"), None)
    try:
        moved = fit.estimator.for_classes(embeddings, new.class_names)
    except InputError as error:
        return Outcome(named_row(series, unmeasured, NEW, f"{series.label}: {error}"), None)
    probabilities = full_probabilities(moved, fit.inputs_of(test), len(new.class_names))
    row = {**unmeasured, **all_metrics(probabilities, test.labels)}
    return Outcome(named_row(series, row, NEW), probabilities.argmax(axis=1) == test.labels)


def _mean(base: Outcome, new: Outcome) -> Outcome:
    """Return the row of the harmonic means of accuracies; intervals, calibration and likelihood have none."""
    row = {**base.row, "part": MEAN, "n_test": base.row["n_test"] + new.row["n_test"], "note": new.row["note"]}
    row.update(dict.fromkeys(METRIC_FIELDS))
    for metric in ("acc1", "acc5", "mean_per_class_recall", "zero_shot_acc1"):
        if base.row[metric] is not None and new.row[metric] is not None:
            row[metric] = harmonic_mean(base.row[metric], new.row[metric])
    return Outcome(row, None)
