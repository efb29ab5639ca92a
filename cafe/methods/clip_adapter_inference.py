"""What a trained CLIPAdapter computes, in NumPy.

Letters as in kernels/reference.py: d width, c classes, h bottleneck, q ratio width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cafe.kernels.reference import START_LOGIT
from cafe.methods.base import Array, Problem
from cafe.methods.stored_rows import parts


def ratio_summary(estimator: Any, problem: Problem) -> dict[str, float]:
    """Return mean and spread of every trained ratio: alpha over training images, beta over classes.

    Keys ``alpha_mean``, ``alpha_std``, ``alpha_min``, ``alpha_max``, and the same of beta; none for given ratios.
    """
    values: dict[str, Array] = {}
    if estimator.variant != "text" and estimator.alpha_mode_ != "fixed":
        rows = problem.selected
        values["alpha"] = np.concatenate([estimator.ratios(rows[part]) for part in parts(len(rows))])
    if estimator.variant != "image" and estimator.beta_mode_ != "fixed":
        values["beta"] = text_ratios(estimator, problem.base.class_embeddings)
    kinds: dict[str, Callable[[Array], Any]] = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
    return {f"{name}_{kind}": float(of(v)) for name, v in values.items() for kind, of in kinds.items()}


def adapted_text(estimator: Any, text: Array) -> Array:
    """Return W* of class embeddings as they enter the method, (c, d), before the L2 norm."""
    if estimator.variant == "image":
        return text
    return blend(text, estimator.parameters_, "text", text_ratios(estimator, text), estimator.form)


def text_ratios(estimator: Any, text: Array) -> Array:
    """Return beta of every class embedding: (c, 1) where learned, else (1, 1)."""
    if estimator.beta_mode_ == "learned":
        mean = estimator.feature_mean_.astype(text.dtype, copy=False)
        return learned_ratio(estimator.parameters_, "beta", text, mean)
    return np.full((1, 1), estimator.beta_, dtype=text.dtype)


def blend(x: Array, parameters: dict[str, Array], side: str, ratio: Array, form: str) -> Array:
    """Return ratio A(x) + (1 - ratio) x in x's dtype; see kernels/reference.py for A."""
    down, up = (parameters[f"{side}_{part}"].astype(x.dtype, copy=False) for part in ("down", "up"))
    adapted = np.maximum(x @ down, 0) @ up  # (rows, d)
    if form == "released":
        adapted = np.maximum(adapted, 0)
    blended: Array = ratio * adapted + (1 - ratio) * x
    return blended


def learned_ratio(parameters: dict[str, Array], side: str, own: Array, other_mean: Array) -> Array:
    """Return the hypernetwork's ratio of every row, (rows, 1); formula in kernels/reference.py."""
    u, v, o = (parameters[f"{side}_{part}"].astype(own.dtype, copy=False) for part in ("own", "other", "out"))
    hidden = np.tanh(own @ u + other_mean @ v)  # (rows, q)
    bias = np.asarray(parameters[f"{side}_bias"], dtype=own.dtype)  # one number; a saved run gives it back as a float
    return sigmoid(START_LOGIT + bias + hidden @ o[:, None])


def trained_ratio(parameters: dict[str, Array], side: str) -> Array:
    """Return the one number that ``"scalar"`` trained."""
    return sigmoid(START_LOGIT + parameters[f"{side}_bias"])


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), stable for large |x|."""
    value: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return value
