"""How ``auto`` weighs its experts: stacking on held-out rows, shrunk to an equal mixture where the rows are few.

Letters: n held-out rows, c classes, e experts; Z_e their logits, u_e their units, v_e >= 0 the weights in these units,
and k the shots of a class.

    unit     u_e = spread(Z_text) / spread(Z_e)          spread over the logits of other classes than the row's own
    choice   min_v  sum_i -log softmax(sum_e v_e u_e Z_e)_(i, y_i)  +  (n / 2) (k - 1)^-3 |v - v0|^2

It is convex in v. v0 is the same share for every expert. The strength per row falls with the shots: at two shots
the experts that are scored learned from half of what the final ones learn from, so their scores mislead, and hardly
any does at eight.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cafe.methods.base import Array
from cafe.methods.mixture.experts import EXPERTS, HeldOut

# Of a mixture that is shrunk to: text, residual, Gaussians within classes and about the mean of all rows.
CENTRE: Final = (1 / 3, 1 / 3, 1 / 3, 1 / 3)
# Where a class has a single row there is nothing to hold out, and no covariance within classes.
ONE_SHOT: Final = (0.4, 0.6, 0.0, 0.2)
ONE_SHOT_WITHOUT_TEXT: Final = (0.4, 0.4, 0.0, 0.1)
# Below so many shots a fold's class means are so much worse than the final ones that they say nothing about scale.
SHOTS_FOR_SCALE: Final = 3.0


def one_shot_mixture(logits: Array, labels: NDArray[np.int64], with_text: bool) -> Array:
    """Return the weights (e,) without evidence, from the experts' logits (e, n, c) on the shots themselves."""
    mixture: Array = np.array(ONE_SHOT if with_text else ONE_SHOT_WITHOUT_TEXT) * units(logits, labels)
    return mixture


def pick_mixture(scores: HeldOut, with_text: bool) -> tuple[Array, dict[str, Any]]:
    """Choose the weights of the experts; formulas in the module's docstring.

    A mixture that is less accurate than zero-shot on the held-out rows, by more than a paired standard error, is not
    taken: zero-shot is.

    Returns
    -------
    tuple of ndarray of shape (e,) and dict
        The dict says what the choice rested on, as JSON.
    """
    unit, y = units(scores.logits, scores.labels), scores.labels
    strength = len(y) / (scores.shots - 1) ** 3
    shares = stack(scores.logits * unit[:, None, None], y, np.array(CENTRE), strength)
    if not with_text and scores.shots < SHOTS_FOR_SCALE:
        shares /= shares.sum()
    mixture = shares * unit
    before, after = (np.argmax(z, axis=1) == y for z in (scores.logits[0], np.tensordot(mixture, scores.logits, 1)))
    gain = after.astype(float) - before
    if gain.mean() < -gain.std() / np.sqrt(len(y)):
        mixture = np.eye(len(EXPERTS))[0]
    chosen = np.tensordot(mixture, scores.logits, 1)
    return mixture, {
        "held_out": len(y),
        "accuracy": float(np.mean(chosen.argmax(axis=1) == y)),
        "loss": float(losses(chosen, y).mean()),
        "zero_shot_accuracy": float(before.mean()),
        "zero_shot_loss": float(losses(scores.logits[0], y).mean()),
    }


def units(logits: Array, labels: NDArray[np.int64]) -> Array:
    """Return by what to multiply each expert so that it spreads as the first one does, (e,); 0 for one that is zero.

    The row's own class is left out: an expert knows the rows that it was fitted on by heart.
    """
    others = np.ones(logits.shape[1:], dtype=bool)
    others[np.arange(len(labels)), labels] = False
    centred = (one - one.mean(axis=1, keepdims=True) for one in logits)
    spreads = np.array([float(np.sqrt(np.square(one, where=others, out=np.zeros_like(one)).mean())) for one in centred])
    found: Array = np.divide(spreads[0], spreads, out=np.zeros(len(spreads)), where=spreads > 0)
    return found


def stack(logits: Array, labels: NDArray[np.int64], centre: Array, strength: float) -> Array:
    """Minimise the held-out loss over weights that are not negative; formula in the module's docstring.

    With p the softmax of the mixture, the derivative in v_e is sum_i (p_i - onehot_i) . Z_ei + strength (v_e - v0_e).
    """
    from scipy.optimize import minimize

    rows = np.arange(len(labels))
    # A constant added to a row's logits changes nothing; small numbers keep float32 exact enough.
    experts = logits - logits.mean(axis=2, keepdims=True)

    def loss(v: Array) -> tuple[float, Array]:
        z = np.tensordot(v.astype(experts.dtype), experts, 1)
        z -= z.max(axis=1, keepdims=True)
        own = z[rows, labels].astype(np.float64)
        p = np.exp(z, out=z)
        totals = p.sum(axis=1)
        p /= totals[:, None]
        p[rows, labels] -= 1
        away = v - centre
        value = float(np.sum(np.log(totals) - own)) + strength * float(away @ away) / 2
        return value, np.array([float(np.vdot(p, one)) for one in experts]) + strength * away

    found = minimize(loss, centre, jac=True, bounds=[(0, None)] * len(centre), method="L-BFGS-B")
    weights: Array = found.x
    return weights


def losses(logits: Array, labels: NDArray[np.int64]) -> Array:
    """Return -log p(label) of every row, (n,)."""
    top = logits.max(axis=1)
    own = logits[np.arange(len(labels)), labels]
    found: Array = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - own
    return found
