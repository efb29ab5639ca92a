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

D takes the place of P, where one is subtracted at each label, and the part of U along q leaves with the product that
makes U: its sum starts from the first term,

    dq = - q (r^2 (q . U)) + G w

All that is done to rows beside the products, scales and sums, passes over (b, c) there. With more classes than
features it is cheaper to do it to (b, d), and softmax is then the only pass over (b, c): the folded form. The scale
goes on the classes, and rows of images are scaled to length one before the product,

    v = r q        w = s t p        L = v w^T        U = D w / b        E = D^T v / b

    through the L2 norm:   dq = r (U - v (v . U))          dp = s t (E - t^2 p (p . E))

which is what weight normalisation (Salimans and Kingma, arXiv 1602.07868) does to the rows of a matrix, forward and
backward in one pass each; 1 / b goes with their lengths.

    through the blend:     dA = ratio dq                   dratio = dq . (A - x)    (summed over rows that share it)
    through the adapter:   dA = 0 where A = 0 ("released") dW2 = H^T dA
                           dH = dA W2^T, 0 where H = 0     dW1 = x^T dH

Without an adapter on a side, q = x or p = W are constants and their rows need no gradient. Losses are
logsumexp(L) - L[label], only computed on steps that ask for them.

One side forward and back, with ratios that are trained, is in cpu_sides.py. An image adapter with a fixed ratio has
another form yet, in cpu_projected.py, in which everything d wide goes through the class embeddings.

Products run in the dtype of the features: float64, float32, or bfloat16 with float32 accumulation inside a product;
softmax, norms, parameters and the update stay in the parameters' dtype.

Rows of D sum to zero until they are rounded to bfloat16. What is left then multiplies what all classes have in common,
which is most of a CLIP text feature, and near the optimum that is more than the gradient: with the folded form, learned
ratios drifted by it. Softmax sees differences of logits alone, so where text is given its mean class is taken off:

    L = s r q (w - m)^T        U = G (w - m)        m = (1/c) sum_j w_j

One configuration works on tensors (rows, d) with ``torch.mm``, k stacked ones on (k, rows, d), so that small steps
share the cost of calling an operation. Their products with shared classes are one, those with maps of their own
``torch.bmm``; but in bfloat16 one ``torch.mm`` after the other, since there ``bmm`` takes up to twice as long where an
operand is transposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cafe.kernels.cpu_sides import Buffers as Buffers
from cafe.kernels.cpu_sides import Ratio as Ratio
from cafe.kernels.cpu_sides import (
    Side,
    flat,
    invert,
    multiplier,
    scaled_rows,
    through_scaled_rows,
)
from cafe.kernels.cpu_sides import ratio_forward as ratio_forward
from cafe.kernels.cpu_sides import ratio_gradients as ratio_gradients
from cafe.kernels.optimizers import Row, empty_in_a_row, in_a_row
from cafe.kernels.reference import AdapterShape, Parameters

# Bytes of one block's logits and features: small beside a last-level cache, and measured best of 1, 2, 4 and 8 MiB.
BLOCK_BYTES = 2**22
# Products with fewer rows than this waste more than the cache saves.
LEAST_ROWS = 64
# Logits that softmax works on at a time: in float32 1 MiB, which the second-level caches of two cores hold. Parts of a
# half, a quarter and an eighth of it took 1.1, 1.3 and 1.5 times as long at 256 x 1,000.
SOFTMAX_NUMBERS = 2**18


