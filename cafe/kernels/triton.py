"""Loss and gradients of the adapter on Triton kernels: what needs (n, n_classes), and the bottleneck, are fused.

Letters and formulas as in kernels/cpu.py. Forward of each side is one launch,

    H = ReLU(x W1),   A = H W2,   q = ratio A + (1 - ratio) x,   r = 1 / |q|     for a block of rows,

the loss and its gradients in both sides three at most, blockwise over classes: (n, n_classes) is never stored.
Forward, an online softmax over blocks of classes keeps, per row, the running maximum m and the running sum z of
exp(L - m):

    m' = max(m, max_block L)        z' = z exp(m - m') + sum_block exp(L - m')        logsumexp = m + log z

Backward recomputes each block of L, makes G = (s r / b) (exp(L - logsumexp) - Y) in registers, and adds G w to U
(one program per rows and features) or G^T q to E (one program per classes and features). Sums are float32. The rest,
gradients of the two weight matrices and of ratios, is kernels/cpu.py's ``Side.gradients``: small matrix products,
which the vendor's library does best. Never run on a GPU so far.

Source: Dao et al., FlashAttention (arXiv 2205.14135), for the online softmax; Wijmans et al., Cut Your Losses
(arXiv 2411.09009), for never storing logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cafe.kernels.cpu import Buffers, CpuAdapterStep, Ratio, Side, invert, ratio_forward
from cafe.kernels.reference import Parameters

ROWS, CLASSES, FEATURES = 32, 64, 32

# ---------------------------------------------------------------------------- bottleneck, ReLU, blend and L2 norm


@triton.jit  # type: ignore[untyped-decorator]
def _bottleneck(x, down, up, ratio, hidden, adapted, q, r, n, d, h, stride_x, RELU: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """H, A, q and r of a block of rows of one configuration; BH is the bottleneck, rounded up."""
    fit = tl.program_id(1)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    j = tl.arange(0, BH)
    x, down, up = x + fit * stride_x, down + fit * d * h, up + fit * h * d
    total = tl.zeros((BM, BH), dtype=tl.float32)
    for start in range(0, d, BK):
        k = start + tl.arange(0, BK)
        xs = tl.load(x + rows[:, None] * d + k[None, :], mask=(rows[:, None] < n) & (k[None, :] < d), other=0.0)
        ws = tl.load(down + k[:, None] * h + j[None, :], mask=(k[:, None] < d) & (j[None, :] < h), other=0.0)
        total += tl.dot(xs, ws, input_precision=PRECISION)
    kept = tl.maximum(total, 0.0).to(x.dtype.element_ty)
    tl.store(hidden + fit * n * h + rows[:, None] * h + j[None, :], kept, mask=(rows[:, None] < n) & (j[None, :] < h))
    share = tl.load(ratio + fit * n + rows, mask=rows < n, other=0.0)[:, None]
    squares = tl.zeros((BM,), dtype=tl.float32)
    for start in range(0, d, BK):
        k = start + tl.arange(0, BK)
        inside = (rows[:, None] < n) & (k[None, :] < d)
        ws = tl.load(up + j[:, None] * d + k[None, :], mask=(j[:, None] < h) & (k[None, :] < d), other=0.0)
        out = tl.dot(kept, ws, input_precision=PRECISION)
        if RELU:
            out = tl.maximum(out, 0.0)
        xs = tl.load(x + rows[:, None] * d + k[None, :], mask=inside, other=0.0).to(tl.float32)
        blend = share * out + (1 - share) * xs
        squares += tl.sum(tl.where(inside, blend * blend, 0.0), axis=1)
        place = fit * n * d + rows[:, None] * d + k[None, :]
        tl.store(adapted + place, out.to(x.dtype.element_ty), mask=inside)
        tl.store(q + place, blend.to(x.dtype.element_ty), mask=inside)
    length = tl.sqrt(squares)
    tl.store(r + fit * n + rows, tl.where(length > 0, 1 / length, 0.0), mask=rows < n)


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
        RELU=form == "released", PRECISION=precision, BM=ROWS, BH=max(16, triton.next_power_of_2(h)), BK=FEATURES,
    )  # fmt: skip
    return hidden, adapted, q, r


# ---------------------------------------------------------------------------- cosine logits times cross-entropy


@triton.jit  # type: ignore[untyped-decorator]
def _logit_block(q, w, rows, columns, b, c, d, PRECISION: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """Return q w^T for a block of rows and columns, (BM, BN), in float32."""
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, d, BK):
        k = start + tl.arange(0, BK)
        x = tl.load(q + rows[:, None] * d + k[None, :], mask=(rows[:, None] < b) & (k[None, :] < d), other=0.0)
        y = tl.load(w + columns[None, :] * d + k[:, None], mask=(columns[None, :] < c) & (k[:, None] < d), other=0.0)
        total += tl.dot(x, y, input_precision=PRECISION)
    return total


@triton.jit  # type: ignore[untyped-decorator]
def _forward(q, r, w, labels, scale, lse, losses, b, c, d, stride_w, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """Logsumexp and loss of a block of rows of one configuration."""
    fit = tl.program_id(1)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    q, w = q + fit * b * d, w + fit * stride_w
    factor = tl.load(scale + fit) * tl.load(r + fit * b + rows, mask=rows < b, other=0.0)  # (BM,)
    label = tl.load(labels + fit * b + rows, mask=rows < b, other=0)
    highest = tl.full((BM,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    true = tl.zeros((BM,), dtype=tl.float32)
    for start in range(0, c, BN):
        columns = start + tl.arange(0, BN)
        logits = factor[:, None] * _logit_block(q, w, rows, columns, b, c, d, PRECISION, BK, BM, BN)
        logits = tl.where(columns[None, :] < c, logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, axis=1))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(logits - higher[:, None]), axis=1)
        true += tl.sum(tl.where(columns[None, :] == label[:, None], logits, 0.0), axis=1)
        highest = higher
    logsumexp = highest + tl.log(total)
    tl.store(lse + fit * b + rows, logsumexp, mask=rows < b)
    tl.store(losses + fit * b + rows, logsumexp - true, mask=rows < b)


@triton.jit  # type: ignore[untyped-decorator]
def _error_block(q, r, w, labels, scale, lse, rows, columns, b, c, d, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """Return G for a block of rows and columns of one configuration, (BM, BN)."""
    factor = scale * tl.load(r + rows, mask=rows < b, other=0.0)
    label = tl.load(labels + rows, mask=rows < b, other=-1)
    high = tl.load(lse + rows, mask=rows < b, other=0.0)
    logits = factor[:, None] * _logit_block(q, w, rows, columns, b, c, d, PRECISION, BK, BM, BN)
    error = tl.exp(logits - high[:, None]) - (columns[None, :] == label[:, None]).to(tl.float32)
    inside = (rows[:, None] < b) & (columns[None, :] < c)
    return tl.where(inside, error * (factor / b)[:, None], 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_rows(q, r, w, labels, scale, lse, u, b, c, d, stride_w, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """U = G w for a block of rows and a block of features."""
    fit = tl.program_id(2)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    q, w, r, labels, lse = (
        q + fit * b * d,
        w + fit * stride_w,
        r + fit * b,
        labels + fit * b,
        lse + fit * b,
    )
    s = tl.load(scale + fit)
    total = tl.zeros((BM, BK), dtype=tl.float32)
    for start in range(0, c, BN):
        columns = start + tl.arange(0, BN)
        error = _error_block(q, r, w, labels, s, lse, rows, columns, b, c, d, PRECISION, BM, BN, BK)
        inside = (columns[:, None] < c) & (k[None, :] < d)
        y = tl.load(w + columns[:, None] * d + k[None, :], mask=inside, other=0.0)
        total += tl.dot(error.to(y.dtype), y, input_precision=PRECISION)
    tl.store(u + fit * b * d + rows[:, None] * d + k[None, :], total, mask=(rows[:, None] < b) & (k[None, :] < d))


@triton.jit  # type: ignore[untyped-decorator]
def _backward_classes(q, r, w, labels, scale, lse, e, b, c, d, stride_w, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """E = G^T q for a block of classes and a block of features; rows in order, so the sum is always the same."""
    fit = tl.program_id(2)
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    q, w, r, labels, lse = (
        q + fit * b * d,
        w + fit * stride_w,
        r + fit * b,
        labels + fit * b,
        lse + fit * b,
    )
    s = tl.load(scale + fit)
    total = tl.zeros((BN, BK), dtype=tl.float32)
    for start in range(0, b, BM):
        rows = start + tl.arange(0, BM)
        error = _error_block(q, r, w, labels, s, lse, rows, columns, b, c, d, PRECISION, BM, BN, BK)
        x = tl.load(q + rows[:, None] * d + k[None, :], mask=(rows[:, None] < b) & (k[None, :] < d), other=0.0)
        total += tl.dot(tl.trans(error).to(x.dtype), x, input_precision=PRECISION)
    tl.store(e + fit * c * d + columns[:, None] * d + k[None, :], total, mask=(columns[:, None] < c) & (k[None, :] < d))


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
    blocks = {"PRECISION": precision, "BM": ROWS, "BN": CLASSES, "BK": FEATURES}
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


# ---------------------------------------------------------------------------- a step


class TritonSide(Side):
    """One side of a stack with its forward pass in one launch."""

    def __init__(
        self,
        name: str,
        x: Tensor,
        weights: tuple[Tensor, Tensor],
        ratio: Ratio,
        form: str,
        buffers: Buffers,
        precision: str,
    ) -> None:
        self.name, self.weights, self.form, self.buffers = name, weights, form, buffers
        self.ratio, self.ratio_values, self.multiply = ratio, ratio.values, torch.bmm
        self.x = x.expand(len(weights[0]), *x.shape[1:])
        self.hidden, self.adapted, self.q, r = bottleneck(x, *weights, ratio.values, form, precision)
        self.r = r[..., None]

    def norm_gradient(self, u: Tensor) -> Tensor:
        """Return dq from u, which is r times the gradient in q/|q| in float32, in the dtype of the products."""
        dot = (self.q * u).sum(-1, keepdim=True)  # (k, rows, 1)
        return self.through_norm(u, dot * self.r * self.r).to(self.q.dtype)


class TritonAdapterStep(CpuAdapterStep):
    """As :class:`~cafe.kernels.cpu.CpuAdapterStep`, on a GPU, with logits never stored.

    Features may be float32, bfloat16 or float16; parameters are float32. All configurations of the stack go in one
    launch. Nothing here waits for the device, so a step can be captured in a graph (training/steps.py).

    Parameters
    ----------
    *arguments
        As for the CPU kernel.
    precision : {"ieee", "tf32"}, default="ieee"
        How float32 operands enter a product; sums are float32 either way.
    """

    def __init__(self, *arguments: Any, precision: str = "ieee") -> None:
        super().__init__(*arguments)
        self.precision = precision

    def __call__(
        self, parameters: Parameters, index: Tensor, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,) and gradients; see the CPU kernel."""
        with _library_products(self.precision):
            return self._whole_step(parameters, index)

    def _whole_step(self, parameters: Parameters, index: Tensor) -> tuple[Tensor, Parameters]:
        narrow = self.prepare(parameters)
        shape, whole = self.shape, slice(0, len(index))
        text, classes = None, self.unit_text[None]
        if shape.adapts_text:
            beta = ratio_forward("beta", shape.beta_mode, self.hyper["beta"], parameters, self.text, self.feature_mean)
            text = self._run_side("text", self.narrow_text, narrow, beta)
            classes = (text.q * text.r).to(text.q.dtype)  # (g, c, d)
        x = self.features[index]  # (g, b, d)
        image, q = None, x
        if shape.adapts_image:
            alpha = ratio_forward("alpha", shape.alpha_mode, self.hyper["alpha"], parameters, x, self.text_mean)
            image = self._run_side("image", x, narrow, alpha)
            q, r = image.q, image.r[..., 0]
        else:
            r = invert(torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32))
        losses, u, e = cross_entropy(
            q,
            r,
            classes,
            self.labels[index],
            self.hyper["logit_scale"],
            image is not None,
            text is not None,
            self.precision,
        )
        if image is not None and u is not None:
            self.store(parameters, image, image.gradients(image.norm_gradient(u)), whole, True)
        if text is not None and e is not None:
            self.store(parameters, text, text.gradients(text.norm_gradient(e * text.r)), whole, True)
        return losses, self.gradients

    def _run_side(self, name: str, x: Tensor, narrow: Parameters, ratio: Ratio) -> TritonSide:
        weights = narrow[f"{name}_down"], narrow[f"{name}_up"]
        return TritonSide(name, x, weights, ratio, self.shape.form, self.buffers, self.precision)


@contextmanager
def _library_products(precision: str) -> Iterator[None]:
    """Let the vendor's products round float32 operands to tf32 where that was asked for, and only inside."""
    if precision != "tf32":
        yield
        return
    flags = torch.backends.cuda.matmul
    before = flags.allow_tf32
    flags.allow_tf32 = True
    try:
        yield
    finally:
        flags.allow_tf32 = before
