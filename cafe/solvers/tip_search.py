"""Tip-Adapter's search over alpha and beta without recomputing what does not change.

    logits_c = base_c + alpha V_c(beta),    V_c(beta) = sum of exp(-beta (1 - a_i)) over the keys i of class c

The affinities a = keys queries^T are computed once. The values are one-hot, so V is a segment sum over keys sorted
by class, not a product with an (n_keys, n_classes) matrix. And alpha needs no pass of its own: query q with label y is
right where

    alpha (V_c - V_y) <= base_y - base_c   for every class c,

which is an interval of alpha, so one pass over V gives the accuracy at every alpha:

    low = max over V_c < V_y of (base_y - base_c) / (V_c - V_y),    high = min over V_c > V_y of the same,

empty if some V_c = V_y has base_c > base_y. Queries pass in blocks whose affinities stay in cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.solvers.rows import RowSource

# Bytes of one block's affinities.
BLOCK_BYTES = 8 * 2**20
# On a GPU blocks are larger: each costs a few launches, and no cache there holds 8 MiB.
DEVICE_BLOCK_BYTES = 512 * 2**20


def tip_search(
    queries: RowSource,
    labels: NDArray[np.int64],
    keys: Tensor,
    key_labels: NDArray[np.int64],
    text: Tensor,
    logit_scale: float,
    alphas: Sequence[float],
    betas: Sequence[float],
    *,
    channels: NDArray[np.int64] | None = None,
    key_weights: Tensor | None = None,
    correct: NDArray[np.bool_] | None = None,
    block_bytes: int | None = None,
) -> NDArray[np.float64]:
    """Score every pair of alpha and beta on labelled queries.

    Parameters
    ----------
    queries : array of shape (n, d)
        Unit-length rows, in memory or on disk.
    labels : ndarray of shape (n,), int64
        Row of ``text`` that each query belongs to.
    keys : Tensor of shape (k, d)
        Training features sorted by class, of unit length unless trained; their dtype is that of the computation.
    key_labels : ndarray of shape (k,), int64
        Non-decreasing.
    text : Tensor of shape (c, d)
        Unit-length class embeddings.
    logit_scale : float
        Of the zero-shot part.
    alphas, betas : sequence of float
        Values to score; alphas at least 0.
    channels : ndarray of shape (m,), int64, default=None
        Columns of queries that are compared with keys, which are then (k, m); scaled to length one again. None for all.
    key_weights : Tensor of shape (k,), default=None
        By which the vote of each key is multiplied; None for ones.
    correct : ndarray of shape (len(betas), len(alphas), n), bool, default=None
        Filled with which queries each pair gets right.
    block_bytes : int, default=None
        Bytes of one block's affinities; None for ``BLOCK_BYTES`` on a CPU and ``DEVICE_BLOCK_BYTES`` on a GPU. A block
        has 16 queries at least.

    Returns
    -------
    ndarray of shape (len(betas), len(alphas))
        Accuracies, 0 to 1.

    References
    ----------
    Zhang et al., Tip-Adapter (ECCV 2022), equation 5; released utils.py, search_hp. Weights and channels: Zhu et al.,
    APE (ICCV 2023).

    Examples
    --------
    >>> eye = torch.eye(2)
    >>> queries, labels = np.eye(2, dtype=np.float32), np.array([1, 0])
    >>> tip_search(queries, labels, eye, np.array([1, 1]), eye, 1.0, [0, 9], [1]).tolist()
    [[0.0, 0.5]]
    """
    n, c = queries.shape[0], len(text)
    alpha_values = np.asarray(alphas, dtype=np.float64)
    on_cpu = keys.device.type == "cpu"
    owner = torch.as_tensor(key_labels, device=keys.device)
    counts = torch.as_tensor(np.bincount(key_labels, minlength=c), device=keys.device)
    right = torch.zeros(len(betas), len(alpha_values), dtype=torch.float64, device=keys.device)
    alpha_tensor = torch.as_tensor(alpha_values, device=keys.device)
    # It stays on the device until the end, so that the host waits for the device once.
    is_right = None if correct is None else torch.empty(correct.shape, dtype=torch.bool, device=keys.device)
    block_bytes = block_bytes or (BLOCK_BYTES if on_cpu else DEVICE_BLOCK_BYTES)
    size = max(16, min(n, block_bytes // (keys.element_size() * max(len(keys), 2 * c))))
    for start in range(0, n, size):
        rows = queries[start : start + size]
        block = (rows if isinstance(rows, Tensor) else torch.as_tensor(np.asarray(rows))).to(keys).T  # (d, rows)
        y = torch.as_tensor(labels[start : start + size], device=keys.device)[None]  # (1, rows)
        base = logit_scale * (text @ block)  # (c, rows)
        ahead = base.gather(0, y) - base
        if channels is not None:
            block = torch.nn.functional.normalize(block[torch.as_tensor(channels, device=keys.device)], dim=0)
        affinity = keys @ block  # (k, rows)
        near, votes = torch.empty_like(affinity), torch.empty_like(base)
        for i, beta in enumerate(betas):
            torch.sub(affinity, 1, out=near).mul_(beta).exp_()
            if key_weights is not None:
                near.mul_(key_weights[:, None])
            if on_cpu:
                votes.zero_().index_add_(0, owner, near)
            else:  # where additions are atomic, and so in any order
                votes = torch.segment_reduce(near, "sum", lengths=counts, axis=0, unsafe=True)
            low, high = _intervals(votes - votes.gather(0, y), ahead)
            if is_right is not None:
                inside = _inside(low, high, alpha_tensor)
                is_right[i, :, start : start + inside.shape[0]] = inside.T
                right[i] += inside.sum(0)
            elif on_cpu:
                right[i] += _count_by_sorting(low, high, alpha_values)
            else:
                right[i] += _inside(low, high, alpha_tensor).sum(0)
    if correct is not None and is_right is not None:
        correct[...] = is_right.cpu().numpy()
    accuracy: NDArray[np.float64] = right.cpu().numpy() / n
    return accuracy


def _intervals(gain: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interval of alpha, low and high (rows,), in which each row is predicted right.

    A row is predicted right where ``alpha * gain <= ahead`` in every class.

    Parameters
    ----------
    gain : Tensor of shape (c, rows)
        Votes for each class minus the votes for the row's label.
    ahead : Tensor of shape (c, rows)
        Zero-shot logit of the row's label minus the logit of each class.
    """
    bound = ahead / gain  # 0 / 0, for the label itself, is NaN, which neither comparison below takes
    high = torch.where(gain > 0, bound, torch.inf).amin(0)
    low = torch.where(gain < 0, bound, -torch.inf).amax(0)
    never = ((gain == 0) & (ahead < 0)).any(0)
    return torch.where(never, torch.inf, low), high


def _inside(low: Tensor, high: Tensor, alphas: Tensor) -> Tensor:
    """Return whether each row's interval, low to high (rows,), holds each alpha: (rows, alphas)."""
    return (low.double()[:, None] <= alphas) & (alphas <= high.double()[:, None])


def _count_by_sorting(low: Tensor, high: Tensor, alphas: NDArray[np.float64]) -> Tensor:
    """Return how many of the intervals, low to high (rows,), hold each alpha: (alphas,), float64.

    The intervals that began before an alpha, less those that ended before it: on a CPU sorting is faster for many rows
    than comparing each row with each alpha.
    """
    lows, highs = (np.sort(v.double().numpy()) for v in (low[low <= high], high[low <= high]))
    started = np.searchsorted(lows, alphas, side="right")
    ended = np.searchsorted(highs, alphas, side="left")
    return torch.from_numpy((started - ended).astype(np.float64))
