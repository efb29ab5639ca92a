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
returns losses and gradients. A kernel for another device takes the same arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cafe.kernels.calls import Buffers
from cafe.kernels.class_weights_reference import Parameters, WeightsShape
from cafe.kernels.cpu_sides import add_product, invert

# Bytes of one block's logits and their gradient. Every block adds its own gradient of the weights in a pass over these,
# so that few blocks are faster even where their logits leave a core's cache: on 4,000 x 512 x 1,000 in bfloat16, 32 MiB
# took 0.85 of 4 MiB's time, in float32 0.95, and 64 MiB no less, with a last-level cache of 32 MiB.
BLOCK_BYTES = 2**25
# Products with fewer rows than this waste more than the cache saves.
LEAST_ROWS = 64
# Revision of the step: a larger number makes the timings of older programs void.
REVISION = 3


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
        # Of each configuration alone; views cost as much as arithmetic on a few classes.
        self.scales, self.strengths = self.scale.unbind(0), self.strength.unbind(0)
        self.buffers, self.gradients = Buffers(), Parameters()

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
        if not self.gradients:
            self.gradients = {name: torch.empty_like(value) for name, value in parameters.items()}
        g = len(parameters["weights"])
        losses = self.anchor.new_zeros(g) if with_losses else None
        parts: list[int | slice] = list(range(g)) if g == 1 or not self.stacked else [slice(None)]
        for part in parts:
            self._run(parameters, None if index is None else index[part], part, losses)
        return losses, self.gradients

    def _run(self, parameters: Parameters, index: Tensor | None, part: int | slice, losses: Tensor | None) -> None:
        """Do one configuration, (rows, ...), or the whole stack, (g, rows, ...)."""
        w = self._weights(parameters["weights"][part], part)  # ([g,] c, d)
        narrow = self.buffers.in_dtype_of(self.features, w, "narrow")
        offset = parameters["offset"][part][..., None, :] if self.shape.offset else None
        b = len(self.labels) if index is None else index.shape[-1]
        r = invert(torch.linalg.vector_norm(w, dim=-1, keepdim=True)) if self.shape.cosines else None  # ([g,] c, 1)
        scale = self.scales[part] if isinstance(part, int) else self.scale
        columns = scale if r is None else scale * r.mT
        share = 1.0 / b if self.row_weights is None else 1.0
        total = None if self.row_weights is None else self._taken(self.row_weights, index).sum(-1, keepdim=True)
        rho = offset_gradient = None
        size = max(self.least_rows, self.block_bytes // (2 * w.element_size() * w[..., 0].numel()))
        a = self.numbers[0][part] if isinstance(part, int) else self.a
        factor = columns * (a * share)  # of D in G
        # One number scales the gradient just as well, where that has fewer numbers than D.
        scales_gradient = r is None and b > w.shape[-1]
        for first in range(0, b, size):
            f, labels, v = self._rows(index, first, min(b, first + size), total)
            product = self._multiply("logits of product", f, narrow.mT)
            logits = self.buffers.in_dtype_of(self.anchor, product, "logits")
            if not self.unscaled:
                logits.mul_(columns)
            errors = self._errors(logits, offset, labels, v, share, part, losses)
            if offset is not None:
                sums = errors.sum(-2, keepdim=True)
                offset_gradient = sums if offset_gradient is None else offset_gradient.add_(sums)
            if r is not None:
                along = logits.mul_(errors).sum(-2, keepdim=True)
                rho = along if rho is None else rho.add_(along)
            if not scales_gradient:
                errors.mul_(factor)
            error = product.copy_(errors) if product.dtype != errors.dtype else errors
            rows = f.expand(len(error), *f.shape) if error.ndim > f.ndim else f
            add_product(self.gradients["weights"][part], error.mT, rows, first == 0, self.buffers)
        if scales_gradient:
            self.gradients["weights"][part].mul_(factor)
        self._add_terms(parameters["weights"][part], w, r, rho, share, part)
        if offset_gradient is not None:
            self.gradients["offset"][part] = offset_gradient[..., 0, :] * share
        if losses is not None and self.is_pulled:
            x = parameters["weights"][part] if self.shape.residual else w - self.anchor
            losses[part] += (self.strength[part] / 2 * x.square()).sum((-2, -1))

    def _weights(self, trained: Tensor, part: int | slice) -> Tensor:
        """Return w, ([g,] c, d)."""
        if not self.shape.residual:
            return trained
        w = self.buffers("weights", trained, *trained.shape)
        if isinstance(part, int):
            return torch.add(self.anchor, trained, alpha=self.numbers[0][part], out=w)
        return torch.mul(trained, self.a, out=w).add_(self.anchor)

    def _rows(
        self, index: Tensor | None, first: int, last: int, total: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return features ([g,] rows, d), labels ([g,] rows, 1) and shares ([g,] rows, 1), or None, of a block."""
        if index is None:
            block = slice(first, last)
            v = None if self.row_weights is None or total is None else (self.row_weights[block] / total)[:, None]
            return self.features[block], self.labels[block, None], v
        rows = index[..., first:last]
        f = self.buffers("rows", self.features, *rows.shape, self.features.shape[1])
        torch.index_select(self.features, 0, rows.reshape(-1), out=f.view(-1, f.shape[-1]))
        v = None if self.row_weights is None or total is None else (self.row_weights[rows] / total)[..., None]
        return f, self.labels.take(rows)[..., None], v

    def _taken(self, values: Tensor, index: Tensor | None) -> Tensor:
        return values if index is None else values[index]

    def _errors(
        self,
        logits: Tensor,
        offset: Tensor | None,
        labels: Tensor,
        v: Tensor | None,
        share: float,
        part: int | slice,
        losses: Tensor | None,
    ) -> Tensor:
        """Return softmax minus one-hot labels, times the rows' weights v if they have any; add the losses of a block.

        ``part`` is the place of the block's configurations in ``losses``; ``share`` is what a row counts there.
        """
        # Logits of plain products are needed no longer.
        errors = self.buffers("errors", logits, *logits.shape) if self.shape.cosines else logits
        full = logits if offset is None else torch.add(logits, offset, out=errors)
        if losses is not None:
            labels_of = labels if labels.ndim == full.ndim else labels.expand(*full.shape[:-1], 1)
            each = torch.logsumexp(full, -1, keepdim=True) - full.gather(-1, labels_of)
            losses[part] += share * (each if v is None else v * each).sum((-2, -1))
        torch.softmax(full, -1, out=errors)
        own = labels if labels.ndim == errors.ndim else labels.expand(*errors.shape[:-1], 1)
        errors.scatter_add_(-1, own, self.minus_one.expand(own.shape))
        return errors if v is None else errors.mul_(v)

    def _add_terms(
        self, trained: Tensor, w: Tensor, r: Tensor | None, rho: Tensor | None, share: float, part: int | slice
    ) -> None:
        """Add to the gradient what stands beside the product in it."""
        target = self.gradients["weights"][part]
        strength = self.strengths[part] if isinstance(part, int) else self.strength
        factor = None if self.pulled is None else strength
        if r is not None and rho is not None:
            a = self.numbers[0][part] if isinstance(part, int) else self.a
            along = (rho.mT * r).mul_(r).mul_(-share * a)  # -a r^2 rho, ([g,] c, 1)
            factor = along if factor is None else along.add_(factor)
        if factor is not None:
            target.addcmul_(w, factor)
        if self.pulled is not None:
            target.sub_(self.pulled[part])
        elif self.is_pulled and self.alike and isinstance(part, int):
            target.add_(trained, alpha=self.numbers[1][part])
        elif self.is_pulled:
            target.addcmul_(trained, self.strength[part])

    def _multiply(self, name: str, f: Tensor, columns: Tensor) -> Tensor:
        """Return f ([g,] rows, d) times columns ([g,] d, c)."""
        out = self.buffers(name, f, *columns.shape[:-2], f.shape[-2], columns.shape[-1])
        if columns.ndim == 2:
            return torch.mm(f, columns, out=out)
        return torch.matmul(f, columns, out=out) if f.ndim == 2 else torch.bmm(f, columns, out=out)


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
