"""Images whose label looks wrong: confident learning on probabilities of fits that have not seen the image.

Letters: n samples, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# So that a probability equal to its class's threshold counts as reaching it, and one of zero never does; the numbers of
# the library cleanlab (constants of cleanlab.count), so that both find the same images.
_TOLERANCE = 1e-6
_LOWEST_THRESHOLD = 2e-6


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label looks wrong.

    Attributes
    ----------
    row : int
        Its row in the probabilities.
    label, suggested : int
        What it is labelled as, and its most probable class.
    probability : float
        Of the label that it has: the lower, the more doubtful.
    """

    row: int
    label: int
    suggested: int
    probability: float


def find_label_issues(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> list[LabelIssue]:
    """Find the images whose label looks wrong, the most doubtful first.

    A class's threshold is the mean probability that rows with its label give it::

        t_j  =  mean { p_ij : y_i = j }                        J_i  =  { j : p_ij >= t_j }

    A row is an issue where J_i is not empty, and its most probable class is in conflict with its label twice: the most
    probable of the classes of J_i is not y_i, and neither is the most probable of all classes.

    Source: Northcutt, Jiang and Chuang, Confident Learning (JAIR 2021), equations 1 and 2, off-diagonal entries of the
    confident joint; as ``find_label_issues(..., filter_by="confident_learning")`` of the library cleanlab has it,
    ordered by self-confidence.

    Parameters
    ----------
    probabilities : ndarray of shape (n, c)
        Of fits that have not seen the row: a fit that has learned a wrong label by heart does not contradict it.
    labels : ndarray of shape (n,), int64
        True class of each, as a row of the class names.

    Returns
    -------
    list of LabelIssue

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.05, 0.95], [0.1, 0.9], [0.2, 0.8]])
    >>> find_label_issues(p, np.array([0, 0, 0, 1, 1]))
    [LabelIssue(row=2, label=0, suggested=1, probability=0.05)]
    """
    p = probabilities.astype(np.float64)
    counts = np.bincount(labels, minlength=p.shape[1])  # (c,)
    of_label = np.take_along_axis(p, labels[:, None], axis=1)[:, 0]  # (n,)
    sums = np.bincount(labels, weights=of_label, minlength=p.shape[1])
    # Nothing reaches the threshold of a class without a label.
    thresholds = np.where(counts > 0, np.maximum(sums / np.maximum(counts, 1), _LOWEST_THRESHOLD), np.inf)
    reaches = p >= thresholds - _TOLERANCE  # (n, c)
    # With several classes reached cleanlab takes the most probable of all, which need not be one of them.
    most_probable = p.argmax(axis=1)
    guess = np.where(reaches.sum(axis=1) > 1, most_probable, reaches.argmax(axis=1))
    issues = np.flatnonzero(reaches.any(axis=1) & (guess != labels) & (most_probable != labels))
    order = issues[np.argsort(of_label[issues], kind="stable")]
    return [LabelIssue(int(i), int(labels[i]), int(most_probable[i]), float(of_label[i])) for i in order]
