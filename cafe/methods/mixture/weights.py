"""How ``auto`` weighs its experts: text by its likelihood on the shots, all experts by stacking on held-out rows.

Letters: n rows, c classes, e experts; Z_e their logits, u_e their units, v_e >= 0 the weights in these units.

    text     min_s  sum_i -log softmax(s Z_text)_(i, y_i)  +  (log s)^2 / 2
    unit     1 for the expert on text, whose scale text gave; 1 / spread(Z) for images
    choice   min_v  sum_i -log softmax(sum_e v_e u_e Z_e)_(i, y_i)  +  (lam / 2) |v - v0|^2
             lam = STRENGTH n (k - 1)^-3 + FLOOR          k rows a class on average

Both problems are convex in s and v but for the small terms in log s. The pull to v0 falls with the shots: at two shots
the experts that are scored learned from half of what the final ones learn from, so their scores mislead, and hardly
any does at eight. Where two encoders look at the images, v0 of each is 1 / sqrt(2) of what it is for one: logits of
unit spread that err independently then have the spread of one expert together.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cafe.methods.base import Array
from cafe.methods.mixture.experts import HeldOutLogits

# v0 of the residual and of images; and of images where there is no text. All constants: docs/auto.md.
CENTRE: Final = (1.0, 1.0)
CENTRE_WITHOUT_TEXT: Final = (3.0,)
STRENGTH: Final = 0.3
FLOOR: Final = 0.3
# Weight of centred class means beside the residual, in units of their spread, where no row can be held out.
ONE_SHOT: Final = 0.5
# The first expert keeps this share of its v0 at least: with no weight at all every class would be as likely.
LEAST: Final = 0.1
# How small and how large a scale of text is tried, as powers of e.
TEXT_SCALES: Final = (-6.0, 3.0)


def likeliest_scale(logits: Array, labels: NDArray[np.int64]) -> float:
    """Return the likeliest factor s of the logits of text (n, c), by the formula in the module's docstring.

    Text never saw the shots, so its likelihood on them is honest at any number of them: where text says nothing, s
    goes to zero.
    """
    from scipy.optimize import minimize_scalar

    def loss(power: float) -> float:
        return float(losses(np.exp(power) * logits, labels).sum() + power**2 / 2)

    return float(np.exp(minimize_scalar(loss, bounds=TEXT_SCALES, method="bounded").x))


def pick_weights(held_out: HeldOutLogits, shots: float) -> tuple[Array, dict[str, Any]]:
    """Choose the weights of the experts; formulas in the module's docstring.

    The images' weight is raised for what its final class means gain on those of a fold: the mean of k rows of variance
    V is off by V / k, so distances from it look (1 + 1 / k) times as wide, and the best weight is as k / (k + 1).

    Parameters
    ----------
    held_out : HeldOutLogits
        Logits of the experts on rows that they were not fitted on.
    shots : float
        Rows a class, on average.

    Returns
    -------
    tuple of ndarray of shape (e,) and dict
        Weights of the experts' logits; and what the choice rested on, as JSON.
    """
    y, with_text = held_out.labels, held_out.text is not None
    n_images = len(held_out.logits) - with_text
    scale = np.ones(len(held_out.logits))  # u of the module's docstring
    for expert in range(-n_images, 0):
        scale[expert] = 1 / positive(spread(held_out.logits[expert], y))
    strength = STRENGTH * len(y) * max(shots - 1, 0.5) ** -3 + FLOOR
    (*of_text, of_images) = CENTRE if with_text else CENTRE_WITHOUT_TEXT
    centre = np.array([*of_text, *[of_images / math.sqrt(n_images)] * n_images])
    weights = scale * stack(held_out.logits * scale[:, None, None], y, centre, strength)
    chosen = np.tensordot(weights, held_out.logits, 1)
    evidence = {"held_out": len(y), "accuracy": accuracy(chosen, y), "loss": float(losses(chosen, y).mean())}
    if held_out.text is not None:
        evidence["zero_shot_accuracy"] = accuracy(held_out.text, y)
        evidence["zero_shot_loss"] = float(losses(held_out.text, y).mean())
    k, kept = held_out.rows_of_class, held_out.kept_of_class
    weights[-n_images:] *= k / (k + 1) * (kept + 1) / kept
    return weights, evidence


def weight_without_evidence(logits: Array, labels: NDArray[np.int64], with_text: bool, n_images: int = 1) -> float:
    """Return the weight of an encoder's model of images from its logits (n, c) on its own rows, none of them held out.

    ``n_images`` is the number of such models.
    """
    return (ONE_SHOT if with_text else CENTRE_WITHOUT_TEXT[0]) / math.sqrt(n_images) / positive(spread(logits, labels))


def spread(logits: Array, labels: NDArray[np.int64]) -> float:
    """Return the standard deviation of logits (n, c) about their row's mean, over classes that are not the row's own.

    A model knows the rows that it was fitted on by heart, so their own class says nothing about others.
    """
    centred = logits - logits.mean(axis=1, keepdims=True)
    centred[np.arange(len(labels)), labels] = 0
    return float(np.sqrt(np.square(centred).sum() / max(1, centred.size - len(labels))))


def positive(value: float) -> float:
    """Return a spread, or infinity for one that is zero: logits without any get no weight."""
    return value if value > np.finfo(np.float32).tiny else np.inf


def stack(logits: Array, labels: NDArray[np.int64], centre: Array, strength: float) -> Array:
    """Minimise the held-out loss over weights that are not negative, and the first not zero.

    The formula stands in the module's docstring.
    With p the softmax of the mixture, the derivative in v_e is sum_i (p_i - onehot_i) . Z_ei + strength (v_e - v0_e).
    """
    from scipy.optimize import minimize

    rows = np.arange(len(labels))
    experts = logits - logits.mean(axis=2, keepdims=True)  # a constant added to a row's logits changes nothing

    def loss(v: Array) -> tuple[float, Array]:
        z = np.tensordot(v, experts, 1)
        z -= z.max(axis=1, keepdims=True)
        own = z[rows, labels]
        p = np.exp(z, out=z)
        totals = p.sum(axis=1)
        p /= totals[:, None]
        p[rows, labels] -= 1
        away = v - centre
        value = float(np.sum(np.log(totals) - own)) + strength * float(away @ away) / 2
        return value, np.array([float(np.vdot(p, expert)) for expert in experts]) + strength * away

    bounds = [(LEAST * centre[0], None)] + [(0, None)] * (len(centre) - 1)
    weights: Array = minimize(loss, centre, jac=True, bounds=bounds, method="L-BFGS-B").x
    return weights


def losses(logits: Array, labels: NDArray[np.int64]) -> Array:
    """Return -log p(label) of every row, (n,)."""
    top = logits.max(axis=1)
    own = logits[np.arange(len(labels)), labels]
    values: Array = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - own
    return values


def accuracy(logits: Array, labels: NDArray[np.int64]) -> float:
    """Return the share of rows whose largest logit is their label's."""
    return float(np.mean(logits.argmax(axis=1) == labels))
