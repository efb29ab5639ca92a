"""Trained on one data set, tested on others: ImageNet to V2, Sketch, A and R."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.compare.base import Outcome, Series, Suite, named_row
from cafe.compare.plan import Plan
from cafe.compare.suites.baselines import Baselines
from cafe.errors import InputError
from cafe.evaluation.metrics import all_metrics
from cafe.features import Features
from cafe.fitting import Fitted
from cafe.protocol.overlap import check_overlap
from cafe.protocol.shift import class_mapping, restricted
from cafe.protocol.tasks import Task, dataset_name, encoder_name
from cafe.report.layout import Layout
from cafe.scoring import full_probabilities, zero_shot_accuracy

SUITE = "shift"


class Shift(Suite):
    """Distribution shift: learn on the first cache, test on every one; classes are matched by WordNet id or name.

    Where a test set holds some of the classes only (ImageNet-A and -R), predictions are restricted to them.
    """

    title = "Distribution shift"
    layout = Layout(axis="part", axis_label="tested on", figure="dots")

    def series(self, features: Features, plan: Plan) -> Sequence[Series]:
        """Return the baselines."""
        return Baselines().series(features, plan)

    def run(self, plan: Plan) -> list[Outcome]:
        """Fit on the first cache, score on all."""
        source, *others = plan.features
        if not others:
            raise InputError("suite 'shift' needs at least two caches: the first is learned from, all are tested on")
        columns = {id(target): _columns(source, target) for target in others}
        for target in others:
            for task in plan.tasks(source):
                check_overlap(task.train, target.split("test"))
        zero_shot = {id(target): _zero_shot(source, target, columns[id(target)]) for target in others}
        outcomes: list[Outcome] = []
        for tasks, series, fits in self.fitted(replace(plan, features=(source,))):
            for task, one, fit in zip(tasks, series, fits, strict=True):
                outcomes.append(Outcome(named_row(one, fit.row, part=dataset_name(source)), fit.correct))
                for target in others:
                    outcome = _tested(fit, one, task, target, columns[id(target)])
                    outcome.row["zero_shot_acc1"] = zero_shot[id(target)]
                    outcomes.append(outcome)
        return outcomes


def _columns(source: Features, target: Features) -> NDArray[np.int64]:
    if encoder_name(source) != encoder_name(target):
        raise InputError(
            f"{dataset_name(target)} was encoded by {encoder_name(target)} and {dataset_name(source)} by "
            f"{encoder_name(source)}; a shift needs one encoder"
        )
    return class_mapping(source, target)


def _zero_shot(source: Features, target: Features, columns: NDArray[np.int64]) -> float | None:
    if source.text_features is None:
        return None
    text = source.text_features[:, columns]
    return zero_shot_accuracy(
        Features({}, target.class_names, text, logit_scale=source.logit_scale), target.split("test")
    )


def _tested(fit: Fitted, series: Series, task: Task, target: Features, columns: NDArray[np.int64]) -> Outcome:
    """Score a fitted method on another test set, whose classes are these columns of the ones learned."""
    test = target.split("test")
    known = len(task.features.class_names)
    probabilities = restricted(full_probabilities(fit.estimator, test.image_features, known), columns)
    row: dict[str, Any] = {**fit.row, "n_test": len(test), **all_metrics(probabilities, test.labels)}
    note = "" if len(columns) == known else f"{dataset_name(target)}: predictions among its {len(columns)} classes"
    return Outcome(named_row(series, row, dataset_name(target), note), probabilities.argmax(axis=1) == test.labels)
