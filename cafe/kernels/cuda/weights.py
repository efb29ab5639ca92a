"""Launch 6: dW2 = H^T dA and dW1 = x^T dH, each tile followed by its update where it is; and the mean loss.

The updates are those of optimizers.py. Both products read what earlier launches made and no weights, so weights are
updated in place while other programs still multiply; the copies that products in 16 bits read are written beside them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cafe.kernels.cuda.optimizers import update
from cafe.kernels.cuda.products import places_of


@triton.jit  # type: ignore[untyped-decorator]
def weights_kernel(  # type: ignore[no-untyped-def]
    x, batch, hidden, da, dh, down, down_m, down_v, down_narrow, up, up_m, up_v, up_narrow,
    losses, tail, share, rates, decay, corrections, now, g, n, b, d, h, eps,
    GATHER: tl.constexpr, LOSSES: tl.constexpr, OPTIMIZER: tl.constexpr, NARROW: tl.constexpr,
    B1: tl.constexpr, B2: tl.constexpr, MOMENTUM: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Tiles of W2 (h, d), then tiles of W1 (d, h), one after the other along the grid's first axis."""
    tile, fit = tl.program_id(0), tl.program_id(1).to(tl.int64)
    across = tl.cdiv(d, BN)
    tiles = tl.cdiv(h, BM) * across
    total = tl.zeros((BM, BN), dtype=tl.float32)
    if tile < tiles:
        i, j = (tile // across) * BM + tl.arange(0, BM), (tile % across) * BN + tl.arange(0, BN)
        for start in range(0, n, BK):
            r = start + tl.arange(0, BK)
            left = tl.load(
                hidden + fit * n * h + r[None, :] * h + i[:, None],
                mask=(i[:, None] < h) & (r[None, :] < n),
                other=0.0,
            )
            right = tl.load(
                da + fit * n * d + r[:, None] * d + j[None, :], mask=(r[:, None] < n) & (j[None, :] < d), other=0.0
            )
            total = tl.dot(left, right, total, input_precision=PRECISION)
        # Whose matrix it is goes into the pointers: a place of 64 bits for each number would take too many registers.
        own = fit * h * d
        update(
            total, up + own, up_m + own, up_v + own, up_narrow + own, i[:, None] * d + j[None, :],
            (i[:, None] < h) & (j[None, :] < d), fit, rates, decay, corrections, now, g, eps,
            OPTIMIZER, NARROW, B1, B2, MOMENTUM,
        )  # fmt: skip
    else:
        along = tl.cdiv(h, BN)
        i, j = ((tile - tiles) // along) * BM + tl.arange(0, BM), ((tile - tiles) % along) * BN + tl.arange(0, BN)
        for start in range(0, n, BK):
            r = start + tl.arange(0, BK)
            place = places_of(batch, fit, r, n, GATHER)
            left = tl.load(x + place[None, :] * d + i[:, None], mask=(i[:, None] < d) & (r[None, :] < n), other=0.0)
            right = tl.load(
                dh + fit * n * h + r[:, None] * h + j[None, :], mask=(r[:, None] < n) & (j[None, :] < h), other=0.0
            )
            total = tl.dot(left, right, total, input_precision=PRECISION)
        own = fit * d * h
        update(
            total, down + own, down_m + own, down_v + own, down_narrow + own, i[:, None] * h + j[None, :],
            (i[:, None] < d) & (j[None, :] < h), fit, rates, decay, corrections, now, g, eps,
            OPTIMIZER, NARROW, B1, B2, MOMENTUM,
        )  # fmt: skip
    if LOSSES and tile == 0:
        sums = tl.zeros((BK,), dtype=tl.float32)
        for start in range(0, b, BK):
            r = start + tl.arange(0, BK)
            sums += tl.load(losses + fit * b + r, mask=r < b, other=0.0)
        mean = tl.sum(sums, axis=0) / b
        if OPTIMIZER == "none":
            tl.store(tail + fit, mean)
        else:
            tl.store(tail + fit, tl.load(tail + fit) + mean * tl.load(share + tl.load(now)))
