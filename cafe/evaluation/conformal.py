"""Sets of classes with a promised coverage: split-conformal prediction, by LAC and by APS.

Rows that the scoring fit has not seen get a score, which is high where the fit is surprised by their class. A new image
gets every class whose score would not be among the largest. **What is proved**: if those n rows and the new image are
exchangeable (drawn alike, in any order), then

::

    1 - a  <=  P( class of the new image is in its set )                   q = ceil( (n + 1) (1 - a) )-th smallest score

over the draw of rows and image together, whatever the fit and its probabilities are worth. (Were there no ties, the
probability would also be at most ``1 - a + 1 / (n + 1)``.) Nothing is promised for a single class, nor for images of
another kind than the rows. Below ``n = ceil(1 / a) - 1`` rows q is infinite, and every set would hold all classes: that
is refused.

Sources: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005), split form by Papadopoulos et al.
(ECML 2002); LAC: Sadinle, Lei and Wasserman (JASA 2019), ``s = 1 - p_y``; APS: Romano, Sesia and Candes (NeurIPS 2020),
here without their random part, so that the same image always gets the same set.

Letters: n rows, c classes, a the share of misses.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError

ConformalScore = Literal["lac", "aps"]
CONFORMAL_SCORES: tuple[ConformalScore, ...] = ("lac", "aps")
# A sum of c float32 probabilities is right to some units in the last place; a set must not depend on these.
_TOLERANCE = 1e-9


def class_scores(probabilities: NDArray[Any], score: ConformalScore = "lac") -> NDArray[np.float64]:
    """Return the score of every class for every row: the higher, the stranger that class would be.

    ::

        LAC:  s_j = 1 - p_j                    APS:  s_j = sum of p_k over all k at least as probable as j

    Parameters
    ----------
    probabilities : ndarray of shape (n, c)
        Rows sum to one.
    score : {"lac", "aps"}, default="lac"
        LAC gives the smallest sets on average; those of APS vary more with how hard an image is.

    Returns
    -------
    ndarray of shape (n, c), float64

    Examples
    --------
    >>> p = np.array([[0.5, 0.2, 0.3]])
    >>> class_scores(p, "lac").round(2), class_scores(p, "aps").round(2)
    (array([[0.5, 0.8, 0.7]]), array([[0.5, 1. , 0.8]]))
    """
    p = probabilities.astype(np.float64)
    if score == "lac":
        return 1.0 - p
    order = np.argsort(-p, axis=1, kind="stable")  # (n, c), most probable first
    sums = np.cumsum(np.take_along_axis(p, order, axis=1), axis=1)
    scores = np.empty_like(p)
    np.put_along_axis(scores, order, sums, axis=1)
    return scores


def own_scores(
    probabilities: NDArray[Any], labels: NDArray[np.int64], score: ConformalScore = "lac"
) -> NDArray[np.float64]:
    """Return the score of each row's own class, (n,), float64; :func:`conformal_threshold` takes these scores."""
    scores: NDArray[np.float64] = np.take_along_axis(class_scores(probabilities, score), labels[:, None], axis=1)[:, 0]
    return scores


def fewest_rows(coverage: float) -> int:
    """Return how many rows a coverage needs: the least n with ``ceil( (n + 1) coverage ) <= n``.

    Examples
    --------
    >>> fewest_rows(0.95), fewest_rows(0.9), fewest_rows(0.5)
    (19, 9, 1)
    """
    check_coverage(coverage)
    n = max(1, math.floor(coverage / (1 - coverage)) - 1)
    while _rank(n, coverage) > n:
        n += 1
    return n


def check_coverage(coverage: float) -> None:
    """Raise InputError unless a coverage is between 0 and 1."""
    if not 0 < coverage < 1:
        raise InputError(f"a coverage lies between 0 and 1, such as 0.95; got {coverage:g}")


def conformal_threshold(scores: NDArray[np.float64], coverage: float) -> float:
    """Return q: a class is in the set of an image where its score is at most q.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Of the own class of rows that the scoring fit has not seen.
    coverage : float
        ``1 - a``, between 0 and 1.

    Returns
    -------
    float
        The ``ceil( (n + 1) coverage )``-th smallest score.

    Raises
    ------
    InputError
        If the coverage is not between 0 and 1, or the rows are too few for it.

    Examples
    --------
    >>> conformal_threshold(np.linspace(0.1, 0.9, 9), 0.8)
    0.8
    """
    needed = fewest_rows(coverage)
    if len(scores) < needed:
        possible = len(scores) / (len(scores) + 1)
        most = f"; they reach {math.floor(1000 * possible) / 1000:g} at most" if len(scores) else ""
        raise InputError(
            f"a coverage of {coverage:g} needs {needed:,} images that the scoring fit has not seen, and there are "
            f"{len(scores):,}{most}"
        )
    return float(np.sort(scores)[_rank(len(scores), coverage) - 1])


def _rank(n: int, coverage: float) -> int:
    """Return which of n scores, in ascending order from 1, is the threshold."""
    # 20 x 0.95 is 19.000000000000004 in floating point, and its ceiling is meant to be 19.
    return max(1, math.ceil((n + 1) * coverage - 1e-9))


def prediction_sets(probabilities: NDArray[Any], threshold: float, score: ConformalScore = "lac") -> NDArray[np.bool_]:
    """Return which classes are in the set of each row, (n, c).

    The most probable class always is, which can only raise the coverage: no set is empty.

    Examples
    --------
    >>> prediction_sets(np.array([[0.5, 0.2, 0.3]]), 0.75).tolist()
    [[True, False, True]]
    """
    inside: NDArray[np.bool_] = class_scores(probabilities, score) <= threshold + _TOLERANCE
    inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
    return inside
