"""Triton kernels: cosine logits times cross-entropy, blockwise over classes; (n, n_classes) is never stored.

Letters and formulas as in kernels/cpu.py. Forward, an online softmax over blocks of classes keeps, per row, the
running maximum m and the running sum z of exp(L - m):

    m' = max(m, max_block L)        z' = z exp(m - m') + sum_block exp(L - m')        logsumexp = m + log z

Backward recomputes each block of L, makes G = (s r / b) (exp(L - logsumexp) - Y) in registers, and adds G w to U
(one program per rows and features) or G^T q to E (one program per classes and features). Sums are float32.

Source: Dao et al., FlashAttention (arXiv 2205.14135), for the online softmax; Wijmans et al., Cut Your Losses
(arXiv 2411.09009), for never storing logits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CLASSES, FEATURES = 32, 64, 32


@triton.jit  # type: ignore[untyped-decorator]
def _logit_block(q, w, rows, columns, b, c, d, HOW: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return q w^T for a block of rows and columns, (BM, BN), in float32."""
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, d, BK):
        k = start + tl.arange(0, BK)
        x = tl.load(q + rows[:, None] * d + k[None, :], mask=(rows[:, None] < b) & (k[None, :] < d), other=0.0)
        y = tl.load(w + columns[None, :] * d + k[:, None], mask=(columns[None, :] < c) & (k[:, None] < d), other=0.0)
        total += tl.dot(x, y, input_precision=HOW)
    return total


