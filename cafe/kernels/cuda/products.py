"""What the kernels share: one tile of a product, where rows start, lengths and log-sum-exps from their parts.

A row's length and log-sum-exp are sums over a whole row, of which a program has a tile. Each leaves its part in memory,
and every program of the next launch adds up the parts of its rows, always in the same order.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A logit whose exp is 0, and which times 0 is still 0: that of the classes which fill a row of logits up to a multiple
# of ALIGNED, so that rows are read in pieces of 16 bytes whatever the number of classes.
FAR: tl.constexpr = tl.constexpr(-1e30)
ALIGNED = 16


@triton.jit  # type: ignore[untyped-decorator]
def product_tile(  # type: ignore[no-untyped-def]
    a, b, rows, columns, m, n, depth, a_step, b_step, b_column,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Return a tile (BM, BN) of a b in float32; ``a`` points at each of the rows, strides are in numbers."""
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, depth, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(a[:, None] + k[None, :] * a_step, mask=(rows[:, None] < m) & (k[None, :] < depth), other=0.0)
        right = tl.load(
            b + k[:, None] * b_step + columns[None, :] * b_column,
            mask=(k[:, None] < depth) & (columns[None, :] < n),
            other=0.0,
        )
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total


@triton.jit  # type: ignore[untyped-decorator]
def places_of(batch, fit, rows, n, GATHER: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return which rows of memory ``rows`` are: those of the batch where GATHER, else themselves."""
    if GATHER:
        return tl.load(batch + fit * n + rows, mask=rows < n, other=0)
    return rows.to(tl.int64)


@triton.jit  # type: ignore[untyped-decorator]
def reciprocal_length(squares, places, inside, stride, parts, POWER: tl.constexpr):  # type: ignore[no-untyped-def]
    """1 / |q| of rows from the parts of |q|^2; 0 for a row of zeros, NaN for one of NaN."""
    p = tl.arange(0, POWER)
    of_parts = tl.load(
        squares + p[:, None] * stride + places[None, :], mask=(p[:, None] < parts) & inside[None, :], other=0.0
    )
    total = tl.sum(of_parts, axis=0)
    return tl.where(total == 0, 0.0, 1 / tl.sqrt(tl.where(total == 0, 1.0, total)))


@triton.jit  # type: ignore[untyped-decorator]
def log_sum_exp(highest, sums, rows, b, parts, POWER: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return logsumexp of rows from the highest logit and the sum of exp(logit - highest) of each part.

    Parts pass a few at a time: 625 of them, of 20,000 classes, would need more shared memory than any card has.
    """
    STEP: tl.constexpr = POWER if POWER < 16 else 16
    top = tl.where(rows < b, float("-inf"), 0.0)
    total = tl.where(rows < b, 0.0, 1.0)
    for first in range(0, parts, STEP):
        p = first + tl.arange(0, STEP)
        inside = (p[:, None] < parts) & (rows[None, :] < b)
        place = p[:, None] * b + rows[None, :]
        high = tl.load(highest + place, mask=inside, other=float("-inf"))
        higher = tl.maximum(top, tl.max(high, axis=0))
        parts_sum = tl.sum(tl.load(sums + place, mask=inside, other=0.0) * tl.exp(high - higher[None, :]), axis=0)
        total = total * tl.exp(top - higher) + parts_sum
        top = higher
    return top + tl.log(total)
