"""Loss and gradients of the adapter on Triton kernels: matrix products in tiles, with what follows a product inside.

Letters and formulas as in kernels/cpu.py. A step of an image adapter is eight launches:

    hidden       H = ReLU(x W1)                                         x gathered from all rows by the batch's index
    blend        A = H W2,   q = ratio A + (1 - ratio) x                and for each tile its part of |q|^2
    reciprocal   r = 1 / |q|
    logits       L = s r (q w^T)                                        stored: 1 MB at 256 x 1,000, which stays in L2
    errors       G = (s r / b) (softmax(L) - Y), the losses, and k = (r^2 / b) sum_j D_j L_j,   one row per program
    rows         dA = ratio (G w - k q)
    through      dH = dA W2^T, 0 where H = 0
    weights      dW2 = H^T dA   and   dW1 = x^T dH                      one launch each

A text adapter's hidden, blend and reciprocal are the same on class embeddings, and E = G^T q is another product. Every
product of float32 numbers is one of these kernels, so that no setting of the vendor's library has a part in them, but
for the few numbers of trained ratios. Tiles do not grow with the problem, and are chosen by what the card has
(kernels/cards.py): no width or bottleneck needs more registers or shared memory than another.

Sums are float32 and always in the same order: there are no atomic additions. Never run on a GPU so far.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from cafe.kernels.cards import Card, card_of, choose_tile
from cafe.kernels.cpu import (
    Buffers,
    CpuAdapterStep,
    Ratio,
    ratio_forward,
    ratio_gradients,
    zero_where_zero,
)
from cafe.kernels.reference import Parameters

# Most classes that a program of `errors` holds at once.
MOST_CLASSES = 2048

# ---------------------------------------------------------------------------- one tile of a product


@triton.jit  # type: ignore[untyped-decorator]
def _product_tile(a, b, rows, columns, m, n, depth, a_row, a_step, b_step, b_column, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
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
def _rows_of(x, index, fit, rows, n, d, x_fit, GATHER: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return where each of the rows of one configuration starts."""
    if GATHER:
        return x + tl.load(index + fit * n + rows, mask=rows < n, other=0) * d
    return x + fit * x_fit + rows * d


# ---------------------------------------------------------------------------- bottleneck, ReLU, blend and L2 norm


