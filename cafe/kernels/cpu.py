"""The adapter's loss and gradients on a CPU, from formulas instead of autograd, in blocks that stay in cache.

Letters as in reference.py. For one configuration, with both sides written as

    H = ReLU(x W1)       A = H W2  (form "released": ReLU(H W2))       q = ratio A + (1 - ratio) x       r = 1/|q|

for images (q, r of shape (b, d), (b, 1); ratio alpha) and classes (p, t of (c, d), (c, 1); ratio beta):

    L = s r (q w^T),  w = t p          P = softmax(L)          Y = one-hot labels
    G = (s r / b) (P - Y)                                  (b, c), the one large thing, made and used block by block
    U = G w              = r times the gradient in q/|q|   (b, d)
    E = G^T q            = the gradient in p/|p|           (c, d)

    through the L2 norm:   dq = U - r^2 q (q . U)          dp = t E - t^2 p (p . t E)
    through the blend:     dA = ratio dq                   dratio = dq . (A - x)    (summed over rows that share it)
    through the adapter:   dA = 0 where A = 0 ("released") dW2 = H^T dA
                           dH = dA W2^T, 0 where H = 0     dW1 = x^T dH

Without an adapter on a side, q = x or p = W are constants and their rows need no gradient. Losses are
logsumexp(L) - L[label], only computed on steps that ask for them.

Products run in ``products`` dtype: float64, float32, or bfloat16 with float32 accumulation inside a product;
softmax, norms, parameters and the update stay in the parameters' dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cafe.kernels.cpu_ratios import Ratio, ratio_forward, ratio_gradients
from cafe.kernels.reference import AdapterShape, Parameters

# Bytes of one block's logits and features: small beside a last-level cache, and measured best of 1, 2, 4 and 8 MiB.
BLOCK_BYTES = 2**22
# Products with fewer rows than this waste more than the cache saves.
LEAST_ROWS = 64


class Workspace:
    """Buffers by name, made once: fresh memory costs a page fault per 4 KiB, as much as the arithmetic on it."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return the uninitialised buffer of that name and shape, of ``like``'s device and dtype."""
        found = self._buffers.get((name, shape))
        if found is None:
            found = like.new_empty(shape, dtype=dtype or like.dtype)
            self._buffers[name, shape] = found
        return found


