"""Text features to one unit vector per class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError


def class_embeddings(text_features: NDArray[Any]) -> NDArray[np.float32]:
    """Average the text features of each class over its templates: scale to unit length, average, scale again.

    Parameters
    ----------
    text_features : ndarray of shape (m, c, d)
        As the text tower returned them.

    Returns
    -------
    ndarray of shape (c, d), float32
        Unit-length class embeddings, as in OpenAI's and CoOp's prompt ensembling.

    Raises
    ------
    InputError
        If a text feature has length zero or is not finite.
    """
    text = _unit(np.asarray(text_features, dtype=np.float64))
    return _unit(text.mean(axis=0)).astype(np.float32)


def mean_of_prompts(
    prompt_features: NDArray[Any], prompt_classes: NDArray[np.int64], n_classes: int
) -> NDArray[np.float32]:
    """Average the features of each class's own prompts: scale to unit length, average, scale again.

    Parameters
    ----------
    prompt_features : ndarray of shape (p, d)
        As the text tower returned them.
    prompt_classes : ndarray of shape (p,), int64
        Class of each prompt; every class has at least one.
    n_classes : int
        The number of classes c.

    Returns
    -------
    ndarray of shape (c, d), float32
        Unit-length class embeddings, as in CuPL (Pratt et al. 2023, "What does a platypus look like?").

    Raises
    ------
    InputError
        If a class has no prompt, or a feature has length zero or is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> mean_of_prompts(np.array([[2.0, 0], [0, 3], [0, 1]]), np.array([0, 1, 1]), 2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    text = _unit(np.asarray(prompt_features, dtype=np.float64))
    counts = np.bincount(prompt_classes, minlength=n_classes)
    if not counts.all():
        raise InputError(f"class {int(np.flatnonzero(counts == 0)[0])} has no prompt; every class needs at least one")
    sums = np.zeros((n_classes, text.shape[1]))
    np.add.at(sums, prompt_classes, text)
    return _unit(sums / counts[:, None]).astype(np.float32)


def _unit(text: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale every row to unit length."""
    length = np.linalg.norm(text, axis=-1, keepdims=True)
    if not np.all(np.isfinite(length)) or np.any(length == 0):
        raise InputError("text features must be finite and not zero; extract them again")
    unit: NDArray[np.float64] = text / length
    return unit
