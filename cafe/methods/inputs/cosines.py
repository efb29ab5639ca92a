"""Cosines, logits and probabilities, which every method shares.

Letters: n samples, d feature width, c classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def unit_length(x: Array) -> Array:
    """Scale rows to length one; rows of zeros stay zeros.

    Examples
    --------
    >>> unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    scaled: Array = x / np.maximum(length, np.finfo(x.dtype).tiny)
    return scaled


def cosine_logits(features: Array, class_embeddings: Array, logit_scale: float) -> Array:
    """Return logit_scale times the cosine of every row with every class: (n, c)."""
    logits: Array = logit_scale * (unit_length(features) @ unit_length(class_embeddings).T)
    return logits


def softmax(logits: Array) -> Array:
    """Return probabilities along the last axis.

    Examples
    --------
    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities
