"""Images of none of the classes: scores that are high for them, and a threshold for a stated rate of false alarms.

Letters: n images, m training images, c classes, d feature width, k negatives. All features are of unit length. Every
score is higher the more an image looks like none of the classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError

FALSE_ALARMS = 0.05  # the rate that "auto" means
DISTANCE_WEIGHT = 0.25  # see combined_score
_ROWS = 1024  # of one block: 1024 x 16,000 training images in float32 are 64 MB


def mcm_score(X: NDArray[Any], class_embeddings: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return one minus the maximum softmax of cosines (MCM).

    ::

        1  -  max_j  exp( x . e_j / T )  /  sum_l exp( x . e_l / T )

    Source: Ming et al., Delving into Out-of-Distribution Detection with Vision-Language Representations (NeurIPS 2022),
    equation 1, with T = 1 as there.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Image features.
    class_embeddings : ndarray of shape (c, d)
        Text, or class means where there is none.
    temperature : float, default=1.0
        T.

    Examples
    --------
    >>> mcm_score(np.array([[1.0, 0.0]]), np.eye(2)).round(3)
    array([0.269])
    """
    cosines = (X @ class_embeddings.T).astype(np.float64) / temperature  # (n, c)
    below = cosines - cosines.max(axis=1, keepdims=True)
    score: NDArray[np.float64] = 1.0 - 1.0 / np.exp(below).sum(axis=1)
    return score


def distance_score(
    X: NDArray[Any], shots: NDArray[Any], neighbours: int = 1, left_out: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Return one minus the mean cosine to the nearest training images.

    Source: Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors (ICML 2022): the distance to the k-th
    neighbour among unit-length features; here the mean over the k nearest, which is the same for k = 1.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Image features.
    shots : ndarray of shape (m, d)
        Training images.
    neighbours : int, default=1
        k; all where there are fewer.
    left_out : ndarray of shape (m,), int64, default=None
        Where ``X`` are the training images themselves, a number for each, the same for identical images: no image is
        compared with those of its own number.

    Examples
    --------
    >>> distance_score(np.eye(2), np.eye(2)), distance_score(np.eye(2), np.eye(2), left_out=np.array([0, 1]))
    (array([0., 0.]), array([1., 1.]))
    """
    k = min(neighbours, len(shots))
    scores = np.empty(len(X))
    for start in range(0, len(X), _ROWS):
        cosines = (X[start : start + _ROWS] @ shots.T).astype(np.float64)  # (block, m)
        if left_out is not None:
            cosines[left_out[start : start + _ROWS, None] == left_out[None, :]] = -1.0
        nearest = np.partition(cosines, len(shots) - k, axis=1)[:, len(shots) - k :]  # (block, k)
        scores[start : start + _ROWS] = 1.0 - nearest.mean(axis=1)
    return scores


def negatives_score(
    X: NDArray[Any], class_embeddings: NDArray[Any], negatives: NDArray[Any], temperature: float = 0.01
) -> NDArray[np.float64]:
    """Return the share of the softmax that falls to texts of things that are none of the classes.

    ::

        sum_k exp( x . n_k / T )  /  ( sum_j exp( x . e_j / T )  +  sum_k exp( x . n_k / T ) )

    Source: Jiang et al., Negative Label Guided OOD Detection (ICLR 2024), equation 6, one group, T = 0.01 as there.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Image features.
    class_embeddings : ndarray of shape (c, d)
        Text of the classes.
    negatives : ndarray of shape (k, d)
        Text of things that are none of the classes, as :func:`far_texts` chooses them.
    temperature : float, default=0.01
        T.

    Examples
    --------
    >>> negatives_score(np.eye(2), np.eye(2)[:1], np.eye(2)[1:]).round(3)
    array([0., 1.])
    """
    logits = np.concatenate([X @ class_embeddings.T, X @ negatives.T], axis=1).astype(np.float64) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))  # (n, c + k)
    score: NDArray[np.float64] = powers[:, len(class_embeddings) :].sum(axis=1) / powers.sum(axis=1)
    return score


def far_texts(texts: NDArray[Any], class_embeddings: NDArray[Any], number: int, quantile: float = 0.95) -> NDArray[Any]:
    """Choose the texts that are farthest from the classes, as NegLabel mines its negatives.

    Parameters
    ----------
    texts : ndarray of shape (k, d)
        Class text of any data set.
    class_embeddings : ndarray of shape (c, d)
        Text of the classes.
    number : int
        How many to keep; all where there are fewer.
    quantile : float, default=0.95
        A text is as near to the classes as this quantile of its cosines to them says: below 1, so that a single class
        does not decide.

    Examples
    --------
    >>> far_texts(np.eye(3), np.eye(3)[:1], 2).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    nearness = np.quantile(texts @ class_embeddings.T, quantile, axis=1)  # (k,)
    chosen: NDArray[Any] = texts[np.argsort(nearness, kind="stable")[:number]]
    return chosen


def combined_score(
    X: NDArray[Any], class_embeddings: NDArray[Any], means: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Return the default score: how small the lead of the best class is, plus the distance to the training images.

    ::

        mean_j x . e_j  -  max_j x . e_j     +     1/4  ( 1 - max_j x . m_j )

    The first part orders images nearly as MCM does: at T = 1 the softmax of cosines is linear in them to first order.
    The second sees images that are far from everything, of which the first knows nothing. The weight was chosen on
    other draws of the data sets in docs/trust.md than those reported there; neither half nor all of it changes much.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Image features.
    class_embeddings : ndarray of shape (c, d)
        Text, or class means where there is none: the e_j.
    means : ndarray of shape (k, d), default=None
        Unit-length mean of the training images of each class that has some: the m_j. Without them the first part alone.

    Examples
    --------
    >>> combined_score(np.array([[1.0, 0.0], [0.6, 0.8]]), np.eye(2)).round(3)
    array([-0.5, -0.1])
    """
    cosines = (X @ class_embeddings.T).astype(np.float64)  # (n, c)
    scores: NDArray[np.float64] = cosines.mean(axis=1) - cosines.max(axis=1)
    return scores if means is None else scores + DISTANCE_WEIGHT * distance_score(X, means)


def unknown_threshold(scores: NDArray[np.float64], false_alarms: float) -> float:
    """Return the score above which an image is called unknown.

    It is the ``ceil( (n + 1) (1 - rate) )``-th smallest of the n scores, with the rate of false alarms, as in
    split-conformal prediction: a further image of the classes is called unknown with a probability of at most the
    rate, over the draw of all n + 1 images, if they are exchangeable.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Scores of images that are of the classes, and that no fit has learned from.
    false_alarms : float
        The rate, between 0 and 1.

    Raises
    ------
    InputError
        If the rate is not between 0 and 1, or the images are too few for it.

    Examples
    --------
    >>> unknown_threshold(np.linspace(0.1, 0.9, 9), 0.2)
    0.8
    """
    if not 0 < false_alarms < 1:
        raise InputError(f"a rate of false alarms lies between 0 and 1, such as 0.05; got {false_alarms:g}")
    rank = math.ceil((len(scores) + 1) * (1 - false_alarms) - 1e-9)
    if rank > len(scores):
        needed = math.ceil(1 / false_alarms - 1e-9) - 1
        raise InputError(
            f"a rate of false alarms of {false_alarms:g} needs {needed:,} images that nothing was learned from, and "
            f"there are {len(scores):,}"
        )
    return float(np.sort(scores)[max(rank, 1) - 1])
