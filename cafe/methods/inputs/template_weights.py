"""Class embeddings from prompts weighted by how well each agrees with the images of its class (TIMO)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.arrays import sums_by_class
from cafe.errors import InputError
from cafe.methods.inputs.cosines import Array, unit_length
from cafe.methods.inputs.parameters import Choice, Constraint, Number

# Values and constraints of the parameters ``template_weights`` and ``template_gamma`` of several methods.
TEMPLATE_WEIGHTS = ("uniform", "timo")
TEMPLATE_CONSTRAINTS: dict[str, Constraint] = {
    "template_weights": Choice(TEMPLATE_WEIGHTS),
    "template_gamma": Number(0),
}


def flat_prompts(
    text_features: ArrayLike | None, prompt_classes: ArrayLike | None, class_embeddings: ArrayLike | None
) -> tuple[Array, NDArray[np.int64]]:
    """Return prompts (p, d), of unit length in float64, and the class row of each.

    Parameters
    ----------
    text_features : array-like of shape (m, c, d), or (p, d) with ``prompt_classes``
        Templates by classes, or prompts written for classes.
    prompt_classes : array-like of shape (p,), int, default=None
        Class row of each prompt.
    class_embeddings : array-like of shape (c, d), default=None
        What the method starts from, which the prompts must fit.

    Raises
    ------
    InputError
        If there is no prompt, if shapes do not fit each other, or if a class has no prompt or every class just one.

    Examples
    --------
    >>> rows, owners = flat_prompts(np.ones((2, 3, 4)), None, np.ones((3, 4)))
    >>> rows.shape, owners.tolist()
    ((6, 4), [0, 1, 2, 0, 1, 2])
    """
    if text_features is None or class_embeddings is None:
        raise InputError(
            "template_weights='timo' weighs the templates of each class, and needs text_features (templates, classes, "
            "width) beside class_embeddings; this data has no text"
        )
    text, (n_classes, width) = np.asarray(text_features, dtype=np.float64), np.shape(class_embeddings)
    if prompt_classes is None:
        if text.ndim != 3 or text.shape[1:] != (n_classes, width):
            raise InputError(
                f"text_features must be (templates, {n_classes}, {width}), but its shape is {text.shape}; "
                "for prompts written per class, (prompts, width), give prompt_classes too"
            )
        owners = np.tile(np.arange(n_classes), len(text))
        text = text.reshape(-1, width)  # (m c, d)
    else:
        owners = np.asarray(prompt_classes)
        if text.ndim != 2 or text.shape[1] != width or owners.shape != (len(text),):
            raise InputError(
                f"with prompt_classes, text_features must be (prompts, {width}) and prompt_classes (prompts,), "
                f"but their shapes are {text.shape} and {owners.shape}"
            )
        if not np.array_equal(np.unique(owners), np.arange(n_classes)):
            raise InputError(f"prompt_classes must name each of the {n_classes} classes, as 0 to {n_classes - 1}")
    if len(text) == n_classes:
        raise InputError(
            "template_weights='timo' weighs the templates of each class against each other, and here every class has "
            "one; extract with several (cafe extract --templates imagenet-7), or leave template_weights at 'uniform'"
        )
    length = np.linalg.norm(text, axis=1)
    if not np.isfinite(length).all() or not length.all():
        raise InputError("text_features must be finite and not zero; extract them again")
    return unit_length(text), owners.astype(np.int64)


def weighted_embeddings(
    prompts: Array, owners: NDArray[np.int64], X: Array, y: NDArray[np.int64], n_classes: int, gamma: float
) -> tuple[Array, Array]:
    """Weigh the prompts of each class by its training images.

    ::

        t_c = sum_p w_p prompt_p / |...|      w = softmax over the prompts of c of gamma cos(prompt, mean of c)

    Parameters
    ----------
    prompts : ndarray of shape (p, d), float64
        Of unit length.
    owners : ndarray of shape (p,), int64
        Class row of each prompt.
    X : ndarray of shape (n, d)
        Training rows.
    y : ndarray of shape (n,), int64
        Class row of each; a class without a row weighs its prompts alike.
    n_classes : int
        c.
    gamma : float
        0 weighs all alike.

    Returns
    -------
    tuple of ndarray
        Class embeddings (c, d), of unit length, and the weight of each prompt (p,), of sum 1 in each class.

    References
    ----------
    Li et al., Text and Image Are Mutually Beneficial: Enhancing Training-Free Few-Shot Classification with CLIP (TIMO,
    AAAI 2025, arXiv 2412.11375): its image-guided text. The released gamma is 50 (1 on ImageNet, 100 on Flowers).

    Examples
    --------
    >>> prompts, owners = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), np.array([0, 0, 1])
    >>> embeddings, weights = weighted_embeddings(prompts, owners, np.array([[1.0, 0.0]]), np.array([0]), 2, 50.0)
    >>> embeddings.round(3).tolist(), weights.round(3).tolist()
    ([[1.0, 0.0], [0.6, 0.8]], [1.0, 0.0, 1.0])
    """
    means = sums_by_class(unit_length(X.astype(np.float64)), y, n_classes)
    scores = gamma * np.einsum("pd,pd->p", prompts, unit_length(means)[owners])  # 0 where a class has no row
    top = np.full(n_classes, -np.inf)
    np.maximum.at(top, owners, scores)
    weights = np.exp(scores - top[owners])
    weights /= np.bincount(owners, weights, minlength=n_classes)[owners]
    return unit_length(sums_by_class(weights[:, None] * prompts, owners, n_classes)), weights


def embeddings_for(estimator: Any, X: Array, y: NDArray[np.int64]) -> Array:
    """Return the class embeddings (c, d) of an estimator whose templates are weighted, in the dtype of its own."""
    prompts, owners = flat_prompts(estimator.text_features, estimator.prompt_classes, estimator.class_embeddings)
    gamma = float(estimator.template_gamma)
    embeddings, _ = weighted_embeddings(prompts, owners, X, y, len(estimator.class_embeddings_), gamma)
    return embeddings.astype(estimator.class_embeddings_.dtype)
