"""TransCLIP's solver: assignments of a whole query set by a Gaussian mixture with neighbours and text.

Letters: n queries, s shots, d width, c classes, k neighbours. Iterates are NumPy arrays on a CPU and tensors on a
device, in the queries' dtype.

    z_i   ~ y_i^lambda exp( (1/50) ( l_i + (50 / 2k) ( (W^T z)_i + (W z)_i ) ) )      y text prediction, l_i below
    l_ic  = -1/2 sum_d (x_id - mu_cd)^2 / v_d
    mu_c  ~ (1/n) sum_i z_ic x_i + (50 gamma / s) sum_(shots i of c) x_i              scaled to length one
    v     = ( (1/n) sum_ic z_ic (x_i - mu_c)^2 + (50 gamma / s) sum_(shots i) (x_i - mu_(y_i))^2 ) / (1 + 50 gamma)

W has, for every query and every shot, the affinities of its k nearest queries. Squares are expanded, so that no array
of n x c x d is made, and neighbours are found in blocks, so that no array of n x n is. What is left of two squares that
cancel is known to some epsilons of them, and no variance is taken to be smaller than that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.arrays import functions, index_like, is_tensor, like, numpy_dtype, one_hot, relu, sums_by_class
from cafe.compute import leave_if_given_up

Array = NDArray[Any]

# The released constants: inner iterations, scale of affinities against likelihoods, confident queries per class.
INNER, TEMPERATURE, CONFIDENT = 5, 50.0, 8
# Rows whose affinities with all queries are in memory at once: 1024 x 50,000 in float32 are 200 MB.
BLOCK_ROWS = 1024


def neighbours(
    rows: Array, queries: Array, k: int, skip_self: bool, block_rows: int = BLOCK_ROWS
) -> tuple[NDArray[np.int64], Array]:
    """Return the indices, and the affinities, of the k nearest queries of each row, both (r, k).

    Parameters
    ----------
    rows : ndarray or Tensor of shape (r, d)
        Of unit length.
    queries : ndarray or Tensor of shape (n, d)
        Of unit length.
    k : int
        Fewer are returned where there are fewer queries.
    skip_self : bool
        Whether the rows are the queries themselves, of which none is its own neighbour.
    block_rows : int, default=1024
        Rows that are compared at once.

    Examples
    --------
    >>> indices, affinities = neighbours(np.eye(2), np.array([[1.0, 0.0], [0.6, 0.8]]), 1, False)
    >>> indices.tolist(), affinities.tolist()
    ([[0], [1]], [[1.0], [0.8]])
    """
    n = len(queries)
    k = min(k, n - 1 if skip_self else n)
    if is_tensor(rows):
        return _neighbours_on_device(rows, queries, k, skip_self, block_rows)
    nearest = np.zeros((len(rows), k), dtype=np.int64)
    for start in range(0, len(rows), block_rows):
        affinity = rows[start : start + block_rows] @ queries.T
        if skip_self:
            own = np.arange(len(affinity))
            affinity[own, start + own] = -np.inf
        nearest[start : start + block_rows] = np.argpartition(-affinity, k - 1, axis=1)[:, :k] if k else 0
    return nearest, np.einsum("rkd,rd->rk", queries[nearest], rows)


def _neighbours_on_device(rows: Any, queries: Any, k: int, skip_self: bool, block_rows: int) -> tuple[Any, Any]:
    """Return the indices, and the affinities, of the k nearest queries of each row, both (r, k), on the rows' device.

    The arguments are those of :func:`neighbours`, as tensors; k is at most the number of neighbours that a row has.
    """
    torch = functions(rows)
    columns, values = [], []
    for start in range(0, len(rows), block_rows):
        affinity = rows[start : start + block_rows] @ queries.T
        if skip_self:
            affinity.diagonal(start).fill_(-torch.inf)
        nearest = affinity.topk(k, dim=1)
        columns.append(nearest.indices)
        values.append(nearest.values)
    if not columns:
        return torch.empty(0, k, dtype=torch.int64, device=rows.device), rows.new_empty(0, k)
    return torch.cat(columns), torch.cat(values)


class NeighboursOnDevice:
    """The sparse matrix W (rows, n) on a GPU, and its products, whose sums are always added in the same order.

    Parameters
    ----------
    columns, values : Tensor of shape (rows, k)
        Numbers of the k queries that are nearest to each row, and their affinities.
    n : int
        Number of queries.
    """

    # Numbers that a product with the transpose may hold at once.
    MOST = 2**26

    def __init__(self, columns: Any, values: Any, n: int) -> None:
        self.columns, self.values = columns, values
        flat = columns.reshape(-1)
        order = flat.argsort(stable=True)
        self.owner, self.weight = order // max(1, columns.shape[1]), values.reshape(-1)[order][:, None]
        ends = functions(flat).searchsorted(flat[order], functions(flat).arange(n + 1, device=flat.device))
        self.lengths = ends.diff()

    def with_transposed(self, z: Any) -> Any:
        """Return (W^T + W) z, (n, c), of a square W."""
        return self.transposed(z) + self @ z

    def clipped(self) -> NeighboursOnDevice:
        """Return W with negative affinities set to 0."""
        return NeighboursOnDevice(self.columns, relu(self.values), len(self.lengths))

    def __matmul__(self, z: Any) -> Any:
        """Return W z, (rows, c)."""
        total = z.new_zeros(len(self.columns), z.shape[1])
        for j in range(self.columns.shape[1]):
            total += self.values[:, j, None] * z[self.columns[:, j]]
        return total

    def transposed(self, z: Any) -> Any:
        """Return W^T z, (n, c), of z (rows, c)."""
        width = max(1, self.MOST // max(1, len(self.owner)))
        parts = [
            functions(z).segment_reduce(
                self.weight * z[:, start : start + width][self.owner], "sum", lengths=self.lengths, axis=0, unsafe=True
            )
            for start in range(0, z.shape[1], width)
        ]
        return functions(z).cat(parts, 1)


def transposed_product(matrix: Any, z: Any) -> Any:
    """Return W^T z (n, c) for z (rows, c) and W, a sparse matrix or :class:`NeighboursOnDevice`."""
    return matrix.transposed(z) if isinstance(matrix, NeighboursOnDevice) else matrix.T @ z


def neighbour_matrix(shots: Array, queries: Array, k: int) -> tuple[Any, Any]:
    """Return two sparse matrices of affinities: among queries (n, n), and of shots with queries (s, n)."""
    if is_tensor(queries):
        of_queries, of_shots = (
            neighbours(rows, queries, k, skip_self) for rows, skip_self in ((queries, True), (shots, False))
        )
        return NeighboursOnDevice(*of_queries, len(queries)), NeighboursOnDevice(*of_shots, len(queries))
    from scipy.sparse import csr_array

    parts = []
    for rows, skip_self in ((queries, True), (shots, False)):
        columns, values = neighbours(rows, queries, k, skip_self)
        ends = np.arange(0, columns.size + 1, max(1, columns.shape[1]))[: len(rows) + 1]
        if columns.shape[1] == 0:
            ends = np.zeros(len(rows) + 1, dtype=np.int64)
        parts.append(csr_array((values.ravel(), columns.ravel(), ends), shape=(len(rows), len(queries))))
    return parts[0], parts[1]


def normalised_exp(scores: Array, out: Array | None = None) -> Array:
    """Return the softmax of scores (n, c) over classes, in the memory of ``out`` where it is given and an ndarray."""
    of = functions(scores)
    if out is None or is_tensor(out):
        shifted = scores - of.amax(scores, axis=1, keepdims=True)
    else:
        shifted = np.subtract(scores, scores.max(axis=1, keepdims=True), out=out)
    z: Array = of.exp(shifted, out=shifted)
    z /= z.sum(axis=1, keepdims=True)
    return z


def _unit_means(x: Array) -> Array:
    """Return means (c, d) scaled to length one; means of zeros stay zeros."""
    tiny = float(np.finfo(numpy_dtype(x)).tiny)
    scaled: Array
    if is_tensor(x):
        scaled = x / x.norm(dim=-1, keepdim=True).clamp_min(tiny)
    else:
        scaled = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), tiny)
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
    """Assign queries to classes: return log z up to a constant in each row, (n, c).

    Parameters
    ----------
    queries, shots : ndarray or Tensor of shape (n, d) and (s, d), float32 or float64
        Of unit length. Tensors are computed on their own device.
    text_logits : ndarray or Tensor of shape (n, c)
        Zero-shot logits of the queries, in their dtype.
    labels : ndarray of shape (s,), int64
        Class rows of the shots.
    gamma : float
        Weight of a shot against a query; 0 leaves shots out.
    text_weight : float
        lambda, the weight of the text prediction.
    k : int
        Nearest queries that pull on each query and on each shot.
    iterations : int
        How often means and variances are computed.
    """
    n, d = queries.shape
    c = text_logits.shape[1]
    of = functions(queries)
    log_y = text_logits - of.amax(text_logits, axis=1, keepdims=True)
    log_y -= of.log(of.exp(log_y).sum(axis=1, keepdims=True))
    used = len(shots) if gamma > 0 else 0
    shots, labels = shots[:used], labels[:used]
    query_affinities, shot_affinities = neighbour_matrix(shots, queries, k)
    onehot = one_hot(labels, c, queries)
    shot_weight = TEMPERATURE * gamma / max(1, used)
    shot_votes = transposed_product(shot_affinities, onehot)
    # What the shots add to every class's weight, and to the sums of rows and of their squares, is always the same.
    shots_per_class = shot_weight * onehot.sum(axis=0)
    shot_sums = shot_weight * sums_by_class(shots, labels, c)
    query_squares = of.square(queries)
    squares = query_squares.sum(axis=0) / n + shot_weight * of.square(shots).sum(axis=0)
    # Rows of a single point have no variance; the floor is far below any real one (about 1 / d).
    limits = np.finfo(numpy_dtype(queries))
    floor = 1e-8 / d + 4 * float(limits.eps) * squares / (1 + shot_weight * used)

    z = of.exp(log_y)
    # W^T z + W z. Of a sparse matrix the sum with its transpose is made once: half the products.
    if isinstance(query_affinities, NeighboursOnDevice):
        times_both = query_affinities.with_transposed
    else:
        times_both = (query_affinities + query_affinities.T).tocsr().__matmul__
    mu = starting_means(z, queries, shots, labels)
    variance = like(np.full(d, 1.0 / d), queries)
    log_z: Array = log_y
    for iteration in range(iterations + 1):
        leave_if_given_up()
        likelihood = -0.5 * (
            query_squares @ (1 / variance)[:, None] - 2 * queries @ (mu / variance).T + of.square(mu) @ (1 / variance)
        )
        # The terms that stay the same while only assignments change.
        fixed_terms = text_weight * log_y + likelihood / TEMPERATURE + shot_votes / (2 * k)
        for _ in range(INNER):
            log_z = times_both(z)
            log_z /= 2 * k
            log_z += fixed_terms
            z = normalised_exp(log_z, out=z)
        if iteration == iterations:
            break
        per_class = z.sum(axis=0) / n + shots_per_class
        sums = z.T @ queries / n + shot_sums
        mu = _unit_means(sums / per_class.clip(float(limits.tiny))[:, None])
        variance = squares - 2 * (mu * sums).sum(axis=0) + per_class @ of.square(mu)
        variance = of.maximum(variance / (1 + shot_weight * used), floor)
    return log_z


def starting_means(z: Array, queries: Array, shots: Array, labels: NDArray[np.int64]) -> Array:
    """Return the first mu (c, d): means of shots; for a class without a shot, of its most confident queries.

    Parameters
    ----------
    z : array of shape (n, c)
        Zero-shot probabilities of the queries.
    queries, shots : array of shape (n, d) and (s, d)
        Of unit length.
    labels : ndarray of shape (s,), int64
        Class rows of the shots.
    """
    mu = sums_by_class(shots, labels, z.shape[1])
    missing = np.setdiff1d(np.arange(z.shape[1]), labels)
    if is_tensor(z):
        if len(missing):
            columns = index_like(missing, z)
            best = z[:, columns].topk(min(CONFIDENT, len(z)), dim=0)  # (8, missing)
            mu[columns] = (best.values[..., None] * queries[best.indices]).sum(0)
        return _unit_means(mu)
    for row in missing:
        best = np.argsort(-z[:, row], kind="stable")[:CONFIDENT]
        mu[row] = z[best, row] @ queries[best]
    means: Array = _unit_means(mu)
    return means
