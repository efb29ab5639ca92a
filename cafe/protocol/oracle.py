"""The one policy that looks at test data, to measure what honest selection costs.

Published figures of several methods were chosen on the test set (best epoch or ratio), and can only be compared with
this policy. It has to be asked for by name, and every row and figure that it touches says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cafe.protocol.selection import Selection, choose, score_all


def oracle_test(estimator: Any, task: Any, fit_many: Any) -> tuple[Any, Selection]:
    """Choose every ``"auto"`` parameter by accuracy on the test split.

    Parameters
    ----------
    estimator : unfitted classifier
        With parameters that are ``"auto"``.
    task : Task
        Whose test split is looked at.
    fit_many : callable
        :func:`cafe.methods.fit_many`.

    Returns
    -------
    tuple of classifier and Selection
        The selection's policy is ``"oracle-test"``.
    """
    X, y, rows = task.train.image_features, task.train.labels, np.arange(len(task.train))

    def score(candidates: list[Any]) -> list[float]:
        fits = fit_many(X, y, candidates, [rows] * len(candidates))
        return score_all(fits, task.test.image_features, task.test.labels)

    return choose(estimator, "oracle-test", score)
