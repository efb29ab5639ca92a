"""Loss and gradients of class weights from formulas instead of autograd, in blocks that stay in cache.

Letters and the loss as in class_weights_reference.py. With r_j = 1 / |w_j|, P the softmax of the logits L, Y the
one-hot labels and share_i = v_i / sum v (1 / b without row weights), for logits that are cosines:

    L = (f w^T) s r  (r along the columns)  + o             D = share (P - Y)
    rho_j = sum_i D_ij (L_ij - o_j)                         = u_j . dCE/du_j, from numbers that are there anyway
    G = a s r D                                             (b, c), made and used block by block
    q_j = 2 a pull_j / c + decay / a

    dloss/dx = G^T f  +  (q - a r^2 rho) w  -  q t          dloss/do = sum_i D_i

since dCE/dw_j = r_j (dCE/du_j - u_j rho_j). Without cosines r = 1 and rho is left out. Where w itself is trained,
a = 1 and dloss/dx is dloss/dw. The penalties together are sum_j (q_j / 2a) |w_j - t_j|^2.

Rows of w are never scaled to length one: r goes into the columns of L and G, which are passed over anyway and have
fewer numbers than w where a batch has fewer rows than there are features. The terms in w and t are what the product
G^T f is added to.

Products run in the dtype of the features: float64, float32, or bfloat16 with float32 accumulation inside a product.
Then w is rounded once a step, and where there is one block (q - a r^2 rho) w - q t is made in bfloat16 too. Softmax,
lengths, parameters and the update stay in the parameters' dtype.

The interface is the trainer's step: made of what stays the same, called with parameters and the rows of a batch, it
returns losses and gradients. A kernel for another device takes the same arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cafe.kernels.class_weights_reference import Parameters, WeightsShape
from cafe.kernels.cpu import Buffers, invert

# Bytes of one block's logits and their gradient: small beside a last-level cache.
BLOCK_BYTES = 2**23
# Products with fewer rows than this waste more than the cache saves.
LEAST_ROWS = 64


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
        c = len(anchor)
        self.pull_to_anchor = (hyper["decay"][:, None, None] / self.a).expand(-1, c, 1)  # q, (g, c, 1)
        if pull is not None:
            self.pull_to_anchor = self.pull_to_anchor + 2 * self.a / c * pull[:, :, None]
        # Asked once, where the step is made: later a device would have to be waited for.
        self.is_pulled = bool(self.pull_to_anchor.any())
        self.pulled = (self.pull_to_anchor * anchor).to(features.dtype) if self.is_pulled else None  # q t, (g, c, d)
        self.stacked = features.dtype != torch.bfloat16
        self.minus_one = anchor.new_full((1, 1), -1.0)
        self.buffers, self.gradients = Buffers(), Parameters()

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
        narrow = w if w.dtype == self.features.dtype else self.buffers("narrow", self.features, *w.shape).copy_(w)
        offset = parameters["offset"][part][..., None, :] if self.shape.offset else None
        b = len(self.labels) if index is None else index.shape[-1]
        r = invert(torch.linalg.vector_norm(w, dim=-1, keepdim=True)) if self.shape.cosines else None  # ([g,] c, 1)
        columns = self.scale[part] if r is None else self.scale[part] * r.mT
        share = 1.0 / b if self.row_weights is None else 1.0
        total = None if self.row_weights is None else self._taken(self.row_weights, index).sum(-1, keepdim=True)
        rho = offset_gradient = None
        rows = max(self.least_rows, self.block_bytes // (2 * w.element_size() * w[..., 0].numel()))
        for first in range(0, b, rows):
            f, labels, v = self._rows(index, first, min(b, first + rows), total)
            product = self._multiply("logits of product", f, narrow.mT)
            logits = self._wide("logits", product)
            logits.mul_(columns)
            errors = self._errors(logits, offset, labels, v, share, part, losses)
            if offset is not None:
                sums = errors.sum(-2, keepdim=True)
                offset_gradient = sums if offset_gradient is None else offset_gradient.add_(sums)
            if r is not None:
                along = logits.mul_(errors).sum(-2, keepdim=True)
                rho = along if rho is None else rho.add_(along)
            errors.mul_(self.a[part] * columns * share)
            error = product.copy_(errors) if product.dtype != errors.dtype else errors
            own = None
            if first + rows >= b:
                own = self._own_factor(r, rho, share, part)
            self._add_product(part, error.mT, f, w, narrow, own, fresh=first == 0)
        if offset_gradient is not None:
            self.gradients["offset"][part] = offset_gradient[..., 0, :] * share
        if losses is not None and self.is_pulled:
            strength = self.pull_to_anchor[part] / (2 * self.a[part])
            losses[part] += (strength * (w - self.anchor).square()).sum((-2, -1))

    def _weights(self, trained: Tensor, part: int | slice) -> Tensor:
        """Return w, ([g,] c, d)."""
        if not self.shape.residual:
            return trained
        w = self.buffers("weights", trained, *trained.shape)
        if isinstance(part, int):
            return torch.add(self.anchor, trained, alpha=self.a[part].item(), out=w)
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
        """Return D times the number of rows, or D itself where rows have weights; adds a block's share to losses."""
        errors = self.buffers("errors", logits, *logits.shape)
        full = logits if offset is None else torch.add(logits, offset, out=errors)
        if losses is not None:
            labels_of = labels if labels.ndim == full.ndim else labels.expand(*full.shape[:-1], 1)
            each = torch.logsumexp(full, -1, keepdim=True) - full.gather(-1, labels_of)
            losses[part] += share * (each if v is None else v * each).sum((-2, -1))
        torch.softmax(full, -1, out=errors)
        errors.scatter_add_(-1, labels.expand(*errors.shape[:-1], 1), self.minus_one.expand(*errors.shape[:-1], 1))
        return errors if v is None else errors.mul_(v)

    def _own_factor(self, r: Tensor | None, rho: Tensor | None, share: float, part: int | slice) -> Tensor | None:
        """Return q - a r^2 rho, ([g,] c, 1), by which w itself is in its gradient; None where that is nothing."""
        factor = self.pull_to_anchor[part] if self.is_pulled else None
        if r is None or rho is None:
            return factor
        along = rho.mT * (r * r) * (-share * self.a[part])
        return along if factor is None else along + factor

    def _add_product(
        self,
        part: int | slice,
        error: Tensor,
        f: Tensor,
        w: Tensor,
        narrow: Tensor,
        own: Tensor | None,
        fresh: bool,
    ) -> None:
        """Add G^T f of a block to the gradient and, with the last block, the terms in w and t.

        ``own`` is None before the last block, and where w and t are not in the gradient.
        """
        target = self.gradients["weights"][part]
        if error.ndim == 3 and f.ndim == 2:
            f = f.expand(len(error), *f.shape)
        add_product = torch.baddbmm if error.ndim == 3 else torch.addmm
        if target.dtype == f.dtype:
            if own is not None:
                terms = torch.mul(w, own, out=target if fresh else self.buffers("terms", target, *target.shape))
                if self.pulled is not None:
                    terms.sub_(self.pulled[part])
                if not fresh:
                    target.add_(terms)
            elif fresh:
                (torch.bmm if error.ndim == 3 else torch.mm)(error, f, out=target)
                return
            add_product(target, error, f, out=target)
            return
        product = self.buffers("product", f, *target.shape)
        if own is not None:
            terms = torch.mul(narrow, own.to(f.dtype), out=self.buffers("terms", f, *target.shape))
            if self.pulled is not None:
                terms.sub_(self.pulled[part])
            add_product(terms, error, f, out=product)
        else:
            torch.mm(error, f, out=product)
        if fresh:
            target.copy_(product)
        else:
            target.add_(self.buffers("wide product", target, *target.shape).copy_(product))

    def _multiply(self, name: str, f: Tensor, columns: Tensor) -> Tensor:
        """Return f ([g,] rows, d) times columns ([g,] d, c)."""
        out = self.buffers(name, f, *columns.shape[:-2], f.shape[-2], columns.shape[-1])
        if columns.ndim == 2:
            return torch.mm(f, columns, out=out)
        return torch.matmul(f, columns, out=out) if f.ndim == 2 else torch.bmm(f, columns, out=out)

    def _wide(self, name: str, value: Tensor) -> Tensor:
        """Return the value in the parameters' dtype, in a buffer of that name where that is another."""
        if value.dtype == self.anchor.dtype:
            return value
        return self.buffers(name, self.anchor, *value.shape).copy_(value)
