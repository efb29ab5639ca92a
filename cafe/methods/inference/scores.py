"""Scores of every method whose prediction is a few products: one function each, shared by methods and saved runs.

Each takes a fitted method, or what was read of one from a run, and checked rows X (n, d), of unit length where the
method scales them; it returns logits (n, c) in X's dtype,
as a tensor where X is one. Letters: n rows, d feature width, c classes, k keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cafe.arrays import functions, index_like, like, numpy_dtype, relu, segment_sums
from cafe.errors import InputError
from cafe.methods.inputs.cosines import Array, cosine_logits, unit_length, unit_parts

# Where learned ratios start: kernels/reference.py, whose import needs torch, has the same number.
START_LOGIT = math.log(0.2 / (1 - 0.2))
# Queries whose kernel is held at once: 1024 x 20,000 in float32 are 82 MB.
BLOCK = 1024


def entry_text(method: Any, dtype: Any) -> Array:
    """Return the class embeddings as they enter a method, (c, d): of unit length if it normalises."""
    if not method.normalize:
        text: Array = method.class_embeddings_.astype(dtype, copy=False)
        return text
    # Scaled in the wider of both dtypes, since the narrower may not hold what is still to be scaled.
    wide: Array = method.class_embeddings_.astype(np.result_type(method.class_embeddings_, dtype), copy=False)
    return unit_length(wide).astype(dtype, copy=False)


def text_like(method: Any, X: Array) -> Array:
    """Return :func:`entry_text` in X's dtype, where X is."""
    text: Array = like(entry_text(method, numpy_dtype(X)), X)
    return text


def text_cosines(method: Any, X: Array) -> Array:
    """Score by cosine with the class embeddings: zero-shot."""
    return cosine_logits(X, text_like(method, X), method.logit_scale)


def weight_cosines(method: Any, X: Array) -> Array:
    """Score by cosine with learned class weights, ``weights_`` (c, d)."""
    return cosine_logits(X, like(method.weights_, X), method.logit_scale)


def learned_text_cosines(method: Any, X: Array) -> Array:
    """Score by cosine with the class embeddings of learned prompts, ``text_`` (c, d)."""
    return cosine_logits(X, like(method.text_, X), method.logit_scale)


def linear(method: Any, X: Array) -> Array:
    """Score by ``weights_`` (c, d) and ``intercept_`` (c,)."""
    logits: Array = X @ like(method.weights_, X).T + like(method.intercept_, X)
    return logits


def linear_of_parts(method: Any, X: Array) -> Array:
    """Score by ``weights_`` and ``intercept_``; features of two encoders are each scaled to length one first."""
    return linear(method, unit_parts(X, method.second_width) if method.second_width else X)


def linear_probe(method: Any, X: Array) -> Array:
    """Score by ``coef_`` (c, d) and ``intercept_`` (c,), as scikit-learn names them."""
    logits: Array = X @ like(method.coef_, X).T + like(method.intercept_, X)
    return logits


def gda(method: Any, X: Array) -> Array:
    """Add the Gaussian classifier's scores to those of text."""
    return text_cosines(method, X) + linear(method, X)


def tip_adapter(method: Any, X: Array) -> Array:
    """Add to the scores of text the affinities with ``keys_`` (k, d), summed by class."""
    logits = text_cosines(method, X)
    affinity = unit_length(X) @ like(method.keys_, X).T  # (n, k)
    votes = segment_sums(functions(X).exp(-method.beta_ * (1 - affinity)), method.segments_)  # (n, seen)
    logits[:, index_like(method.seen_, X)] += method.alpha_ * votes
    return logits


def ape(method: Any, X: Array) -> Array:
    """Score as Tip-Adapter does, on the chosen channels alone and with a weight for each key."""
    logits = text_cosines(method, X)
    affinity = unit_length(X[:, index_like(method.channels_, X)]) @ like(method.keys_, X).T  # (n, k)
    votes = functions(X).exp(-method.beta_ * (1 - affinity)) * like(method.weights_, X)
    logits[:, index_like(method.seen_, X)] += method.alpha_ * segment_sums(votes, method.segments_)
    return logits


def ape_t(method: Any, X: Array) -> Array:
    """Score as Tip-Adapter does, with text, keys and values that were trained."""
    text, keys, values = (like(v, X) for v in (method.text_, method.keys_, method.values_))
    logits: Array = method.logit_scale * (X @ text.T)
    votes = functions(X).exp(-method.beta_ * (1 - X @ keys.T)) * values
    logits[:, index_like(method.seen_, X)] += method.alpha_ * segment_sums(votes, method.segments_)
    return logits


def cross_modal_linear_probe(method: Any, X: Array) -> Array:
    """Score by products with the trained head (c, d)."""
    logits: Array = method.logit_scale * (X @ like(method.parameters_["head"], X).T)
    return logits


def cross_modal_adapter(method: Any, X: Array) -> Array:
    """Score rows by the trained head, after blending them with the output of the trained bottleneck."""
    down, up, head = (like(method.parameters_[k], X) for k in ("down", "up", "head"))
    adapted = relu(relu(X @ down) @ up)
    logits: Array = method.logit_scale * ((method.alpha * adapted + (1 - method.alpha) * X) @ head.T)
    return logits


