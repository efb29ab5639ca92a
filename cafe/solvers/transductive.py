"""TransCLIP's solver: assignments of a whole query set by a Gaussian mixture with neighbours and text.

Letters: n queries, s shots, d width, c classes, k neighbours. Iterates are float64 on the CPU.

    z_i   ~ y_i^lambda exp( (1/50) ( l_i + (50 / 2k) ( (W^T z)_i + (W z)_i ) ) )      y text prediction, l_i below
    l_ic  = -1/2 sum_d (x_id - mu_cd)^2 / v_d
    mu_c  ~ (1/n) sum_i z_ic x_i + (50 gamma / s) sum_(shots i of c) x_i              scaled to length one
    v     = ( (1/n) sum_ic z_ic (x_i - mu_c)^2 + (50 gamma / s) sum_(shots i) (x_i - mu_(y_i))^2 ) / (1 + 50 gamma)

W has, for every query and every shot, the affinities of its k nearest queries. Squares are expanded, so that no array
of n x c x d is made, and neighbours are found in blocks, so that no array of n x n is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# The released constants: inner iterations, scale of affinities against likelihoods, confident queries per class.
INNER, TEMPERATURE, CONFIDENT = 5, 50.0, 8
# Queries whose affinities are held at once: 1024 x 50,000 in float32 are 200 MB.
BLOCK = 1024


def neighbours(rows: Array, queries: Array, k: int, skip_self: bool) -> tuple[NDArray[np.int64], Array]:
    """Return the indices (rows, k) and affinities of each row's k nearest queries; block by block."""
    n = len(queries)
    k = min(k, n - 1 if skip_self else n)
    found = np.zeros((len(rows), k), dtype=np.int64)
    for start in range(0, len(rows), BLOCK):
        affinity = rows[start : start + BLOCK] @ queries.T
        if skip_self:
            own = np.arange(len(affinity))
            affinity[own, start + own] = -np.inf
        found[start : start + BLOCK] = np.argpartition(-affinity, k - 1, axis=1)[:, :k] if k else 0
    return found, np.einsum("rkd,rd->rk", queries[found], rows)


def neighbour_matrix(shots: Array, queries: Array, k: int) -> tuple[object, object]:
    """Return W among queries (n, n) and from shots to queries (s, n), sparse."""
    from scipy.sparse import csr_array

    parts = []
    for rows, skip_self in ((queries, True), (shots, False)):
        columns, values = neighbours(rows, queries, k, skip_self)
        ends = np.arange(0, columns.size + 1, max(1, columns.shape[1]))[: len(rows) + 1]
        if columns.shape[1] == 0:
            ends = np.zeros(len(rows) + 1, dtype=np.int64)
        parts.append(csr_array((values.ravel(), columns.ravel(), ends), shape=(len(rows), len(queries))))
    return parts[0], parts[1]


def normalised_exp(scores: Array) -> Array:
    """Return softmax along the last axis."""
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    z: Array = scores / scores.sum(axis=1, keepdims=True)
    return z


def unit(x: Array) -> Array:
    """Scale rows to length one; rows of zeros stay zeros."""
    scaled: Array = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    return scaled


def solve(
    queries: Array,
    text_logits: Array,
    shots: Array,
    labels: NDArray[np.int64],
    gamma: float,
    text_weight: float,
    k: int,
    iterations: int,
) -> Array:
    """Return log z, (n, c).

    Parameters
    ----------
    queries, shots : ndarray of shape (n, d) and (s, d), float64
        Unit length.
    text_logits : ndarray of shape (n, c)
        Zero-shot logits of the queries.
    labels : ndarray of shape (s,), int64
        Class rows of the shots.
    gamma : float
        Weight of a shot against a query; 0 leaves shots out.
    text_weight : float
        lambda.
    k : int
        Neighbours.
    iterations : int
        Outer ones.
    """
    n, d = queries.shape
    c = text_logits.shape[1]
    log_y = text_logits - text_logits.max(axis=1, keepdims=True)
    log_y -= np.log(np.exp(log_y).sum(axis=1, keepdims=True))
    used = len(shots) if gamma > 0 else 0
    shots, labels = shots[:used], labels[:used]
    among, from_shots = neighbour_matrix(shots, queries, k)
    onehot = np.zeros((used, c))
    onehot[np.arange(used), labels] = 1
    shot_weight = TEMPERATURE * gamma / max(1, used)
    from_shots_z = from_shots.T @ onehot  # type: ignore[attr-defined]

    z = np.exp(log_y)
    mu = starting_means(z, queries, shots, labels)
    variance = np.full(d, 1.0 / d)
    log_z: Array = log_y
    for iteration in range(iterations + 1):
        likelihood = -0.5 * (
            np.square(queries) @ (1 / variance)[:, None]
            - 2 * queries @ (mu / variance).T
            + np.square(mu) @ (1 / variance)
        )
        for _ in range(INNER):
            pull = among.T @ z + among @ z + from_shots_z  # type: ignore[attr-defined]
            log_z = text_weight * log_y + (likelihood + TEMPERATURE / (2 * k) * pull) / TEMPERATURE
            z = normalised_exp(log_z)
        if iteration == iterations:
            break
        per_class = z.sum(axis=0) / n + shot_weight * onehot.sum(axis=0)
        sums = z.T @ queries / n + shot_weight * onehot.T @ shots
        mu = unit(sums / np.maximum(per_class, np.finfo(np.float64).tiny)[:, None])
        squares = np.square(queries).sum(axis=0) / n + shot_weight * np.square(shots).sum(axis=0)
        variance = squares - 2 * (mu * sums).sum(axis=0) + per_class @ np.square(mu)
        # Rows of a single point have no variance; the floor is far below any real one (about 1 / d).
        variance = np.maximum(variance / (1 + shot_weight * used), 1e-8 / d)
    return log_z


def starting_means(z: Array, queries: Array, shots: Array, labels: NDArray[np.int64]) -> Array:
    """Return mu (c, d): means of the shots, or of the most confident queries for classes without one."""
    mu = np.zeros((z.shape[1], queries.shape[1]))
    np.add.at(mu, labels, shots)
    for row in np.setdiff1d(np.arange(z.shape[1]), labels):
        best = np.argsort(-z[:, row], kind="stable")[:CONFIDENT]
        mu[row] = z[best, row] @ queries[best]
    found: Array = unit(mu)
    return found
