"""StatA's solver: a Gaussian mixture over a batch, whose classes are anchored to their text.

Letters: n rows of the batch, d width, c classes. Iterates are float64, NumPy arrays on a CPU and tensors on a
device.

The solver minimises in turn, over assignments z (n, c), means mu (c, d) and diagonal variances v (c, d):

    - sum_ic z_ic log N(x_i; mu_c, v_c) / 50  -  sum_ij w_ij z_i . z_j / 2  +  sum_i KL( z_i | y_i )
    + alpha sum_c KL( N(t_c, V) | N(mu_c, v_c) )

with y the text's prediction, w the affinities of the nearest rows, t_c the text and V one diagonal variance: that of
the rows about the text, as the text predicts them. For fixed means and variances z is a fixed point of

    z_i  ~  y_i exp( log N(x_i; mu, v) / 50 + sum_j w_ij z_j ),

for fixed z, with n_c the rows of the class, m_c their weighted mean, s_c their variance about mu_c and
beta_c = n_c / (n_c + alpha),

    mu_c = beta_c m_c + (1 - beta_c) t_c        v_c = beta_c s_c + (1 - beta_c) ( V + (mu_c - t_c)^2 ).

A class that no row of the batch looks like keeps its text. n_c counts rows by their best class. The scale 1/50 of
likelihoods of d dimensions against the text is TransCLIP's, on whose mixture this one stands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.arrays import functions, is_tensor
from cafe.compute import threads_for
from cafe.solvers.transductive import INNER, TEMPERATURE, neighbour_matrix, normalised_exp

Array = NDArray[Any]


def solve_anchored(
    rows: Array, text: Array, text_logits: Array, anchor_weight: float, neighbors: int, iterations: int
) -> Array:
    """Assign the rows of a batch to classes: return log z up to a constant in each row, (n, c).

    Parameters
    ----------
    rows : ndarray or Tensor of shape (n, d), float64
        The batch, of unit length. A tensor is computed on its own device.
    text : ndarray of shape (c, d), float64
        Class embeddings, of unit length.
    text_logits : ndarray of shape (n, c)
        Zero-shot logits of the rows.
    anchor_weight : float
        alpha: how many rows of a class weigh as much as its text.
    neighbors : int
        Nearest rows that pull on each row.
    iterations : int
        How often means and variances are computed.

    References
    ----------
    Zanella et al., Realistic Test-Time Adaptation of Vision-Language Models (CVPR 2025, arXiv 2501.03729).

    Examples
    --------
    >>> rows = np.array([[1.0, 0.0], [0.6, 0.8]])
    >>> solve_anchored(rows, np.eye(2), 10 * rows, 1.0, 1, 2).argmax(axis=1).tolist()
    [0, 1]
    """
    n, d = rows.shape
    of = functions(rows)
    log_y = text_logits - of.amax(text_logits, axis=1, keepdims=True)
    log_y -= of.log(of.exp(log_y).sum(axis=1, keepdims=True))
    z, squares = of.exp(log_y), of.square(rows)
    # Opposite rows do not push each other away: affinities are at least 0.
    among = neighbour_matrix(rows[:0], rows, neighbors)[0]
    pull = among.clipped() if is_tensor(rows) else among.maximum(0)
    about_text = squares.sum(axis=0) - 2 * ((z.T @ rows) * text).sum(axis=0) + z.sum(axis=0) @ of.square(text)
    # A batch that lies on its text has no variance; the floor is far below any real one (about 1 / d).
    floor = 1e-8 / d
    anchor = (about_text / n).clip(floor)  # (d,), V
    mu, variance = text, of.broadcast_to(anchor, text.shape)
    log_z: Array = log_y
    with threads_for(n * d * len(text)):
        for iteration in range(iterations + 1):
            likelihood = -0.5 * (
                squares @ (1 / variance).T
                - 2 * rows @ (mu / variance).T
                + (of.square(mu) / variance + of.log(variance)).sum(axis=1)
            )
            for _ in range(INNER):
                log_z = log_y + likelihood / TEMPERATURE + pull @ z
                z = normalised_exp(log_z)
            if iteration < iterations:
                mu, variance = _means_and_variances(z, rows, squares, text, anchor, anchor_weight)
                variance = variance.clip(floor)
    return log_z


def _means_and_variances(
    z: Array, rows: Array, squares: Array, text: Array, anchor: Array, anchor_weight: float
) -> tuple[Array, Array]:
    """Return mu and v (c, d) for fixed assignments; formulas in the module's docstring.

    Parameters
    ----------
    z : array of shape (n, c)
        Assignments.
    rows, squares : array of shape (n, d)
        The batch, and the squares of its numbers.
    text : array of shape (c, d)
        Class embeddings.
    anchor : array of shape (d,)
        V, the variance of the text.
    anchor_weight : float
        alpha.
    """
    square = functions(z).square
    if is_tensor(z):
        best = z.argmax(axis=1)
        # A histogram without atomic additions, whose length is known.
        counts = (best[:, None] == functions(z).arange(len(text), device=z.device)).sum(axis=0).to(z.dtype)
    else:
        counts = np.bincount(z.argmax(axis=1), minlength=len(text))
    beta = (counts / (counts + anchor_weight))[:, None]
    weights = z / z.sum(axis=0).clip(np.finfo(np.float64).tiny)  # columns of sum 1
    means, second = weights.T @ rows, weights.T @ squares
    mu = beta * means + (1 - beta) * text
    spread = second - 2 * mu * means + square(mu)
    return mu, beta * spread + (1 - beta) * (anchor + square(mu - text))
