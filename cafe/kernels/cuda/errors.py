"""Launch 4: from logits through softmax, cosine and blend to dA, of images or, with the roles exchanged, of classes.

    D = softmax(L) - Y
    images    dq_i = (s r_i / b) sum_j D_ij t_j p_j  -  (r_i^2 / b) (sum_j D_ij L_ij) q_i
    classes   dp_j = (s t_j / b) sum_i D_ij r_i q_i  -  (t_j^2 / b) (sum_i D_ij L_ij) p_j
    dA = ratio dq, 0 where A = 0 ("released")          dratio = dq . (A - x), in parts

D is made from the stored logits on the way into the product, and never stored.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cafe.kernels.cuda.products import FAR, log_sum_exp, places_of, reciprocal_length


@triton.jit  # type: ignore[untyped-decorator]
def errors_kernel(  # type: ignore[no-untyped-def]
    logits, highest, sums, labels, scale, x, batch, q, squares, adapted, ratio,
    other, other_squares, out, ratio_parts, losses,
    b, c, c_row, d, logit_parts, parts, other_fit, other_stride, other_parts, ratio_row, ratio_fit,
    CLASSES: tl.constexpr, GATHER: tl.constexpr, UNIT: tl.constexpr, RELU: tl.constexpr, TRAINED: tl.constexpr,
    LOSSES: tl.constexpr, LOGIT_POWER: tl.constexpr, POWER: tl.constexpr, OTHER_POWER: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Make dA of rows u: images, whose softmax runs over v, or CLASSES.

    The other side's rows are of length one where UNIT, and those of the batch where CLASSES and GATHER.
    """
    fit = tl.program_id(2).to(tl.int64)
    u, k = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    n, depth = (c, b) if CLASSES else (b, c)
    logits += fit * b * c_row
    highest += fit * logit_parts * b
    sums += fit * logit_parts * b
    labels += fit * b
    losses += fit * b
    other += fit * other_fit
    if not (CLASSES and GATHER):
        other_squares += fit * other_parts * other_stride
    if not CLASSES:
        lse = log_sum_exp(highest, sums, u, b, logit_parts, LOGIT_POWER)
        label = tl.load(labels + u, mask=u < b, other=-1).to(tl.int32)
        if LOSSES and tl.program_id(1) == 0:
            tl.store(losses + u, lse - tl.load(logits + u * c_row + label, mask=u < b, other=0.0), mask=u < b)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    along = tl.zeros((BM,), dtype=tl.float32)
    for start in range(0, depth, BK):
        v = start + tl.arange(0, BK)
        # Beyond the edge logits are far below all others, and no label is there: D is 0 without asking again.
        if CLASSES:
            place = places_of(batch, fit, v, b, GATHER)
            lse = log_sum_exp(highest, sums, v, b, logit_parts, LOGIT_POWER)
            label = tl.load(labels + v, mask=v < b, other=-1).to(tl.int32)
            if LOSSES and (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
                tl.store(losses + v, lse - tl.load(logits + v * c_row + label, mask=v < b, other=0.0), mask=v < b)
            inside = (u[:, None] < c_row) & (v[None, :] < b)
            value = tl.load(logits + v[None, :] * c_row + u[:, None], mask=inside, other=FAR)
            error = tl.exp(value - lse[None, :])
            error = tl.where(u[:, None] == label[None, :], error - 1, error)
        else:
            place = v.to(tl.int64)
            inside = (u[:, None] < b) & (v[None, :] < c_row)
            value = tl.load(logits + u[:, None] * c_row + v[None, :], mask=inside, other=FAR)
            error = tl.exp(value - lse[:, None])
            error = tl.where(v[None, :] == label[:, None], error - 1, error)
        along += tl.sum(error * value, axis=1)
        if not UNIT:
            length = reciprocal_length(other_squares, place, v < depth, other_stride, other_parts, OTHER_POWER)
            error *= length[None, :]
        right = tl.load(
            other + place[:, None] * d + k[None, :], mask=(v[:, None] < depth) & (k[None, :] < d), other=0.0
        )
        total = tl.dot(error.to(right.dtype), right, total, input_precision=PRECISION)
    length = reciprocal_length(squares + fit * parts * n, u, u < n, n, parts, POWER)
    inside = (u[:, None] < n) & (k[None, :] < d)
    spot = fit * n * d + u[:, None] * d + k[None, :]
    own = tl.load(q + spot, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(scale + fit) * length / b
    dq = factor[:, None] * total - (along * length * length / b)[:, None] * own
    if TRAINED:
        here = places_of(batch, fit, u, n, not CLASSES)
        frozen = tl.load(x + here[:, None] * d + k[None, :], mask=inside, other=0.0).to(tl.float32)
        moved = tl.load(adapted + spot, mask=inside, other=0.0).to(tl.float32) - frozen
        part = (fit * tl.num_programs(1) + tl.program_id(1)) * n
        tl.store(ratio_parts + part + u, tl.sum(tl.where(inside, dq * moved, 0.0), axis=1), mask=u < n)
    da = tl.load(ratio + fit * ratio_fit + u * ratio_row, mask=u < n, other=0.0)[:, None] * dq
    if RELU:
        da = tl.where(tl.load(adapted + spot, mask=inside, other=0.0) == 0, 0.0, da)
    tl.store(out + spot, da.to(out.dtype.element_ty), mask=inside)