class Side:
    """One side, image or text, of k configurations in one block: forward, then backward."""

    def __init__(
        self, name: str, x: Tensor, weights: tuple[Tensor, Tensor], ratio: Ratio, form: str, room: Workspace
    ) -> None:
        k, rows, d = len(weights[0]), *x.shape[1:]
        self.name, self.weights, self.ratio, self.form, self.room = name, weights, ratio, form, room
        self.x = x.expand(k, rows, d)
        self.hidden = torch.bmm(self.x, weights[0], out=room(f"{name} h", x, k, rows, weights[0].shape[2])).relu_()
        self.adapted = torch.bmm(self.hidden, weights[1], out=room(f"{name} a", x, k, rows, d))
        if form == "released":
            self.adapted.relu_()
        share = ratio.values.to(x.dtype)
        self.q = torch.lerp(self.x, self.adapted, share, out=room(f"{name} q", x, k, rows, d))
        self.r = reciprocal_length(self.q, ratio.values.dtype, room)

    def gradients(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return dW1, dW2 and, where the ratio is trained, dratio (k, rows, 1); u is r times the unit's gradient."""
        room, name, values = self.room, self.name, self.ratio.values
        dot = torch.mul(self.q, u, out=room(f"{name} d", u, *u.shape)).sum(-1, keepdim=True).to(self.r.dtype)
        dq = u.addcmul_(self.q, dot.mul_(self.r).mul_(self.r).to(u.dtype), value=-1)
        error = None
        if self.ratio.mode != "fixed":
            error = ((self.adapted - self.x) * dq).sum(-1, keepdim=True).to(self.r.dtype)
        da = dq.mul_(values.to(u.dtype))
        if self.form == "released":
            _zero_where_zero(da, self.adapted)
        k, rows, h = self.hidden.shape
        dh = torch.bmm(da, self.weights[1].mT, out=room(f"{name} dh", u, k, rows, h))
        _zero_where_zero(dh, self.hidden)
        up = torch.bmm(self.hidden.mT, da, out=room(f"{name} up", u, *self.weights[1].shape))
        down = torch.bmm(self.x.mT, dh, out=room(f"{name} down", u, *self.weights[0].shape))
        return down, up, error


def reciprocal_length(q: Tensor, dtype: torch.dtype, room: Workspace) -> Tensor:
    """Return 1 / |q| of rows, (k, rows, 1); a row of zeros, whose loss does not depend on it, gets 0."""
    wide = q if q.dtype == dtype else room("wide", q, *q.shape, dtype=dtype).copy_(q)
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return torch.where(length > 0, 1 / length, 0)


class CpuAdapterStep:
    """Losses and gradients of a stack of configurations, step after step.

    Parameters
    ----------
    shape : AdapterShape
        What the configurations share.
    hyper : dict of str to Tensor of shape (g,)
        ``alpha``, ``beta``, ``logit_scale``.
    features : Tensor of shape (n, d)
        All rows, in the dtype of the products.
    labels : Tensor of shape (n,), int64
        Row of ``text`` that each belongs to.
    text : Tensor of shape (1, c, d)
        Class embeddings, in the parameters' dtype.
    feature_mean : Tensor of shape (g, 1, d)
        Mean training feature of each configuration.

    Notes
    -----
    Formulas in the module's docstring. Nothing depends on how configurations are stacked but the order of
    sums inside a matrix product.
    """

    def __init__(
        self,
        shape: AdapterShape,
        hyper: dict[str, Tensor],
        features: Tensor,
        labels: Tensor,
        text: Tensor,
        feature_mean: Tensor,
    ) -> None:
        self.shape, self.hyper, self.labels, self.features = shape, hyper, labels, features
        self.feature_mean, self.full = feature_mean, text
        self.text = text.to(features.dtype)  # (1, c, d)
        self.text_mean = text.mean(1, keepdim=True)
        self.unit_text = torch.nn.functional.normalize(text, dim=-1).to(features.dtype)[0]  # (c, d)
        self.scale = hyper["logit_scale"][:, None, None]
        self.casts: Parameters = {}
        self.gradients: Parameters = {}
        self.room = Workspace()

    def __call__(
        self, parameters: Parameters, index: Tensor, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,), or None if not asked for, and gradients of the same shapes as the parameters.

        Parameters
        ----------
        parameters : dict of str to Tensor of shape (g, ...)
            As for the reference kernel.
        index : Tensor of shape (g, b), int64
            Rows of features in each configuration's batch.
        with_losses : bool, default=True
            Whether losses are wanted; gradients do not need them.

        Returns
        -------
        tuple of (Tensor or None) and dict
            The gradients are overwritten by the next call.
        """
        products = self._prepared(parameters)
        g, b = index.shape
        c, d = self.text.shape[1:]
        one = b * (c + 2 * d) * self.full.element_size()
        stack = max(1, BLOCK_BYTES // one)
        rows = min(b, max(LEAST_ROWS, b * BLOCK_BYTES // one))
        losses = []
        for start in range(0, g, stack):
            part = slice(start, min(g, start + stack))
            losses.append(self._stack(parameters, products, index[part], part, rows, with_losses))
        return (torch.cat(losses) if with_losses else None), self.gradients

    def _prepared(self, parameters: Parameters) -> Parameters:
        """Make the buffers, once, and return the parameters in the products' dtype."""
        if not self.gradients:
            self.gradients = {k: torch.empty_like(v) for k, v in parameters.items()}
            self.casts = {k: torch.empty_like(v, dtype=self.text.dtype) for k, v in parameters.items()}
        if self.text.dtype == self.full.dtype:
            return parameters
        return {k: self.casts[k].copy_(v) for k, v in parameters.items()}

    def _stack(
        self, parameters: Parameters, products: Parameters, index: Tensor, part: slice, rows: int, with_losses: bool
    ) -> Tensor:
        """Do the configurations of ``part``: the text side once, images in blocks of rows."""
        shape, (k, b) = self.shape, index.shape
        own = {name: value[part] for name, value in parameters.items()}
        text, upstream = None, None
        classes = self.unit_text
        if shape.adapts_text:
            beta = ratio_forward("beta", shape.beta, self.hyper["beta"][part], own, self.full, self.feature_mean[part])
            weights = products["text_down"][part], products["text_up"][part]
            text = Side("text", self.text, weights, beta, shape.form, self.room)
            classes = text.q * text.r.to(text.q.dtype)  # (k, c, d)
        losses = self.full.new_zeros(k)
        for first in range(0, b, rows):
            block = index[:, first : first + rows]
            x = self.room("x", self.text, *block.shape, self.text.shape[-1])
            torch.index_select(self.features, 0, block.reshape(-1), out=x.view(-1, x.shape[-1]))
            image, q = None, x
            if shape.adapts_image:
                alpha = ratio_forward("alpha", shape.alpha, self.hyper["alpha"][part], own, x, self.text_mean)
                weights = products["image_down"][part], products["image_up"][part]
                image = Side("image", x, weights, alpha, shape.form, self.room)
                q = image.q
            r = reciprocal_length(x, losses.dtype, self.room) if image is None else image.r
            error = self._logit_errors(q, r, classes, block, part, b, losses if with_losses else None)
            if image is not None:
                u = self._times("u", error, classes)
                self._store("image", own, image, u, part, first == 0)
            if text is not None:
                each = torch.bmm(error.mT, q, out=self.room("e", q, k, *self.text.shape[1:]))
                upstream = each if upstream is None and rows >= b else _add(upstream, each)
        if text is not None and upstream is not None:
            self._store("text", own, text, upstream.mul_(text.r).to(self.text.dtype), part, True)
        return losses

    def _logit_errors(
        self, q: Tensor, r: Tensor, classes: Tensor, block: Tensor, part: slice, b: int, losses: Tensor | None
    ) -> Tensor:
        """Return G (k, rows, c) in the products' dtype, and add the block's share to ``losses``."""
        scale = self.scale[part] * r  # (k, rows, 1)
        cosines = self._times("cosines", q, classes.mT)
        # Casts go through buffers of their own: mixed dtypes inside one operation allocate a temporary.
        logits = self.room("logits", scale, *cosines.shape).copy_(cosines).mul_(scale)
        labels = self.labels[block][..., None]
        if losses is not None:
            losses += (torch.logsumexp(logits, -1) - logits.gather(-1, labels)[..., 0]).sum(1) / b
        error = torch.softmax(logits, -1, out=logits)
        error.scatter_add_(-1, labels, error.new_full((1, 1, 1), -1.0).expand(labels.shape))
        return cosines.copy_(error.mul_(scale.div_(b)))

    def _store(self, name: str, own: Parameters, side: Side, u: Tensor, part: slice, fresh: bool) -> None:
        """Write, or from the second block of rows on add, the gradients of one side."""
        down, up, error = side.gradients(u)
        found = {f"{name}_down": down, f"{name}_up": up}
        if error is not None:
            full = side.x if name == "image" else self.full
            mean = self.text_mean if name == "image" else self.feature_mean[part]
            found |= ratio_gradients(side.ratio, error, own, full, mean)
        for key, value in found.items():
            target = self.gradients[key][part]
            if fresh:
                target.copy_(value)
            else:
                target.add_(value)

    def _times(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """Return a (k, rows, m) times b, (m, n) shared or (k, m, n) own."""
        out = self.room(name, a, *a.shape[:2], b.shape[-1])
        if b.ndim == 3:
            return torch.bmm(a, b, out=out)
        torch.mm(a.view(-1, a.shape[-1]), b, out=out.view(-1, b.shape[-1]))
        return out


def _zero_where_zero(gradient: Tensor, activation: Tensor) -> None:
    """ReLU's derivative, in place: zero the gradient where the activation is zero."""
    torch.ops.aten.threshold_backward.grad_input(gradient, activation, 0, grad_input=gradient)


def _add(total: Tensor | None, each: Tensor) -> Tensor:
    """Sum blocks of rows in at least float32."""
    wide = each.to(torch.promote_types(each.dtype, torch.float32), copy=True)
    return wide if total is None else total.add_(wide)
