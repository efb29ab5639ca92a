"""Launch 3: L = s r (q p^T) t, stored, and of every tile of classes the highest logit and the sum of exponentials.

Logits are stored (1 MB at 256 x 1,000, which stays in a GPU's cache): launch 4 would else multiply them anew for each
of its tiles of features.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cafe.kernels.cuda.products import FAR, places_of, product_tile, reciprocal_length


@triton.jit  # type: ignore[untyped-decorator]
def logits_kernel(  # type: ignore[no-untyped-def]
    q, batch, row_squares, p, class_squares, scale, logits, highest, sums, at, done,
    b, c, c_row, d, q_fit, p_fit, row_stride, row_parts, class_parts,
    GATHER: tl.constexpr, UNIT: tl.constexpr, ADVANCE: tl.constexpr,
    ROW_POWER: tl.constexpr, CLASS_POWER: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Make logits of rows (of the batch where GATHER) and classes, whose rows p have length one where UNIT."""
    fit = tl.program_id(2).to(tl.int64)
    rows, j = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    place = places_of(batch, fit, rows, b, GATHER)
    left, right = q + fit * q_fit + place * d, p + fit * p_fit
    total = product_tile(left, right, rows, j, b, c, d, 1, 1, d, PRECISION, BM, BN, BK)
    own = row_squares if GATHER else row_squares + fit * row_parts * row_stride
    factor = tl.load(scale + fit) * reciprocal_length(own, place, rows < b, row_stride, row_parts, ROW_POWER)
    value = factor[:, None] * total
    if not UNIT:
        length = reciprocal_length(class_squares + fit * class_parts * c, j, j < c, c, class_parts, CLASS_POWER)
        value *= length[None, :]
    value = tl.where(j[None, :] < c, value, FAR)
    inside = (rows[:, None] < b) & (j[None, :] < c_row)
    tl.store(logits + fit * b * c_row + rows[:, None] * c_row + j[None, :], value, mask=inside)
    high = tl.max(value, axis=1)
    part = (fit * tl.num_programs(1) + tl.program_id(1)) * b + rows
    tl.store(highest + part, high, mask=rows < b)
    tl.store(sums + part, tl.sum(tl.exp(value - high[:, None]), axis=1), mask=rows < b)
    if ADVANCE and (fit == 0) & (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        # Only launch 1 of the next step reads them.
        tl.store(at, tl.load(at) + 1)
        tl.store(done, tl.load(done) + 1)