@triton.jit  # type: ignore[untyped-decorator]
def _forward(q, r, w, labels, scale, lse, losses, b, c, d, stride_w, HOW: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """Logsumexp and loss of a block of rows of one configuration."""
    one = tl.program_id(1)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    q, w = q + one * b * d, w + one * stride_w
    factor = tl.load(scale + one) * tl.load(r + one * b + rows, mask=rows < b, other=0.0)  # (BM,)
    label = tl.load(labels + one * b + rows, mask=rows < b, other=0)
    highest = tl.full((BM,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    true = tl.zeros((BM,), dtype=tl.float32)
    for start in range(0, c, BN):
        columns = start + tl.arange(0, BN)
        logits = factor[:, None] * _logit_block(q, w, rows, columns, b, c, d, HOW, BK, BM, BN)
        logits = tl.where(columns[None, :] < c, logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, axis=1))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(logits - higher[:, None]), axis=1)
        true += tl.sum(tl.where(columns[None, :] == label[:, None], logits, 0.0), axis=1)
        highest = higher
    found = highest + tl.log(total)
    tl.store(lse + one * b + rows, found, mask=rows < b)
    tl.store(losses + one * b + rows, found - true, mask=rows < b)


@triton.jit  # type: ignore[untyped-decorator]
def _error_block(q, r, w, labels, scale, lse, rows, columns, b, c, d, HOW: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """Return G for a block of rows and columns of one configuration, (BM, BN)."""
    factor = scale * tl.load(r + rows, mask=rows < b, other=0.0)
    label = tl.load(labels + rows, mask=rows < b, other=-1)
    high = tl.load(lse + rows, mask=rows < b, other=0.0)
    logits = factor[:, None] * _logit_block(q, w, rows, columns, b, c, d, HOW, BK, BM, BN)
    error = tl.exp(logits - high[:, None]) - (columns[None, :] == label[:, None]).to(tl.float32)
    inside = (rows[:, None] < b) & (columns[None, :] < c)
    return tl.where(inside, error * (factor / b)[:, None], 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_rows(q, r, w, labels, scale, lse, u, b, c, d, stride_w, HOW: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """U = G w for a block of rows and a block of features."""
    one = tl.program_id(2)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    q, w, r, labels, lse = q + one * b * d, w + one * stride_w, r + one * b, labels + one * b, lse + one * b
    s = tl.load(scale + one)
    total = tl.zeros((BM, BK), dtype=tl.float32)
    for start in range(0, c, BN):
        columns = start + tl.arange(0, BN)
        error = _error_block(q, r, w, labels, s, lse, rows, columns, b, c, d, HOW, BM, BN, BK)
        inside = (columns[:, None] < c) & (k[None, :] < d)
        y = tl.load(w + columns[:, None] * d + k[None, :], mask=inside, other=0.0)
        total += tl.dot(error.to(y.dtype), y, input_precision=HOW)
    tl.store(u + one * b * d + rows[:, None] * d + k[None, :], total, mask=(rows[:, None] < b) & (k[None, :] < d))


@triton.jit  # type: ignore[untyped-decorator]
def _backward_classes(q, r, w, labels, scale, lse, e, b, c, d, stride_w, HOW: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """E = G^T q for a block of classes and a block of features; rows in order, so the sum is always the same."""
    one = tl.program_id(2)
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    q, w, r, labels, lse = q + one * b * d, w + one * stride_w, r + one * b, labels + one * b, lse + one * b
    s = tl.load(scale + one)
    total = tl.zeros((BN, BK), dtype=tl.float32)
    for start in range(0, b, BM):
        rows = start + tl.arange(0, BM)
        error = _error_block(q, r, w, labels, s, lse, rows, columns, b, c, d, HOW, BM, BN, BK)
        x = tl.load(q + rows[:, None] * d + k[None, :], mask=(rows[:, None] < b) & (k[None, :] < d), other=0.0)
        total += tl.dot(tl.trans(error).to(x.dtype), x, input_precision=HOW)
    tl.store(e + one * c * d + columns[:, None] * d + k[None, :], total, mask=(columns[:, None] < c) & (k[None, :] < d))


def cross_entropy(
    q: Tensor,
    r: Tensor,
    classes: Tensor,
    labels: Tensor,
    scale: Tensor,
    needs_rows: bool,
    needs_classes: bool,
    precision: str = "ieee",
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return losses (k,), U (k, b, d) and E (k, c, d), both float32; see the module's formulas.

    Parameters
    ----------
    q : Tensor of shape (k, b, d)
        Blended rows, not normalised; float32, bfloat16 or float16.
    r : Tensor of shape (k, b), float32
        One over their lengths.
    classes : Tensor of shape (k or 1, c, d)
        Unit-length class embeddings, in q's dtype.
    labels : Tensor of shape (k, b), int64
        Class of each row.
    scale : Tensor of shape (k,), float32
        Logit scales.
    needs_rows, needs_classes : bool
        Which of U and E to make.
    precision : {"ieee", "tf32"}, default="ieee"
        How float32 operands enter a product.
    """
    q, r, classes, labels = q.contiguous(), r.contiguous(), classes.contiguous(), labels.contiguous()
    k, b, d = q.shape
    c = classes.shape[1]
    stride = c * d if len(classes) > 1 or k == 1 else 0
    lse, losses = (torch.empty(k, b, dtype=torch.float32, device=q.device) for _ in range(2))
    sizes = (b, c, d, stride)
    blocks = {"HOW": precision, "BM": ROWS, "BN": CLASSES, "BK": FEATURES}
    _forward[(triton.cdiv(b, ROWS), k)](q, r, classes, labels, scale, lse, losses, *sizes, **blocks)
    u, e = None, None
    if needs_rows:
        u = torch.empty(k, b, d, dtype=torch.float32, device=q.device)
        grid = (triton.cdiv(b, ROWS), triton.cdiv(d, FEATURES), k)
        _backward_rows[grid](q, r, classes, labels, scale, lse, u, *sizes, **blocks)
    if needs_classes:
        e = torch.empty(k, c, d, dtype=torch.float32, device=q.device)
        grid = (triton.cdiv(c, CLASSES), triton.cdiv(d, FEATURES), k)
        _backward_classes[grid](q, r, classes, labels, scale, lse, e, *sizes, **blocks)
    return losses.mean(1), u, e