def proker(method: Any, X: Array, block: int = BLOCK) -> Array:
    """Add to the scores of text a kernel regression on ``keys_`` (k, d), in blocks of rows."""
    logits = text_cosines(method, X)
    keys = like(method.keys_, X)
    weights = like(method.dual_weights_, X)
    for start in range(0, len(X), block):
        part = slice(start, start + block)
        # The scale is left to NumPy's own product, so that float32 stays float32.
        logits[part] += method.logit_scale * (exponential_kernel(unit_length(X[part]), keys, method.beta_) @ weights)
    return logits


def exponential_kernel(a: Array, b: Array, beta: float) -> Array:
    """Return exp(-beta (1 - a.b)) of every pair of unit-length rows, (rows of a, rows of b)."""
    affinity = a @ b.T
    affinity -= 1
    affinity *= beta
    values: Array = functions(affinity).exp(affinity, out=affinity)
    return values


def prolip(method: Any, X: Array) -> Array:
    """Score by cosine after the trained projection."""
    W, b = (like(v, X) for v in (method.projection_, method.bias_))
    return cosine_logits(X @ W + b, text_like(method, X), method.logit_scale)


# ---------------------------------------------------------------------------- CLIP-Adapter
# What a trained adapter computes. Letters as in kernels/reference.py: d width, h bottleneck, q ratio width.


def clip_adapter(method: Any, X: Array) -> Array:
    """Score adapted rows by cosine with the adapted text."""
    return cosine_logits(adapted_rows(method, X), like(method.text_, X), method.logit_scale)


def adapted_rows(method: Any, X: Array) -> Array:
    """Return f* of rows, (n, d), before the L2 norm."""
    if method.variant == "text":
        return X
    return blend(X, method.parameters_, "image", image_ratios(method, X), method.form)


def image_ratios(method: Any, X: Array) -> Array:
    """Return alpha of every row: (n, 1) where learned, else (1, 1)."""
    if method.alpha_mode_ == "learned":
        return learned_ratio(method.parameters_, "alpha", X, text_like(method, X).mean(axis=0))
    value = trained_ratio(method.parameters_, "alpha") if method.alpha_mode_ == "scalar" else method.alpha_
    ratio: Array = like(np.full((1, 1), value), X)
    return ratio


def blend(x: Array, parameters: dict[str, Array], side: str, ratio: Array, form: str) -> Array:
    """Return ratio A(x) + (1 - ratio) x in x's dtype; see kernels/reference.py for A."""
    down, up = (like(parameters[f"{side}_{part}"], x) for part in ("down", "up"))
    adapted = relu(x @ down) @ up  # (rows, d)
    if form == "released":
        adapted = relu(adapted)
    blended: Array = ratio * adapted + (1 - ratio) * x
    return blended


def learned_ratio(parameters: dict[str, Array], side: str, own: Array, other_mean: Array) -> Array:
    """Return the hypernetwork's ratio of every row, (rows, 1); formula in kernels/reference.py."""
    u, v, o = (like(parameters[f"{side}_{part}"], own) for part in ("own", "other", "out"))
    hidden = functions(own).tanh(own @ u + other_mean @ v)  # (rows, q)
    bias = like(parameters[f"{side}_bias"], own)  # one number; a saved run gives it back as a float
    return sigmoid(START_LOGIT + bias + hidden @ o[:, None])


def trained_ratio(parameters: dict[str, Array], side: str) -> Array:
    """Return the one number that ``"scalar"`` trained."""
    # In float64, since a saved run gives the number back as a float.
    return sigmoid(START_LOGIT + np.asarray(parameters[f"{side}_bias"], np.float64))


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), stable for large |x|."""
    value: Array = 0.5 * (1 + functions(x).tanh(0.5 * x))
    return value


Scores = Callable[[Any, Array], Array]

# By the methods' names. What is not here (methods that look at the whole batch, and newcomers) is read from a run as
# the scikit-learn classifier that it is.
SCORES: dict[str, Scores] = {
    "ape": ape,
    "ape-t": ape_t,
    "auto": linear_of_parts,
    "clap": weight_cosines,
    "clip-adapter": clip_adapter,
    "coop": learned_text_cosines,
    "cross-modal-adapter": cross_modal_adapter,
    "cross-modal-linear-probe": cross_modal_linear_probe,
    "gda": gda,
    "linear-map": linear_of_parts,
    "linear-probe": linear_probe,
    "lp++": linear,
    "proker": proker,
    "prolip": prolip,
    "ss-text": weight_cosines,
    "task-res": weight_cosines,
    "tip-adapter": tip_adapter,
    "tip-adapter-f": tip_adapter,
    "zero-shot": text_cosines,
    "zero-shot-plus": linear_of_parts,
    "zs-lp": weight_cosines,
}


def check_finite(name: str, logits: Array) -> Array:
    """Return logits (n, c), of which those of the best class of each row are finite.

    Raises
    ------
    InputError
        If one is not; ``name`` is the method's.
    """
    # A sum that is finite tells in one pass without a copy that all are. Minus infinity is the score of a class
    # that the linear probe has never seen; the best class of a row is always finite.
    if not np.isfinite(logits.sum(dtype=np.float64)) and not np.isfinite(logits.max(axis=1)).all():
        raise InputError(
            f"the scores of {name} are not finite: its numbers, or those of the rows, are too large for "
            f"{logits.dtype}; scale them, or set normalize=True"
        )
    return logits
