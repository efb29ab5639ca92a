"""Launch 2: A = H W2 ("released": ReLU of it), q = ratio A + (1 - ratio) x, and parts of |q|^2."""

from __future__ import annotations

import triton
import triton.language as tl

from cafe.kernels.cuda.products import places_of, product_tile


@triton.jit  # type: ignore[untyped-decorator]
def blend_kernel(  # type: ignore[no-untyped-def]
    x, batch, hidden, up, ratio, adapted, q, squares, n, d, h, ratio_row, ratio_fit,
    GATHER: tl.constexpr, RELU: tl.constexpr, KEEP: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Make q of n rows, A too where KEEP, and of every row the sum of squares of this tile's columns."""
    fit = tl.program_id(2).to(tl.int64)
    rows, k = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    left = hidden + fit * n * h + rows * h
    out = product_tile(left, up + fit * h * d, rows, k, n, d, h, 1, d, 1, PRECISION, BM, BN, BK)
    if RELU:
        out = tl.maximum(out, 0.0)
    inside = (rows[:, None] < n) & (k[None, :] < d)
    place = places_of(batch, fit, rows, n, GATHER)
    own = tl.load(x + place[:, None] * d + k[None, :], mask=inside, other=0.0).to(tl.float32)
    share = tl.load(ratio + fit * ratio_fit + rows * ratio_row, mask=rows < n, other=0.0)[:, None]
    spot = fit * n * d + rows[:, None] * d + k[None, :]
    if KEEP:
        tl.store(adapted + spot, out.to(q.dtype.element_ty), mask=inside)
    # Its length is that of what is stored and used, rounded.
    blend = (share * out + (1 - share) * own).to(q.dtype.element_ty)
    tl.store(q + spot, blend, mask=inside)
    wide = blend.to(tl.float32)
    part = (fit * tl.num_programs(1) + tl.program_id(1)) * n
    tl.store(squares + part + rows, tl.sum(tl.where(inside, wide * wide, 0.0), axis=1), mask=rows < n)
