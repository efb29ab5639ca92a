"""Training on one data set and testing on others, such as ImageNet and its variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.compare.base import Experiment, Outcome, Series, Suite, named_row
from cafe.compare.suites.baselines import Baselines
from cafe.errors import InputError
from cafe.evaluation.metrics import all_metrics
from cafe.features import Features
from cafe.fitting import Fitted, zero_shot_accuracy
from cafe.methods.inference.fitted import full_probabilities
from cafe.protocol.overlap import check_overlap
from cafe.protocol.shift import class_mapping, restricted
from cafe.protocol.tasks import dataset_name, encoder_name
from cafe.report.comparison import ReportLayout

SUITE = "shift"


class Shift(Suite):
    """Distribution shift: learn on the first cache, test on every one; classes are matched by WordNet id or name.

    Where a test set holds some of the classes only (ImageNet-A and -R), predictions are restricted to them.
    """

    title = "Distribution shift"
    layout = ReportLayout(axis="part", axis_label="tested on", figure="dots")

    one_by_one = False  # the first cache is learned from, all are tested on

    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return the baselines."""
        return Baselines().series(features, experiment)

    def run(self, experiment: Experiment) -> list[Outcome]:
        """Fit on the first cache, score on all."""
        source, *targets = experiment.features
        if not targets:
            raise InputError("suite 'shift' needs at least two caches: the first is learned from, all are tested on")
        columns = [_columns(source, target) for target in targets]
        for target in targets:
            for task in experiment.tasks(0):
                check_overlap(task.train, target.split("test"))
        zero_shot = [
            _zero_shot(source, target, target_columns) for target, target_columns in zip(targets, columns, strict=True)
        ]
        outcomes: list[Outcome] = []
        for _, series, fit in self.fits(experiment, [0]):
            outcomes.append(Outcome(named_row(series, fit.row, part=dataset_name(source)), fit.correct))
            for target, target_columns, frozen in zip(targets, columns, zero_shot, strict=True):
                outcome = _score_on_target(fit, series, target, target_columns)
                outcome.row["zero_shot_acc1"] = frozen
                outcomes.append(outcome)
        return outcomes


def _columns(source: Features, target: Features) -> NDArray[np.int64]:
    """Return the class row in the source of each class of the target, after checking that both have one encoder."""
    if encoder_name(source) != encoder_name(target):
        raise InputError(
            f"{dataset_name(target)} was encoded by {encoder_name(target)} and {dataset_name(source)} by "
            f"{encoder_name(source)}; a shift needs one encoder"
        )
    return class_mapping(source, target)


def _zero_shot(source: Features, target: Features, columns: NDArray[np.int64]) -> float | None:
    """Return zero-shot's accuracy on the target, by the source's text of the classes ``columns``; None without text."""
    if source.text_features is None:
        return None
    text = source.text_features[:, columns]
    return zero_shot_accuracy(
        Features({}, target.class_names, text, logit_scale=source.logit_scale), target.split("test")
    )


def _score_on_target(fit: Fitted, series: Series, target: Features, columns: NDArray[np.int64]) -> Outcome:
    """Score a fitted method on another test set; ``columns`` has the learned class of each of its classes."""
    test = target.split("test")
    known = len(fit.task.features.class_names)
    probabilities = restricted(full_probabilities(fit.estimator, fit.inputs_of(test), known), columns)
    row: dict[str, Any] = {**fit.row, "n_test": len(test), **all_metrics(probabilities, test.labels)}
    note = "" if len(columns) == known else f"{dataset_name(target)}: predictions among its {len(columns)} classes"
    return Outcome(named_row(series, row, dataset_name(target), note), probabilities.argmax(axis=1) == test.labels)