@triton.jit  # type: ignore[untyped-decorator]
def _hidden(x, index, down, hidden, n, d, h, x_fit, GATHER: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """H = ReLU(x W1)."""
    fit = tl.program_id(2)
    rows, j = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    start = _rows_of(x, index, fit, rows, n, d, x_fit, GATHER)
    total = _product_tile(start, down + fit * d * h, rows, j, n, h, d, d, 1, h, 1, PRECISION, BM, BN, BK)
    inside = (rows[:, None] < n) & (j[None, :] < h)
    kept = tl.maximum(total, 0.0).to(hidden.dtype.element_ty)
    tl.store(hidden + fit * n * h + rows[:, None] * h + j[None, :], kept, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _blend(x, index, hidden, up, ratio, adapted, q, squares, n, d, h, x_fit, GATHER: tl.constexpr, RELU: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """A = H W2 (stored if KEEP), q, and of every row the sum of squares of this tile's columns."""
    fit = tl.program_id(2)
    rows, k = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    left = hidden + fit * n * h + rows * h
    out = _product_tile(left, up + fit * h * d, rows, k, n, d, h, h, 1, d, 1, PRECISION, BM, BN, BK)
    if RELU:
        out = tl.maximum(out, 0.0)
    inside = (rows[:, None] < n) & (k[None, :] < d)
    start = _rows_of(x, index, fit, rows, n, d, x_fit, GATHER)
    own = tl.load(start[:, None] + k[None, :], mask=inside, other=0.0).to(tl.float32)
    share = tl.load(ratio + fit * n + rows, mask=rows < n, other=0.0)[:, None]
    blend = share * out + (1 - share) * own
    place = fit * n * d + rows[:, None] * d + k[None, :]
    if KEEP:
        tl.store(adapted + place, out.to(q.dtype.element_ty), mask=inside)
    # Its length is that of what is stored and used, rounded.
    blend = blend.to(q.dtype.element_ty)
    tl.store(q + place, blend, mask=inside)
    wide = blend.to(tl.float32)
    part = (fit * tl.num_programs(1) + tl.program_id(1)) * n
    tl.store(squares + part + rows, tl.sum(tl.where(inside, wide * wide, 0.0), axis=1), mask=rows < n)


@triton.jit  # type: ignore[untyped-decorator]
def _reciprocal(squares, r, n, parts, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """1 / |q| from the parts of |q|^2; 0 for a row of zeros, NaN for one of NaN."""
    fit = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for part in range(0, parts):
        total += tl.load(squares + (fit * parts + part) * n + rows, mask=rows < n, other=0.0)
    empty = total == 0
    tl.store(r + fit * n + rows, tl.where(empty, 0.0, 1 / tl.sqrt(tl.where(empty, 1.0, total))), mask=rows < n)


# ---------------------------------------------------------------------------- cosine logits times cross-entropy


@triton.jit  # type: ignore[untyped-decorator]
def _logits(q, index, r, w, scale, logits, b, c, d, q_fit, w_fit, GATHER: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """L = s r (q w^T), in float32."""
    fit = tl.program_id(2)
    rows, columns = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    start = _rows_of(q, index, fit, rows, b, d, q_fit, GATHER)
    total = _product_tile(start, w + fit * w_fit, rows, columns, b, c, d, d, 1, 1, d, PRECISION, BM, BN, BK)
    factor = tl.load(scale + fit) * tl.load(r + fit * b + rows, mask=rows < b, other=0.0)
    inside = (rows[:, None] < b) & (columns[None, :] < c)
    tl.store(logits + fit * b * c + rows[:, None] * c + columns[None, :], factor[:, None] * total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _errors(logits, r, labels, index, scale, errors, along, losses, b, c, GATHER: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
    """G, k and the loss of one row, whose logits pass in blocks: an online softmax, then the gradient."""
    row, fit = tl.program_id(0), tl.program_id(1)
    at = fit * b + row
    place = at
    if GATHER:
        place = tl.load(index + at)
    label = tl.load(labels + place)
    highest, total = float("-inf"), 0.0
    for start in range(0, c, BLOCK):
        j = start + tl.arange(0, BLOCK)
        value = tl.load(logits + at.to(tl.int64) * c + j, mask=j < c, other=float("-inf"))
        higher = tl.maximum(highest, tl.max(value, axis=0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(value - higher), axis=0)
        highest = higher
    high = highest + tl.log(total)
    tl.store(losses + at, high - tl.load(logits + at.to(tl.int64) * c + label))
    length = tl.load(r + at)
    factor = tl.load(scale + fit) * length / b
    dot = 0.0
    for start in range(0, c, BLOCK):
        j = start + tl.arange(0, BLOCK)
        value = tl.load(logits + at.to(tl.int64) * c + j, mask=j < c, other=0.0)
        error = tl.exp(value - high) - (j == label).to(tl.float32)
        dot += tl.sum(tl.where(j < c, error * value, 0.0), axis=0)
        tl.store(errors + at.to(tl.int64) * c + j, (factor * error).to(errors.dtype.element_ty), mask=j < c)
    tl.store(along + at, length * length * dot / b)


@triton.jit  # type: ignore[untyped-decorator]
def _rows(errors, w, q, along, ratio, adapted, out, b, c, d, w_fit, WEIGHTED: tl.constexpr, RELU: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """Make dq = G w - k q, or dA where WEIGHTED: times the ratio, and 0 where A is 0 if RELU."""
    fit = tl.program_id(2)
    rows, k = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    left = errors + (fit * b + rows).to(tl.int64) * c
    total = _product_tile(left, w + fit * w_fit, rows, k, b, d, c, c, 1, d, 1, PRECISION, BM, BN, BK)
    inside = (rows[:, None] < b) & (k[None, :] < d)
    place = fit * b * d + rows[:, None] * d + k[None, :]
    own = tl.load(q + place, mask=inside, other=0.0).to(tl.float32)
    total -= tl.load(along + fit * b + rows, mask=rows < b, other=0.0)[:, None] * own
    if WEIGHTED:
        total *= tl.load(ratio + fit * b + rows, mask=rows < b, other=0.0)[:, None]
        if RELU:
            total = tl.where(tl.load(adapted + place, mask=inside, other=0.0) == 0, 0.0, total)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


# ---------------------------------------------------------------------------- through the bottleneck


@triton.jit  # type: ignore[untyped-decorator]
def _through(da, up, hidden, dh, n, d, h, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """Make dH = dA W2^T, 0 where H = 0."""
    fit = tl.program_id(2)
    rows, j = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    left = da + fit * n * d + rows * d
    total = _product_tile(left, up + fit * h * d, rows, j, n, h, d, d, 1, 1, d, PRECISION, BM, BN, BK)
    inside = (rows[:, None] < n) & (j[None, :] < h)
    place = fit * n * h + rows[:, None] * h + j[None, :]
    kept = tl.load(hidden + place, mask=inside, other=0.0)
    tl.store(dh + place, tl.where(kept == 0, 0.0, total).to(dh.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _weights(a, index, e, out, n, p, m, a_fit, GATHER: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """a^T e, (p, m), summed over the n rows in order; in ``out``'s dtype."""
    fit = tl.program_id(2)
    i, j = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, n, BK):
        rows = start + tl.arange(0, BK)
        first = _rows_of(a, index, fit, rows, n, p, a_fit, GATHER)
        left = tl.load(first[None, :] + i[:, None], mask=(i[:, None] < p) & (rows[None, :] < n), other=0.0)
        right = tl.load(
            e + fit * n * m + rows[:, None] * m + j[None, :], mask=(rows[:, None] < n) & (j[None, :] < m), other=0.0
        )
        total = tl.dot(left, right, total, input_precision=PRECISION)
    inside = (i[:, None] < p) & (j[None, :] < m)
    tl.store(out + fit * p * m + i[:, None] * m + j[None, :], total.to(out.dtype.element_ty), mask=inside)


# ---------------------------------------------------------------------------- launches


class Launches:
    """The kernels above as functions of tensors, for one device and one precision.

    Parameters
    ----------
    card : Card
        What tiles are chosen by.
    precision : {"ieee", "tf32"}
        How float32 operands enter a product.
    buffers : Buffers
        Memory that is used again at every step.
    """

    def __init__(self, card: Card, precision: str, buffers: Buffers) -> None:
        self.card, self.precision, self.buffers = card, precision, buffers

    def _exact(self, like: Tensor) -> bool:
        return like.element_size() == 4 and self.precision == "ieee"

    def _tile(self, rows: int, columns: int, like: Tensor, stack: int) -> tuple[tuple[int, int, int], dict[str, Any]]:
        """Return the grid of a product with so many rows and columns, and the options of its launch."""
        tile = choose_tile(self.card, rows, columns, stack, like.element_size(), self._exact(like))
        grid = (triton.cdiv(rows, tile.rows), triton.cdiv(columns, tile.columns), stack)
        return grid, {"PRECISION": self.precision, **tile.options()}

    def hidden(self, name: str, x: Tensor, index: Tensor | None, down: Tensor) -> Tensor:
        """Return H (g, n, h).

        Parameters
        ----------
        name : str
            Of the side, for buffers.
        x : Tensor of shape (N, d), or (1, n, d) without index
            Rows.
        index : Tensor of shape (g, n), int64, or None
            Which of them.
        down : Tensor of shape (g, d, h)
            W1, in x's dtype.
        """
        g, d, h = down.shape
        n = x.shape[-2] if index is None else index.shape[1]
        out = self.buffers(f"{name} h", x, g, n, h)
        grid, options = self._tile(n, h, x, g)
        _hidden[grid](x, x if index is None else index, down, out, n, d, h, 0, GATHER=index is not None, **options)
        return out

    def blend(
        self,
        name: str,
        x: Tensor,
        index: Tensor | None,
        hidden: Tensor,
        up: Tensor,
        ratio: Tensor,
        relu: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return A and q (g, n, d) and r (g, n) in float32; A is not filled unless ``keep``; ratio is (g, n)."""
        g, h, d = up.shape
        n = hidden.shape[1]
        grid, options = self._tile(n, d, x, g)
        q = self.buffers(f"{name} q", x, g, n, d)
        adapted = self.buffers(f"{name} a", x, g, n, d) if keep else q
        squares = self.buffers(f"{name} squares", ratio, g, grid[1], n)
        r = self.buffers(f"{name} r", ratio, g, n)
        _blend[grid](
            x, x if index is None else index, hidden, up, ratio, adapted, q, squares, n, d, h, 0,
            GATHER=index is not None, RELU=relu, KEEP=keep, **options,
        )  # fmt: skip
        _reciprocal[(triton.cdiv(n, 128), g)](squares, r, n, grid[1], BLOCK=128)
        return adapted, q, r

    def cross_entropy(
        self, q: Tensor, r: Tensor, index: Tensor, gather: bool, classes: Tensor, labels: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return losses (g, b), G (g, b, c) in q's dtype and k (g, b).

        Parameters
        ----------
        q : Tensor of shape (g, b, d), or (n, d) where ``gather``
            Rows, not normalised.
        r : Tensor of shape (g, b), float32
            One over their lengths.
        index : Tensor of shape (g, b), int64
            The batch.
        gather : bool
            Whether rows of q are those of the index.
        classes : Tensor of shape (g or 1, c, d)
            Unit-length class embeddings, in q's dtype.
        labels : Tensor of shape (n,), int64
            Class of each row of the index.
        scale : Tensor of shape (g,), float32
            Logit scales.
        """
        (g, b), (c, d) = index.shape, classes.shape[1:]
        w_fit = c * d if len(classes) > 1 else 0
        logits = self.buffers("logits", r, g, b, c)
        errors = self.buffers("errors", q, g, b, c)
        along, losses = self.buffers("along", r, g, b), self.buffers("losses", r, g, b)
        grid, options = self._tile(b, c, q, g)
        _logits[grid](q, index, r, classes, scale, logits, b, c, d, b * d, w_fit, GATHER=gather, **options)
        block = min(MOST_CLASSES, max(16, triton.next_power_of_2(c)))
        _errors[(b, g)](
            logits, r, labels, index, scale, errors, along, losses, b, c, GATHER=True, BLOCK=block, num_warps=4
        )
        return losses, errors, along

    def rows(
        self, errors: Tensor, classes: Tensor, side: TritonSide, along: Tensor, weighted: bool, relu: bool
    ) -> Tensor:
        """Return dA (g, b, d) in the products' dtype where ``weighted``, else dq."""
        (g, b, c), d = errors.shape, classes.shape[2]
        out = self.buffers("dq", errors, g, b, d)
        grid, options = self._tile(b, d, errors, g)
        w_fit, adapted = (c * d if len(classes) > 1 else 0), side.q if side.adapted is None else side.adapted
        _rows[grid](
            errors, classes, side.q, along, side.share, adapted, out, b, c, d, w_fit,
            WEIGHTED=weighted, RELU=relu and weighted, **options,
        )  # fmt: skip
        return out

    def through(self, name: str, da: Tensor, up: Tensor, hidden: Tensor) -> Tensor:
        """Return dH (g, n, h)."""
        (g, n, d), h = da.shape, hidden.shape[2]
        dh = self.buffers(f"{name} dh", da, g, n, h)
        grid, options = self._tile(n, h, da, g)
        _through[grid](da, up, hidden, dh, n, d, h, **options)
        return dh

    def weights(self, a: Tensor, index: Tensor | None, e: Tensor, out: Tensor) -> Tensor:
        """Return a^T e (g, p, m) in ``out``: a is (g, n, p), (1, n, p) shared, or (N, p) with an index; e (g, n, m)."""
        g, n, m = e.shape
        p = a.shape[-1]
        a_fit = 0 if index is not None or len(a) == 1 else n * p
        grid, options = self._tile(p, m, e, g)
        _weights[grid](a, e if index is None else index, e, out, n, p, m, a_fit, GATHER=index is not None, **options)
        return out


# ---------------------------------------------------------------------------- a step


class TritonSide:
    """One side of a stack: ``x`` (N, d) with an index (g, b) for images, (1, c, d) without one for classes."""

    def __init__(
        self,
        name: str,
        x: Tensor,
        index: Tensor | None,
        weights: tuple[Tensor, Tensor],
        ratio: Ratio,
        form: str,
        launches: Launches,
    ) -> None:
        self.name, self.rows, self.index, self.weights, self.form = name, x, index, weights, form
        self.ratio, self.ratio_values, self.launches = ratio, ratio.values, launches
        down, up = weights
        g, n = len(down), (x.shape[-2] if index is None else index.shape[1])
        self.share = ratio.values.float().expand(g, n, 1)[..., 0].contiguous()  # (g, n)
        # A itself is needed by the second ReLU and by a trained ratio alone.
        keep = form == "released" or ratio.mode != "fixed"
        self.hidden = launches.hidden(name, x, index, down)
        adapted, self.q, self.lengths = launches.blend(
            name, x, index, self.hidden, up, self.share, form == "released", keep
        )
        self.adapted = adapted if keep else None
        self.r = self.lengths[..., None]

    @property
    def gathered(self) -> Tensor:
        """Rows (g or 1, n, d) as a tensor of their own, for trained ratios."""
        return self.rows if self.index is None else self.rows[self.index]

    def store_gradients(self, da: Tensor, gradients: Parameters) -> None:
        """Write dW1 and dW2 from dA (g, n, d)."""
        down, up = self.weights
        dh = self.launches.through(self.name, da, up, self.hidden)
        self.launches.weights(self.hidden, None, da, gradients[f"{self.name}_up"])
        self.launches.weights(self.rows, self.index, dh, gradients[f"{self.name}_down"])


class TritonAdapterStep(CpuAdapterStep):
    """As :class:`~cafe.kernels.cpu.CpuAdapterStep`, on a GPU, all configurations of the stack in one launch.

    Features may be float32, bfloat16 or float16; parameters are float32. Nothing here waits for the device, so a step
    can be captured in a graph (training/steps.py).

    Parameters
    ----------
    *arguments
        As for the CPU kernel.
    precision : {"ieee", "tf32"}, default="ieee"
        How float32 operands enter a product; sums are float32 either way.
    card : Card, default=None
        What tiles are chosen by; None for the device that the features are on.
    """

    def __init__(self, *arguments: Any, precision: str = "ieee", card: Card | None = None) -> None:
        super().__init__(*arguments)
        self.features = self.features.contiguous()
        card = card_of(str(self.features.device)) if card is None else card
        self.launches = Launches(card, precision, self.buffers)

    def __call__(
        self, parameters: Parameters, index: Tensor, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,) and gradients; see the CPU kernel."""
        narrow, shape, index = self.prepare(parameters), self.shape, index.contiguous()
        text: TritonSide | None = None
        image: TritonSide | None = None
        classes = self.unit_text[None]  # (1, c, d)
        if shape.adapts_text:
            beta = ratio_forward("beta", shape.beta_mode, self.hyper["beta"], parameters, self.text, self.feature_mean)
            text = self._run_side("text", self.narrow_text, None, narrow, beta)
            classes = (text.q * text.r).to(text.q.dtype)  # (g, c, d)
        if shape.adapts_image:
            own = self.features[index] if shape.alpha_mode == "learned" else self.features[:1][None]
            alpha = ratio_forward("alpha", shape.alpha_mode, self.hyper["alpha"], parameters, own, self.text_mean)
            image = self._run_side("image", self.features, index, narrow, alpha)
        q = self.features if image is None else image.q
        r = self.row_r[..., 0][index] if image is None else image.lengths
        scale = self.hyper["logit_scale"]
        losses, errors, along = self.launches.cross_entropy(q, r, index, image is None, classes, self.labels, scale)
        if image is not None:
            weighted = shape.alpha_mode == "fixed"
            dq = self.launches.rows(errors, classes, image, along, weighted, shape.form == "released")
            self._finish(parameters, image, dq, weighted, self.text_mean)
        if text is not None:
            e = self.buffers("e", self.text, len(index), *classes.shape[1:])
            if image is None:
                q = self.features[index]
            # G^T q: the classes' columns of G times the rows.
            self.launches.weights(errors, None, q, e)
            u = e * text.r
            dot = (text.q * u).sum(-1, keepdim=True) * text.r * text.r  # (g, c, 1)
            dq = u.addcmul_(text.q, dot, value=-1).to(text.q.dtype)
            self._finish(parameters, text, dq, False, self.feature_mean)
        return losses.mean(1), self.gradients

    def _run_side(self, name: str, x: Tensor, index: Tensor | None, narrow: Parameters, ratio: Ratio) -> TritonSide:
        weights = narrow[f"{name}_down"], narrow[f"{name}_up"]
        return TritonSide(name, x, index, weights, ratio, self.shape.form, self.launches)

    def _finish(self, parameters: Parameters, side: TritonSide, dq: Tensor, weighted: bool, mean: Tensor) -> None:
        """Write the gradients of one side from dq, or from dA where ``weighted``."""
        if side.ratio.mode != "fixed" and side.adapted is not None:
            error = ((side.adapted - side.gathered) * dq).sum(-1, keepdim=True).to(side.r.dtype)
            inputs = (self.text if side.name == "text" else side.gathered), mean
            for key, value in ratio_gradients(side.ratio, error, parameters, *inputs).items():
                self.gradients[key].copy_(value)
        if not weighted:
            dq = dq * side.ratio_values.to(dq.dtype)
            if side.form == "released" and side.adapted is not None:
                zero_where_zero(dq, side.adapted)
        side.store_gradients(dq, self.gradients)
