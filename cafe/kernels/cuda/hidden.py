"""Launch 1: H = ReLU(x W1), and the step's own batch put where the later launches find it."""

from __future__ import annotations

import triton
import triton.language as tl

from cafe.kernels.cuda.products import product_tile


@triton.jit  # type: ignore[untyped-decorator]
def hidden_kernel(  # type: ignore[no-untyped-def]
    x, batches, at, done, labels, down, hidden, batch, batch_labels, now, n_batches, n, b, d, h,
    GATHER: tl.constexpr, REMEMBER: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Make H of n rows: those of the batch where GATHER, else the first n of x."""
    fit = tl.program_id(2).to(tl.int64)
    rows, j = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    own = batches + (fit * n_batches + tl.load(at)) * b
    if REMEMBER and (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        # The counters move on in launch 3, while later launches still need what they said.
        for start in range(0, b, BM):
            r = start + tl.arange(0, BM)
            place = tl.load(own + r, mask=r < b, other=0)
            tl.store(batch + fit * b + r, place, mask=r < b)
            tl.store(batch_labels + fit * b + r, tl.load(labels + place, mask=r < b, other=0), mask=r < b)
        if fit == 0:
            tl.store(now, tl.load(done))
    place = rows.to(tl.int64)
    if GATHER:
        place = tl.load(own + rows, mask=rows < n, other=0)
    total = product_tile(x + place * d, down + fit * d * h, rows, j, n, h, d, 1, h, 1, PRECISION, BM, BN, BK)
    inside = (rows[:, None] < n) & (j[None, :] < h)
    kept = tl.maximum(total, 0.0).to(hidden.dtype.element_ty)
    tl.store(hidden + fit * n * h + rows[:, None] * h + j[None, :], kept, mask=inside)
