"""Loss and gradients of the adapter on a CPU, from formulas instead of autograd, in blocks that stay in cache.

Letters as in reference.py. For one configuration, with both sides written as

    H = ReLU(x W1)       A = H W2  (form "released": ReLU(H W2))       q = ratio A + (1 - ratio) x       r = 1/|q|

for images (q, r of shape (b, d), (b, 1); ratio alpha) and classes (p, t of (c, d), (c, 1); ratio beta):

    L = s r (q w^T),  w = t p          P = softmax(L)          Y = one-hot labels          D = P - Y
    G = (s r / b) D                                        (b, c), the one large thing, made and used block by block
    U = G w              = r times the gradient in q/|q|   (b, d)
    E = G^T q            = the gradient in p/|p|           (c, d)

    through the L2 norm:   dq = U - r^2 q (q . U)          dp = t E - t^2 p (p . t E)
        where both dots are sums of D L, so that no row of d numbers is read again for them:
        r^2 (q . U)_i = (r_i^2 / b) sum_j D_ij L_ij        (p . t E)_j = (1 / b) sum_i D_ij L_ij
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
from cafe.kernels.cpu_side import Side, Workspace, invert
from cafe.kernels.reference import AdapterShape, Parameters

# Bytes of one block's logits and features: small beside a last-level cache, and measured best of 1, 2, 4 and 8 MiB.
BLOCK_BYTES = 2**22
# Products with fewer rows than this waste more than the cache saves.
LEAST_ROWS = 64


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
        self.shape, self.hyper = shape, hyper
        self.feature_mean, self.full = feature_mean, text
        self.text = text.to(features.dtype)  # (1, c, d)
        self.text_mean = text.mean(1, keepdim=True)
        self.unit_text = torch.nn.functional.normalize(text, dim=-1).to(features.dtype)[0]  # (c, d)
        self.use(features, labels)
        self.fixed = {name: hyper[name][:, None, None] for name in ("alpha", "beta")}  # (g, 1, 1)
        self.shares: dict[str, list[float]] = {name: hyper[name].tolist() for name in ("alpha", "beta")}
        self.scale = hyper["logit_scale"][:, None, None]
        # The fixed ratio of an image adapter alone goes into G, whose rows are scaled anyway.
        self.weighted = shape.variant == "image" and shape.alpha_mode == "fixed"
        self.weight = self.fixed["alpha"] if self.weighted else torch.ones_like(self.scale)
        self.over: dict[int, Tensor] = {}  # weight / b, by b
        self.casts: Parameters = {}
        self.gradients: Parameters = {}
        self.room = Workspace()
        self.minus = text.new_full((1, 1), -1.0)

    def use(self, features: Tensor, labels: Tensor) -> None:
        """Take rows from here from now on: features on disk come batch by batch."""
        self.features, self.labels = features, labels
        rows = features[:0] if self.shape.adapts_image else features
        # r of images without an adapter, (n, 1)
        self.row_r = invert(torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=self.full.dtype))

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
        # bfloat16 steps are large, and each configuration then goes alone: see kernels/cpu_side.py.
        stack = 1 if self.text.dtype != self.full.dtype else max(1, BLOCK_BYTES // one)
        rows = min(b, max(LEAST_ROWS, b * BLOCK_BYTES // one))
        if b not in self.over:
            self.over[b] = self.weight / b
        losses = self.full.new_zeros(g) if with_losses else None
        for start in range(0, g, stack):
            part = start if stack == 1 else slice(start, min(g, start + stack))
            self._stack(parameters, products, index[part], part, rows, None if losses is None else losses[part])
        return losses, self.gradients

    def _prepared(self, parameters: Parameters) -> Parameters:
        """Make the buffers, once, and return the parameters in the products' dtype."""
        if not self.gradients:
            self.gradients = {k: torch.empty_like(v) for k, v in parameters.items()}
            self.casts = {k: torch.empty_like(v, dtype=self.text.dtype) for k, v in parameters.items()}
        if self.text.dtype == self.full.dtype:
            return parameters
        return {k: self.casts[k].copy_(v) for k, v in parameters.items()}

    def _stack(
        self,
        parameters: Parameters,
        products: Parameters,
        index: Tensor,
        part: int | slice,
        rows: int,
        losses: Tensor | None,
    ) -> None:
        """Do the configurations of ``part``, or the one: the text side once, images in blocks of rows."""
        shape, b = self.shape, index.shape[-1]
        text: Side | None = None
        classes = self.unit_text
        if shape.adapts_text:
            x = self.text[0] if isinstance(part, int) else self.text.expand(len(index), -1, -1)
            text = self._side("text", parameters, products, x, part)
            classes = text.unit()  # ([k,] c, d)
        upstream: Tensor | None = None
        along: Tensor | None = None
        for first in range(0, b, rows):
            block = index[..., first : first + rows]
            x = self.room("x", self.text, *block.shape, self.text.shape[-1])
            torch.index_select(self.features, 0, block.reshape(-1), out=x.view(-1, x.shape[-1]))
            image, q = None, x
            if shape.adapts_image:
                image = self._side("image", parameters, products, x, part)
                q = image.q
            r = self.row_r[block] if image is None else image.r
            cosines = self._times("cosines", q, classes.mT)
            error, sums = self._errors(cosines, r, block, part, b, losses)
            if image is not None:
                each = sums.sum(-1, keepdim=True).mul_(r).mul_(r).mul_(self.over[b][part])
                dq = image.through_norm(self._times("u", error, classes), each)
                self._store(parameters, image, image.gradients(dq, self.weighted), part, first == 0)
            if text is not None:
                each = text.multiply(error.mT, q, out=self.room("e", q, *classes.shape))
                upstream = each if upstream is None and rows >= b else _add(upstream, each)
                each = sums.sum(-2)[..., None]  # ([k,] c, 1)
                along = each if along is None else along.add_(each)
        if text is not None and upstream is not None and along is not None:
            u = upstream.mul_(text.r).to(self.text.dtype)
            dp = text.through_norm(u, along.mul_(text.r).mul_(text.r).div_(b))
            self._store(parameters, text, text.gradients(dp), part, True)

    def _side(self, name: str, parameters: Parameters, products: Parameters, x: Tensor, part: int | slice) -> Side:
        """Run one side forward."""
        which = {"image": "alpha", "text": "beta"}[name]
        mode: str = getattr(self.shape, f"{which}_mode")
        if mode == "fixed":
            ratio = Ratio(which, mode, self.fixed[which][part])
        else:
            own, mean = self._ratio_inputs(name, x, part)
            ratio = ratio_forward(which, mode, self.hyper[which], _span(parameters, part), own, mean)
        weights = products[f"{name}_down"][part], products[f"{name}_up"][part]
        share = self.shares[which][part] if isinstance(part, int) and mode == "fixed" else None
        return Side(name, x, weights, ratio, share, self.shape.form, self.room)

    def _ratio_inputs(self, name: str, x: Tensor, part: int | slice) -> tuple[Tensor, Tensor]:
        """Return the rows that get a ratio, ([k,] rows, d), and the mean of the other side, for cpu_ratios.py."""
        if name == "text":
            return self.full, _span({"": self.feature_mean}, part)[""]
        return (x[None] if isinstance(part, int) else x), self.text_mean

    def _errors(
        self, cosines: Tensor, r: Tensor, block: Tensor, part: int | slice, b: int, losses: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return weight G in the products' dtype, in the cosines' place, and D L, both ([k,] rows, c).

        Adds the block's share to ``losses``, if there is one. Cosines are q w^T, of unit w and q as long as it is.
        """
        scale = self.scale[part] * r  # ([k,] rows, 1)
        # Casts go through buffers of their own: mixed dtypes inside one operation allocate a temporary.
        mixed = cosines.dtype != scale.dtype
        logits = self.room("logits", scale, *cosines.shape).copy_(cosines) if mixed else cosines
        logits.mul_(scale)
        labels = self.labels.take(block)[..., None]
        if losses is not None:
            losses += (torch.logsumexp(logits, -1) - logits.gather(-1, labels)[..., 0]).sum(-1) / b
        error = torch.softmax(logits, -1, out=self.room("errors", scale, *logits.shape))
        error.scatter_add_(-1, labels, self.minus.expand(labels.shape))
        sums = logits.mul_(error)
        error.mul_(scale.mul_(self.over[b][part]))
        return (cosines.copy_(error) if mixed else error), sums

    def _store(
        self,
        parameters: Parameters,
        side: Side,
        found: tuple[Tensor, Tensor, Tensor | None],
        part: int | slice,
        fresh: bool,
    ) -> None:
        """Write, or from the second block of rows on add, the gradients of one side."""
        down, up, error = found
        named = {f"{side.name}_down": down, f"{side.name}_up": up}
        span: int | slice = part
        if error is not None:
            if isinstance(part, int):
                span, error = slice(part, part + 1), error[None]
            inputs = self._ratio_inputs(side.name, side.x, part)
            named |= ratio_gradients(side.ratio, error, _span(parameters, part), *inputs)
        for key, value in named.items():
            target = self.gradients[key][part if value is down or value is up else span]
            if fresh:
                target.copy_(value)
            else:
                target.add_(value)

    def _times(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """Return a ([k,] rows, m) times b, (m, n) shared or (k, m, n) own."""
        out = self.room(name, a, *a.shape[:-1], b.shape[-1])
        if a.ndim == b.ndim:
            return torch.mm(a, b, out=out) if a.ndim == 2 else torch.bmm(a, b, out=out)
        torch.mm(a.view(-1, a.shape[-1]), b, out=out.view(-1, b.shape[-1]))
        return out


def _span(parameters: Parameters, part: int | slice) -> Parameters:
    """Return the configurations of ``part`` with their leading axis, a stack of one where it is a number."""
    rows = slice(part, part + 1) if isinstance(part, int) else part
    return {name: value[rows] for name, value in parameters.items()}


def _add(total: Tensor | None, each: Tensor) -> Tensor:
    """Sum blocks of rows in at least float32."""
    wide = each.to(torch.promote_types(each.dtype, torch.float32), copy=True)
    return wide if total is None else total.add_(wide)
