"""Triton kernels: bottleneck, ReLU, blend and L2 norm of a block of rows in one pass.

Formulas in kernels/cpu.py: H = ReLU(x W1), A = H W2, q = ratio A + (1 - ratio) x, r = 1 / |q|. Sums are
float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, FEATURES = 32, 32


@triton.jit  # type: ignore[untyped-decorator]
def _bottleneck(x, down, up, ratio, hidden, adapted, q, r, n, d, h, stride_x, RELU: tl.constexpr, HOW: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """H, A, q and r of a block of rows of one configuration; BH is the bottleneck, rounded up."""
    one = tl.program_id(1)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    j = tl.arange(0, BH)
    x, down, up = x + one * stride_x, down + one * d * h, up + one * h * d
    total = tl.zeros((BM, BH), dtype=tl.float32)
    for start in range(0, d, BK):
        k = start + tl.arange(0, BK)
        xs = tl.load(x + rows[:, None] * d + k[None, :], mask=(rows[:, None] < n) & (k[None, :] < d), other=0.0)
        ws = tl.load(down + k[:, None] * h + j[None, :], mask=(k[:, None] < d) & (j[None, :] < h), other=0.0)
        total += tl.dot(xs, ws, input_precision=HOW)
    kept = tl.maximum(total, 0.0).to(x.dtype.element_ty)
    tl.store(hidden + one * n * h + rows[:, None] * h + j[None, :], kept, mask=(rows[:, None] < n) & (j[None, :] < h))
    share = tl.load(ratio + one * n + rows, mask=rows < n, other=0.0)[:, None]
    squares = tl.zeros((BM,), dtype=tl.float32)
    for start in range(0, d, BK):
        k = start + tl.arange(0, BK)
        inside = (rows[:, None] < n) & (k[None, :] < d)
        ws = tl.load(up + j[:, None] * d + k[None, :], mask=(j[:, None] < h) & (k[None, :] < d), other=0.0)
        out = tl.dot(kept, ws, input_precision=HOW)
        if RELU:
            out = tl.maximum(out, 0.0)
        xs = tl.load(x + rows[:, None] * d + k[None, :], mask=inside, other=0.0).to(tl.float32)
        blend = share * out + (1 - share) * xs
        squares += tl.sum(tl.where(inside, blend * blend, 0.0), axis=1)
        place = one * n * d + rows[:, None] * d + k[None, :]
        tl.store(adapted + place, out.to(x.dtype.element_ty), mask=inside)
        tl.store(q + place, blend.to(x.dtype.element_ty), mask=inside)
    length = tl.sqrt(squares)
    tl.store(r + one * n + rows, tl.where(length > 0, 1 / length, 0.0), mask=rows < n)


def bottleneck(
    x: Tensor, down: Tensor, up: Tensor, ratio: Tensor, form: str, precision: str = "ieee"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return H (k, n, h), A and q (k, n, d), r (k, n) in float32.

    Parameters
    ----------
    x : Tensor of shape (k or 1, n, d)
        Features or class embeddings; float32, bfloat16 or float16.
    down, up : Tensor of shape (k, d, h) and (k, h, d)
        In x's dtype.
    ratio : Tensor broadcastable to (k, n, 1), float32
        Weight of the adapted rows.
    form : str
        ``"paper"`` or ``"released"``.
    precision : {"ieee", "tf32"}, default="ieee"
        How float32 operands enter a product.
    """
    x, down, up = x.contiguous(), down.contiguous(), up.contiguous()
    k, d, h = down.shape
    n = x.shape[1]
    share = ratio.float().expand(k, n, 1).contiguous()
    hidden = x.new_empty(k, n, h)
    adapted, q = x.new_empty(k, n, d), x.new_empty(k, n, d)
    r = torch.empty(k, n, dtype=torch.float32, device=x.device)
    stride = n * d if len(x) > 1 or k == 1 else 0
    _bottleneck[(triton.cdiv(n, ROWS), k)](
        x, down, up, share, hidden, adapted, q, r, n, d, h, stride,
        RELU=form == "released", HOW=precision, BM=ROWS, BH=max(16, triton.next_power_of_2(h)), BK=FEATURES,
    )  # fmt: skip
    return hidden, adapted, q, r
