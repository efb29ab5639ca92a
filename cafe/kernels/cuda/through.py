"""Launch 5: dH = dA W2^T, 0 where H = 0."""

from __future__ import annotations

import triton
import triton.language as tl

from cafe.kernels.cuda.products import product_tile


@triton.jit  # type: ignore[untyped-decorator]
def through_kernel(  # type: ignore[no-untyped-def]
    da, up, hidden, dh, n, d, h,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Make dH of n rows."""
    fit = tl.program_id(2).to(tl.int64)
    rows, j = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    left = da + fit * n * d + rows * d
    total = product_tile(left, up + fit * h * d, rows, j, n, h, d, 1, 1, d, PRECISION, BM, BN, BK)
    inside = (rows[:, None] < n) & (j[None, :] < h)
    spot = fit * n * h + rows[:, None] * h + j[None, :]
    kept = tl.load(hidden + spot, mask=inside, other=0.0)
    tl.store(dh + spot, tl.where(kept == 0, 0.0, total).to(dh.dtype.element_ty), mask=inside)
