"""Loss and gradients of class weights from formulas instead of autograd, in blocks that stay in cache.

Letters and the loss as in class_weights_reference.py. With r_j = 1 / |w_j|, P the softmax of the logits L, Y the
one-hot labels and share_i = v_i / sum v (1 / b without row weights), for logits that are cosines:

    L = (f w^T) s r  (r along the columns)  + o             D = share (P - Y)
    rho_j = sum_i D_ij (L_ij - o_j)                         = u_j . dCE/du_j, from numbers that are there anyway
    G = a s r D                                             (b, c), made and used block by block
    q_j = 2 a^2 pull_j / c + decay

    dloss/dx = G^T f  -  a r^2 rho w  +  q x                dloss/do = sum_i D_i

since dCE/dw_j = r_j (dCE/du_j - u_j rho_j). Without cosines r = 1 and rho is left out. Where w itself is trained,
a = 1, x = w - t and dloss/dx is dloss/dw. The penalties together are sum_j (q_j / 2) |x_j|^2.

Rows of w are never scaled to length one: r goes into the columns of L and G, which are passed over anyway and have
fewer numbers than w where a batch has fewer rows than there are features. Where w itself is trained, the terms in w and
t together are (q - a r^2 rho) w - q t.

Products run in the dtype of the features: float64, float32, or bfloat16 with float32 accumulation inside a product.
Softmax, lengths, the terms in w and t, parameters and the update stay in the parameters' dtype: Adam divides by the
size of a gradient, so that rounding of w - t would be a step of full length wherever nothing else moves a class.

The interface is the trainer's step: made of what stays the same, called with parameters and the rows of a batch, it
returns losses and gradients. A kernel for another device takes the same arguments. A step is laid out as a list of
calls once (calls.py), and every step runs it: methods that take ``calls`` add to that list, and return where its calls
will write.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from cafe.kernels.calls import Buffers, Calls, LaidOut, Layouts
from cafe.kernels.class_weights_reference import Parameters, WeightsShape
from cafe.kernels.cpu_sides import invert

# Bytes of one block's logits and their gradient. Every block adds its own gradient of the weights in a pass over these,
# so that few blocks are faster even where their logits leave a core's cache: on 4,000 x 512 x 1,000 in bfloat16, 32 MiB
# took 0.85 of 4 MiB's time, in float32 0.95, and 64 MiB no less, with a last-level cache of 32 MiB.
BLOCK_BYTES = 2**25
# Products with fewer rows than this waste more than the cache saves.
LEAST_ROWS = 64
# Revision of the step: a larger number makes the timings of older programs void.
REVISION = 4


class ClassWeightStep:
    """Losses and gradients of a stack of configurations, step after step.

    Parameters
    ----------
    shape : WeightsShape
        What the configurations share.
    hyper : dict of str to Tensor of shape (g,)
        ``logit_scale``, ``decay``, and ``residual_scale`` where a residual is trained.
    features : Tensor of shape (n, d)
        All rows, in the dtype of the products; of unit length where logits are to be cosines.
    labels : Tensor of shape (n,), int64
        Class row of each.
    anchor : Tensor of shape (c, d)
        t, in the parameters' dtype.
    pull : Tensor of shape (g, c), default=None
        Strength by which each class is held to its anchor; None for zeros.
    row_weights : Tensor of shape (n,), default=None
        How much each row counts; None for all alike.
    block_bytes, least_rows : int
        How much memory a block of rows may need, and how few rows it may have for that.

    Notes
    -----
    Formulas in the module's docstring. A single configuration works on matrices with ``torch.mm``, a stack on
    (g, rows, ...) with ``torch.bmm``, but for bfloat16, whose batched products are slow: these run one after the other.

    Examples
    --------
    >>> hyper = {"logit_scale": torch.tensor([1.0]), "decay": torch.zeros(1)}
    >>> rows, labels = torch.eye(2), torch.tensor([0, 1])
    >>> step = ClassWeightStep(WeightsShape(cosines=False), hyper, rows, labels, torch.zeros(2, 2))
    >>> losses, gradients = step({"weights": torch.zeros(1, 2, 2)}, torch.tensor([[0, 1]]))
    >>> losses, gradients["weights"]
    (tensor([0.6931]), tensor([[[-0.2500,  0.2500],
             [ 0.2500, -0.2500]]]))
    """

    def __init__(
        self,
        shape: WeightsShape,
        hyper: Parameters,
        features: Tensor,
        labels: Tensor,
        anchor: Tensor,
        pull: Tensor | None = None,
        row_weights: Tensor | None = None,
        block_bytes: int = BLOCK_BYTES,
        least_rows: int = LEAST_ROWS,
    ) -> None:
        self.shape, self.features, self.labels, self.anchor = shape, features, labels, anchor
        self.row_weights, self.least_rows, self.block_bytes = row_weights, least_rows, block_bytes
        self.scale = hyper["logit_scale"][:, None, None]  # (g, 1, 1)
        self.a = hyper["residual_scale"][:, None, None] if shape.residual else torch.ones_like(self.scale)
        self.strength = hyper["decay"][:, None, None].expand(-1, len(anchor), 1)  # q, (g, c, 1)
        if pull is not None:
            self.strength = self.strength + 2 / len(anchor) * self.a.square() * pull[:, :, None]
        # Asked once, where the step is made: later a device would have to be waited for.
        self.is_pulled = bool(self.strength.any())
        self.alike = pull is None  # whether q is one number for all classes
        # q t, (g, c, d), where w itself is trained
        self.pulled = self.strength * anchor if self.is_pulled and not shape.residual else None
        self.stacked = features.dtype != torch.bfloat16
        self.unscaled = not shape.cosines and bool((self.scale == 1).all())
        self.minus_one = anchor.new_full((1, 1), -1.0)
        self.buffers, self.gradients = Buffers(), Parameters()
        self._layouts = Layouts()

    @cached_property
    def numbers(self) -> tuple[list[float], list[float]]:
        """The scales of the configurations' residuals and their q, where all classes have one, on the host."""
        return self.a.flatten().tolist(), self.strength[:, 0, 0].tolist()

    def __call__(
        self, parameters: Parameters, index: Tensor | None, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,), or None, and gradients.

        Parameters
        ----------
        parameters : dict of str to Tensor
            ``weights`` (g, c, d) and, where the shape has one, ``offset`` (g, c).
        index : Tensor of shape (g, b), int64, or None
            Rows of each configuration's batch; None for all rows in their order.
        with_losses : bool, default=True
            Whether losses are wanted.

        Returns
        -------
        tuple of Tensor of shape (g,) or None, and dict of str to Tensor
            The gradients are overwritten by the next call.
        """
        key = (with_losses, *(() if index is None else index.shape))
        laid = self._layouts(parameters, key, partial(self._lay_out, parameters, index, with_losses))
        return laid.run(index), self.gradients

    def _lay_out(self, parameters: Parameters, index: Tensor | None, with_losses: bool) -> LaidOut:
        """Lay a step out for these parameters and batches of that shape."""
        if not self.gradients:
            self.gradients = {name: torch.empty_like(value) for name, value in parameters.items()}
        g = len(parameters["weights"])
        kept = None if index is None else torch.empty_like(index, memory_format=torch.contiguous_format)
        laid = LaidOut(Calls(self.buffers), kept, self.anchor.new_empty(g) if with_losses else None)
        if laid.losses is not None:
            laid.calls.add(laid.losses.zero_)
        for part in list(range(g)) if g == 1 or not self.stacked else [slice(None)]:
            self._lay_out_part(laid, parameters, part)
        return laid

    def _lay_out_part(self, laid: LaidOut, parameters: Parameters, part: int | slice) -> None:
        """Lay out one configuration, (rows, ...), or the whole stack, (g, rows, ...)."""
        calls, trained, target = laid.calls, parameters["weights"][part], self.gradients["weights"][part]
        index = None if laid.index is None else laid.index[part]
        losses = None if laid.losses is None else laid.losses[part]
        w = self._weights(calls, trained, part)  # ([g,] c, d)
        narrow = calls.cast(self.features, w, "narrow")
        offset = parameters["offset"][part][..., None, :] if self.shape.offset else None
        b = len(self.labels) if index is None else index.shape[-1]
        share = 1.0 / b if self.row_weights is None else 1.0
        a, columns = self.numbers[0][part] if isinstance(part, int) else self.a, self.scale[part]
        r: Tensor | None = None  # ([g,] c, 1)
        if self.shape.cosines:
            r = calls.into(self.buffers("r", w, *w.shape[:-1], 1), torch.linalg.vector_norm, w, dim=-1, keepdim=True)
            calls.add(invert, r)
            columns = calls.into(self.buffers("columns", w, *r.mT.shape), torch.mul, r.mT, columns)
            factor = calls.into(self.buffers("factor", w, *columns.shape), torch.mul, columns, a * share)
        else:
            factor = columns * (a * share)  # of D in G
        # One number scales the gradient just as well, where that has fewer numbers than D.
        scales_gradient = r is None and b > w.shape[-1]
        total = self._total(calls, index)
        rho = offset_gradient = None
        size = max(self.least_rows, self.block_bytes // (2 * w.element_size() * w[..., 0].numel()))
        for first in range(0, b, size):
            f, labels, v = self._rows(calls, index, first, min(b, first + size), total)
            product = self._multiply(calls, "logits of product", f, narrow.mT)
            logits = calls.cast(self.anchor, product, "logits")
            if not self.unscaled:
                calls.add(logits.mul_, columns)
            errors = self._errors(calls, logits, offset, labels, v, share, losses)
            if offset is not None:
                offset_gradient = self._column_sums(calls, "offset gradient", errors, offset_gradient)
            if r is not None:
                calls.add(logits.mul_, errors)
                rho = self._column_sums(calls, "rho", logits, rho)
            if not scales_gradient:
                calls.add(errors.mul_, factor)
            error = errors
            if product.dtype != errors.dtype:  # the product's memory is in cache, and free
                calls.add(product.copy_, errors)
                error = product
            rows = f.expand(len(error), *f.shape) if error.ndim > f.ndim else f
            self._add_product(calls, target, error.mT, rows, first == 0)
        if scales_gradient:
            calls.add(target.mul_, factor)
        self._add_terms(calls, trained, w, r, rho, share, part)
        if offset_gradient is not None:
            calls.into(self.gradients["offset"][part], torch.mul, offset_gradient[..., 0, :], share)
        if losses is not None and self.is_pulled:
            calls.add(_add_penalty, losses, self.strength[part], trained, None if self.shape.residual else self.anchor)

    def _weights(self, calls: Calls, trained: Tensor, part: int | slice) -> Tensor:
        """Return w, ([g,] c, d)."""
        if not self.shape.residual:
            return trained
        w = self.buffers("weights", trained, *trained.shape)
        if isinstance(part, int):
            return calls.into(w, torch.add, self.anchor, trained, alpha=self.numbers[0][part])
        calls.into(w, torch.mul, trained, self.a)
        calls.add(w.add_, self.anchor)
        return w

    def _total(self, calls: Calls, index: Tensor | None) -> Tensor | None:
        """Return the sum of the weights of a batch's rows, ([g,] 1); None where all rows count alike."""
        if self.row_weights is None:
            return None
        if index is None:
            return self.row_weights.sum(-1, keepdim=True)
        weights = self._taken(calls, "weights of batch", self.row_weights, index)
        return calls.into(self.buffers("total", weights, *index.shape[:-1], 1), torch.sum, weights, -1, keepdim=True)

    def _rows(
        self, calls: Calls, index: Tensor | None, first: int, last: int, total: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return features ([g,] rows, d), labels ([g,] rows, 1) and shares ([g,] rows, 1), or None, of a block."""
        if index is None:
            block = slice(first, last)
            v = None if self.row_weights is None or total is None else (self.row_weights[block] / total)[:, None]
            return self.features[block], self.labels[block, None], v
        rows = index[..., first:last]
        f = self._taken(calls, "rows", self.features, rows)
        labels = self._taken(calls, "labels", self.labels, rows)[..., None]
        if self.row_weights is None or total is None:
            return f, labels, None
        weights = self._taken(calls, "weights of rows", self.row_weights, rows)
        calls.add(weights.div_, total)
        return f, labels, weights[..., None]

    def _taken(self, calls: Calls, name: str, values: Tensor, rows: Tensor) -> Tensor:
        """Return those rows (..., rows) of (n,) or (n, d)."""
        out = self.buffers(name, values, *rows.shape, *values.shape[1:])
        if rows.is_contiguous():
            return calls.into(out.flatten(0, rows.ndim - 1), torch.index_select, values, 0, rows.flatten()).view_as(out)
        calls.add(_take, values, rows, out)
        return out

    def _column_sums(self, calls: Calls, name: str, of_rows: Tensor, total: Tensor | None) -> Tensor:
        """Return the sums over the rows of this block, and over those of ``total``, ([g,] 1, c)."""
        shape = (*of_rows.shape[:-2], 1, of_rows.shape[-1])
        if total is None:
            return calls.into(self.buffers(name, of_rows, *shape), torch.sum, of_rows, -2, keepdim=True)
        more = calls.into(self.buffers(f"more of {name}", of_rows, *shape), torch.sum, of_rows, -2, keepdim=True)
        calls.add(total.add_, more)
        return total

    def _errors(
        self,
        calls: Calls,
        logits: Tensor,
        offset: Tensor | None,
        labels: Tensor,
        v: Tensor | None,
        share: float,
        losses: Tensor | None,
    ) -> Tensor:
        """Return softmax minus one-hot labels, times the rows' weights v if they have any; add a block's ``losses``.

        ``share`` is what a row counts there.
        """
        # Logits of plain products are needed no longer.
        errors = self.buffers("errors", logits, *logits.shape) if self.shape.cosines else logits
        full = logits if offset is None else calls.into(errors, torch.add, logits, offset)
        own = labels if labels.ndim == full.ndim else labels.expand(*full.shape[:-1], 1)
        if losses is not None:
            calls.add(_add_losses, losses, full, own, v, share)
        calls.into(errors, torch.softmax, full, -1)
        calls.add(errors.scatter_add_, -1, own, self.minus_one.expand(own.shape))
        if v is not None:
            calls.add(errors.mul_, v)
        return errors

    def _add_terms(
        self,
        calls: Calls,
        trained: Tensor,
        w: Tensor,
        r: Tensor | None,
        rho: Tensor | None,
        share: float,
        part: int | slice,
    ) -> None:
        """Add to the gradient what stands beside the product in it."""
        target = self.gradients["weights"][part]
        factor = None if self.pulled is None else self.strength[part]
        if r is not None and rho is not None:
            a = self.numbers[0][part] if isinstance(part, int) else self.a
            along = calls.into(self.buffers("along", r, *r.shape), torch.mul, rho.mT, r)
            calls.add(along.mul_, r)
            calls.add(along.mul_, -share * a)  # -a r^2 rho, ([g,] c, 1)
            if factor is not None:
                calls.add(along.add_, factor)
            factor = along
        if factor is not None:
            calls.add(target.addcmul_, w, factor)
        if self.pulled is not None:
            calls.add(target.sub_, self.pulled[part])
        elif self.is_pulled and self.alike and isinstance(part, int):
            calls.add(target.add_, trained, alpha=self.numbers[1][part])
        elif self.is_pulled:
            calls.add(target.addcmul_, trained, self.strength[part])

    def _add_product(self, calls: Calls, target: Tensor, a: Tensor, b: Tensor, fresh: bool) -> None:
        """Add the product of a and b to the target; write it there where that is fresh."""
        if target.dtype != a.dtype:
            product = calls.into(self.buffers("product to add", a, *target.shape), torch.mm, a, b)
            if fresh:
                calls.add(target.copy_, product)
            else:
                calls.add(target.add_, calls.cast(target, product, "wide product to add"))
        elif fresh:
            calls.into(target, torch.mm if a.ndim == 2 else torch.bmm, a, b)
        else:
            calls.add(target.addmm_ if a.ndim == 2 else target.baddbmm_, a, b)

    def _multiply(self, calls: Calls, name: str, f: Tensor, columns: Tensor) -> Tensor:
        """Return f ([g,] rows, d) times columns ([g,] d, c)."""
        out = self.buffers(name, f, *columns.shape[:-2], f.shape[-2], columns.shape[-1])
        if columns.ndim == 2:
            return calls.into(out, torch.mm, f, columns)
        return calls.into(out, torch.matmul if f.ndim == 2 else torch.bmm, f, columns)


def _take(values: Tensor, rows: Tensor, out: Tensor) -> None:
    """Write those rows (..., rows) of (n,) or (n, d)."""
    torch.index_select(values, 0, rows.flatten(), out=out.flatten(0, rows.ndim - 1))


def _add_losses(losses: Tensor, logits: Tensor, labels: Tensor, v: Tensor | None, share: float) -> None:
    """Add the cross-entropies of a block's rows, ([g,] rows, c), times what each counts, to the losses ([g])."""
    each = torch.logsumexp(logits, -1, keepdim=True) - logits.gather(-1, labels)
    losses += share * (each if v is None else v * each).sum((-2, -1))


def _add_penalty(losses: Tensor, strength: Tensor, trained: Tensor, anchor: Tensor | None) -> None:
    """Add sum_j (q_j / 2) |x_j|^2, with x the trained weights or, where these are w itself, w - t."""
    x = trained if anchor is None else trained - anchor
    losses += (strength / 2 * x.square()).sum((-2, -1))


@dataclass(frozen=True)
class WeightSizes:
    """What decides how long a step of class weights of one configuration takes.

    Attributes
    ----------
    cosines : bool
        Whether class weights are scaled to length one.
    batch, width, classes : int
        b, d, c.
    """

    cosines: bool
    batch: int
    width: int
    classes: int

    @property
    def multiply_adds(self) -> int:
        """Logits forward, and the gradient in class weights backward."""
        return 2 * self.batch * self.width * self.classes

    def __str__(self) -> str:
        """Return the sizes as text: the key under which measured seconds are stored."""
        kind = "cosines" if self.cosines else "products"
        sizes = f"batch {self.batch}, width {self.width}, {self.classes} classes"
        return f"class weights, revision {REVISION}, {kind}, {sizes}"

    def timed_step(self, products: torch.dtype) -> Callable[[], object]:
        """Return a step on random rows, to be called with nothing."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(self.batch, self.width, generator=generator) / math.sqrt(self.width)
        weights = torch.randn(1, self.classes, self.width, generator=generator) / math.sqrt(self.width)
        labels, index = torch.arange(self.batch) % self.classes, torch.arange(self.batch)[None]
        hyper = {"logit_scale": torch.tensor([100.0]), "decay": torch.zeros(1)}
        step = ClassWeightStep(WeightsShape(cosines=self.cosines), hyper, rows.to(products), labels, weights[0])
        return lambda: step({"weights": weights}, index, False)