class CpuAdapterStep:
    """Losses and gradients of a stack of configurations, step after step, in the direct form.

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
    folded : bool, default=False
        Whether scales go on features and classes in place of logits.
    block_bytes, least_rows : int
        How much memory a block of rows may need, and how few rows it may have for that.

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
        folded: bool = False,
        block_bytes: int = BLOCK_BYTES,
        least_rows: int = LEAST_ROWS,
    ) -> None:
        self.shape, self.hyper = shape, hyper
        self.folded = folded
        self.text, self.feature_mean = text, feature_mean
        self.block_bytes, self.least_rows = block_bytes, least_rows
        self.narrow_text = text.to(features.dtype)  # (1, c, d), in the dtype of the products
        self.text_mean = text.mean(1, keepdim=True)
        unit_text = torch.nn.functional.normalize(text, dim=-1)[0]  # (c, d)
        # w - m, in the parameters' dtype and in that of the products.
        self._centred_text = unit_text - unit_text.mean(0)
        self.centred_text = self._centred_text.to(features.dtype)
        self.use(features, labels)
        self.fixed = {name: hyper[name][:, None, None] for name in ("alpha", "beta")}  # (g, 1, 1)
        self.scale = hyper["logit_scale"][:, None, None]
        # The fixed ratio of an image adapter alone goes into G, whose rows are scaled anyway.
        self.weighted = shape.variant == "image" and shape.alpha_mode == "fixed"
        self.weight = self.fixed["alpha"] if self.weighted else torch.ones_like(self.scale)
        self._scaled_text: dict[tuple[float, ...], Tensor] = {}
        self._weight_over_b: dict[int, Tensor] = {}
        self._weight_numbers: dict[int, list[float]] = {}
        self._narrow: Parameters = {}
        self._narrow_row: Tensor | None = None
        self._row = Row()
        self.gradients: Parameters = {}
        self.buffers = Buffers()

    @cached_property
    def numbers(self) -> dict[str, list[float]]:
        """The given ratios and scales of the configurations, as numbers on the host."""
        return {name: self.hyper[name].tolist() for name in ("alpha", "beta", "logit_scale")}

    def use(self, features: Tensor, labels: Tensor) -> None:
        """Take rows from here from now on: features on disk come batch by batch."""
        self.features, self.labels = features, labels[:, None]  # (n, d), (n, 1)
        rows = features[:0] if self.shape.adapts_image else features
        # r of images without an adapter, (n, 1)
        self.row_r = invert(torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=self.text.dtype))

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
        narrow = self.prepare(parameters)
        g, b = index.shape
        c, d = self.text.shape[1:]
        bytes_of_one = b * (c + 2 * d) * self.text.element_size()
        stack = max(1, min(g, self.block_bytes // bytes_of_one))
        rows = min(b, max(self.least_rows, b * self.block_bytes // bytes_of_one))
        self._whole = rows >= b
        losses = self.text.new_zeros(g) if with_losses else None
        for start in range(0, g, stack):
            part = start if stack == 1 else slice(start, min(g, start + stack))
            self._run(parameters, narrow, index[part], part, rows, None if losses is None else losses[part])
        self._widen_gradients()
        return losses, self.gradients

    def _widen_gradients(self) -> None:
        """Copy the maps' gradients from the products' dtype, where they were written in that."""
        if not self._whole or self.narrow_text.dtype == self.text.dtype:
            return
        wide, narrow = self._gradient_rows
        if len(self._maps) == len(self.gradients) and wide is not None and narrow is not None:
            wide.copy_(narrow)
            return
        for name in self._maps:
            self.gradients[name].copy_(self._narrow_gradients[name])

    def prepare(self, parameters: Parameters) -> Parameters:
        """Make the buffers of gradients, once, and return the parameters in the products' dtype."""
        if not self.gradients:
            self.gradients = empty_in_a_row(parameters)
            self._narrow = empty_in_a_row(parameters, self.narrow_text.dtype)
            self._narrow_row = in_a_row(self._narrow)
            self._maps = [name for name in parameters if name.endswith(("_down", "_up"))]
            self._narrow_gradients = empty_in_a_row(parameters, self.narrow_text.dtype)
            self._gradient_rows = in_a_row(self.gradients), in_a_row(self._narrow_gradients)
        if self.narrow_text.dtype == self.text.dtype:
            return parameters
        row = self._row(parameters)
        if row is not None and self._narrow_row is not None:
            self._narrow_row.copy_(row)
            return self._narrow
        return {k: self._narrow[k].copy_(v) for k, v in parameters.items()}

    def _run(
        self,
        parameters: Parameters,
        narrow: Parameters,
        index: Tensor,
        part: int | slice,
        rows: int,
        losses: Tensor | None,
    ) -> None:
        """Do the configurations of ``part``, or the one of that number: the text side once, images in blocks of rows.

        Shapes of one configuration have no leading axis: [k,] says so.
        """
        shape, b = self.shape, index.shape[-1]
        text: Side | None = None
        if shape.adapts_text:
            x = self.narrow_text[0] if isinstance(part, int) else self.narrow_text.expand(len(index), -1, -1)
            text = self._forward("text", parameters, narrow, x, part)
        classes = self._classes(text, part)
        upstream: Tensor | None = None  # E
        dots: Tensor | None = None  # sum_i D_ij L_ij
        run_block = self._folded_block if self.folded else self._direct_block
        for first in range(0, b, rows):
            block = index[..., first : first + rows]
            x = self._rows_of(block)
            image = self._forward("image", parameters, narrow, x, part) if shape.adapts_image else None
            error, q, dq, of_block = run_block(image, x, classes, block, part, b, losses)
            if image is not None and dq is not None:
                self.store(parameters, image, dq, self.weighted, part, first == 0)
            if text is not None:
                dots = of_block if dots is None or of_block is None else dots.add_(of_block)
                product = text.multiply(error.mT, q, out=self.buffers("e", q, *text.q.shape))
                upstream = product if upstream is None and rows >= b else _add(upstream, product)
        if text is not None and upstream is not None:
            self.store(parameters, text, self._text_gradient(text, upstream, dots, b), False, part, True)

    def _rows_of(self, block: Tensor) -> Tensor:
        """Return the features of a block, ([k,] rows, d); configurations that share their rows share one copy."""
        # torch.bmm would make the copies itself.
        shared = block.ndim == 2 and block.stride(0) == 0 and self.features.dtype == torch.bfloat16
        numbers = block[0] if shared else block
        x = self.buffers("x", self.narrow_text, *numbers.shape, self.text.shape[-1])
        torch.index_select(self.features, 0, numbers.reshape(-1), out=flat(x))
        return x.expand(len(block), *x.shape) if shared else x

    def _direct_block(
        self,
        image: Side | None,
        x: Tensor,
        classes: Tensor,
        block: Tensor,
        part: int | slice,
        b: int,
        losses: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return G, q, dq (None without an image adapter) and the block's sum_i D_ij L_ij (None where text is fixed).

        Letters are those of the module. ``block`` has the numbers of the rows in ``x``, ``part`` is the place of their
        configurations in the stack, and ``b`` is the size of the whole batch.
        """
        q, r = (x, self.row_r[block]) if image is None else (image.q, image.r)
        error, along, dots = self.errors(self._times("cosines", q, classes.mT), r, block, part, b, losses)
        if image is None:
            return error, q, None, dots
        radial = torch.mul(q, along.to(q.dtype), out=self.buffers("u", q, *q.shape))
        return error, q, self._times("u", error, classes, minus=radial), dots

    def _folded_block(
        self,
        image: Side | None,
        x: Tensor,
        classes: Tensor,
        block: Tensor,
        part: int | slice,
        b: int,
        losses: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, None]:
        """Return D, v and dq (None without an adapter)."""
        q = x if image is None else image.q
        n = q.numel() // q.shape[-1]
        v, had = scaled_rows(q, self.buffers.filled(1, q, n, 1))
        error = self._times("cosines", v, classes.mT)
        for rows, _, raw in self._softmax_errors(error, None, block, b, losses):
            if raw.dtype != error.dtype:
                _rows(error, rows).copy_(raw)
        if image is None:
            return error, v, None, None
        u = self._times("u", error, classes)
        return error, v, through_scaled_rows(u, q, self._shares(part, block, b, q.dtype), had), None

    def _shares(self, part: int | slice, block: Tensor, b: int, dtype: torch.dtype) -> Tensor:
        """Return what dq is multiplied by in the folded form, 1 / b or with the ratio, (all rows of the block, 1)."""
        _, weight = self._scale_and_weight(part, b)
        if isinstance(weight, float):
            return self.buffers.filled(weight, self.narrow_text, block.numel(), 1)
        shares: Tensor = weight.expand(*block.shape, 1).reshape(-1, 1).to(dtype)
        return shares

    def _classes(self, text: Side | None, part: int | slice) -> Tensor:
        """Return w, or s w in the folded form: (c, d) shared and less their mean, or (k, c, d) of trained text."""
        if not self.folded:
            return self.centred_text if text is None else text.unit()
        if text is not None:
            lengths = self.scale[part].expand(*text.q.shape[:-1], 1).reshape(-1, 1).contiguous()
            narrow = lengths.to(text.q.dtype)
            # A scale that the products' dtype does not have would be rounded in every logit alike.
            self.text_rows, self.text_lengths = text.q, narrow
            if narrow.dtype != lengths.dtype and not torch.equal(narrow.to(lengths.dtype), lengths):
                self.text_rows, self.text_lengths = text.wide, lengths
            scaled, self.text_had = scaled_rows(self.text_rows, self.text_lengths)
            return self.buffers.in_dtype_of(self.narrow_text, scaled, "text unit")
        scales = self.numbers["logit_scale"]
        key = tuple(dict.fromkeys([scales[part]] if isinstance(part, int) else scales[part]))
        if key not in self._scaled_text:
            scale: Any = key[0] if len(key) == 1 else self.scale[part]
            self._scaled_text[key] = (self._centred_text * scale).to(self.narrow_text.dtype)
        return self._scaled_text[key]

    def _text_gradient(self, text: Side, upstream: Tensor, dots: Tensor | None, b: int) -> Tensor:
        """Return dp, ([k,] c, d), from E and the sums of D L, or from E alone in the folded form."""
        if dots is not None:
            u = upstream.mul_(text.r).to(self.narrow_text.dtype)
            along = dots.mul_(text.r).mul_(text.r).div_(b).to(u.dtype)
            return u.sub_(torch.mul(text.q, along, out=self.buffers("along", u, *u.shape)))
        gradient, lengths = upstream.to(self.text_rows.dtype), self.text_lengths / b
        dp = through_scaled_rows(gradient, self.text_rows, lengths, self.text_had)
        return self.buffers.in_dtype_of(self.narrow_text, dp, "dp")

    def _forward(self, name: str, parameters: Parameters, narrow: Parameters, x: Tensor, part: int | slice) -> Side:
        """Return one side after its forward pass."""
        ratio_name = {"image": "alpha", "text": "beta"}[name]
        mode: str = getattr(self.shape, f"{ratio_name}_mode")
        if mode == "fixed":
            numbers = self.numbers[ratio_name]
            numbers = [numbers[part]] if isinstance(part, int) else numbers[part]
            ratio = Ratio(ratio_name, mode, self.fixed[ratio_name][part], numbers=numbers)
        else:
            own, mean = self._ratio_inputs(name, x, part)
            ratio = ratio_forward(ratio_name, mode, self.hyper[ratio_name], _span(parameters, part), own, mean)
        weights = narrow[f"{name}_down"][part], narrow[f"{name}_up"][part]
        return Side(name, x, weights, ratio, self.shape.form, self.buffers)

    def _ratio_inputs(self, name: str, x: Tensor, part: int | slice) -> tuple[Tensor, Tensor]:
        """Return the inputs of learned ratios of a side: its rows, ([k,] rows, d), and the other side's mean."""
        if name == "text":
            return self.text, _span({"": self.feature_mean}, part)[""]
        return (x[None] if isinstance(part, int) else x), self.text_mean

    def _scale_and_weight(self, part: int | slice, b: int) -> tuple[Any, Any]:
        """Return s, and what G is multiplied by beside s r: 1 / b, and the ratio where G carries it.

        Numbers of one configuration, (k, 1, 1) of a stack.
        """
        if b not in self._weight_over_b:
            self._weight_over_b[b] = self.weight / b
            self._weight_numbers[b] = self._weight_over_b[b].view(-1).tolist()
        if isinstance(part, int):
            return self.numbers["logit_scale"][part], self._weight_numbers[b][part]
        return self.scale[part], self._weight_over_b[b][part]

    def errors(
        self, cosines: Tensor, r: Tensor, block: Tensor, part: int | slice, b: int, losses: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return weight G in the products' dtype, weight r^2 (q . U) as ([k,] rows, 1), and sum_i D_ij L_ij.

        Adds the block's share to ``losses``, if there is one. Cosines are q w^T, of unit w and q as long as it is; they
        are overwritten. The last, ([k,] c, 1), is None where text is fixed.
        """
        scale, weight = self._scale_and_weight(part, b)
        factor = r * scale  # ([k,] rows, 1)
        errors = self.buffers("errors", cosines, *cosines.shape) if cosines.dtype == r.dtype else cosines
        alongs = self.buffers("alongs", r, *r.shape)
        dots: Tensor | None = None
        for rows, logits, raw in self._softmax_errors(cosines, factor, block, b, losses, errors):
            along = torch.sum(logits.mul_(raw), -1, keepdim=True, out=_rows(alongs, rows))  # sum_j D L
            if self.shape.adapts_text:
                of_rows = logits.sum(-2, keepdim=True).mT
                dots = of_rows if dots is None else dots.add_(of_rows)
            share = _rows(r, rows) * weight
            raw.mul_(share * scale)
            along.mul_(share.mul_(_rows(r, rows)))
            if raw.dtype != errors.dtype:
                _rows(errors, rows).copy_(raw)
        return errors, alongs, dots

    def _softmax_errors(
        self,
        product: Tensor,
        factor: Tensor | None,
        block: Tensor,
        b: int,
        losses: Tensor | None,
        errors: Tensor | None = None,
    ) -> Iterator[tuple[slice | None, Tensor, Tensor]]:
        """Yield rows, L and D in the parameters' dtype, for so many rows at a time as stay in cache.

        L is the product, times the factor of each row. D is written to ``errors`` where that has its dtype; it takes
        L's place where no factor is given. Adds the block's share to ``losses``, if there is one.
        """
        labels = self.labels.index_select(0, block.reshape(-1)).view(*block.shape, 1)
        minus = self.buffers.filled(-1, self.text, *labels.shape)
        for rows in _row_slices(product):
            # Casts go through buffers of their own: mixed dtypes inside one operation allocate a temporary.
            logits = self.buffers.in_dtype_of(self.text, _rows(product, rows), "logits")
            label = _rows(labels, rows)
            if factor is not None:
                logits.mul_(_rows(factor, rows))
            if losses is not None:
                losses += (logits.logsumexp(-1, keepdim=True) - logits.gather(-1, label))[..., 0].sum(-1) / b
            if factor is None:
                raw = logits
            elif errors is not None and errors.dtype == logits.dtype:
                raw = _rows(errors, rows)
            else:
                raw = self.buffers("raw", logits, *logits.shape)
            torch.softmax(logits, -1, out=raw).scatter_add_(-1, label, _rows(minus, rows))
            yield rows, logits, raw

    def store(
        self, parameters: Parameters, side: Side, dq: Tensor, weighted: bool, part: int | slice, fresh: bool
    ) -> None:
        """Write, or from the second block of rows on add, the gradients of a side from that of its q."""
        direct = fresh and (self._whole or self.text.dtype == dq.dtype)
        gradients = self.gradients if self.text.dtype == dq.dtype else self._narrow_gradients
        own = gradients[f"{side.name}_down"][part], gradients[f"{side.name}_up"][part]
        down, up, dratio = side.gradients(dq, weighted, own if direct else None)
        named = {f"{side.name}_down": down, f"{side.name}_up": up}
        span: int | slice = part
        if dratio is not None:
            if isinstance(part, int):
                span, dratio = slice(part, part + 1), dratio[None]
            inputs = self._ratio_inputs(side.name, side.x, part)
            named |= ratio_gradients(side.ratio, dratio, _span(parameters, part), *inputs)
        for key, value in named.items():
            if direct and (value is down or value is up):
                continue  # it is there
            target = self.gradients[key][part if value is down or value is up else span]
            if fresh:
                target.copy_(value)
            else:
                target.add_(value)

    def _times(self, name: str, a: Tensor, b: Tensor, minus: Tensor | None = None) -> Tensor:
        """Return a ([k,] rows, m) times b, (m, n) shared or (k, m, n) own; less ``minus``, in its place."""
        out = self.buffers(name, a, *a.shape[:-1], b.shape[-1]) if minus is None else minus
        if a.ndim == b.ndim == 3:
            if minus is None:
                return multiplier(a)(a, b, out=out)
            for total, left, right in zip(out, a, b, strict=True):
                total.addmm_(left, right, beta=-1)
            return out
        if minus is None:
            torch.mm(flat(a), b, out=flat(out))
        else:
            flat(out).addmm_(flat(a), b, beta=-1)
        return out


def _span(parameters: Parameters, part: int | slice) -> Parameters:
    """Return the configurations of ``part`` with their leading axis, a stack of one where it is a number."""
    rows = slice(part, part + 1) if isinstance(part, int) else part
    return {name: value[rows] for name, value in parameters.items()}


def _rows(value: Tensor, rows: slice | None) -> Tensor:
    """Return those rows of ([k,] rows, any), or all of them."""
    return value if rows is None else value[..., rows, :]


def _row_slices(product: Tensor) -> list[slice] | list[None]:
    """Return slices of the rows of ([k,] rows, c) for softmax to work on one by one; ``[None]`` means all at once."""
    n, c = product.shape[-2:]
    rows = max(1, SOFTMAX_NUMBERS * n // product.numel())
    if rows >= n:
        return [None]
    return [slice(start, start + rows) for start in range(0, n, rows)]


def _add(total: Tensor | None, of_block: Tensor) -> Tensor:
    """Sum blocks of rows in at least float32."""
    wide = of_block.to(torch.promote_types(of_block.dtype, torch.float32), copy=True)
    return wide if total is None else total.add_(wide)
