"""Loss and gradients of the adapter on a CPU, from formulas instead of autograd, in blocks that stay in cache.

Letters as in reference.py. For one configuration, with both sides written as

    H = ReLU(x W1)       A = H W2  (form "released": ReLU(H W2))       q = ratio A + (1 - ratio) x       r = 1/|q|

for images (q, r of shape (b, d), (b, 1); ratio alpha) and classes (p, t of (c, d), (c, 1); ratio beta):

    L = s r (q w^T),  w = t p          P = softmax(L)          Y = one-hot labels          D = P - Y
    G = (s r / b) D                                        (b, c), the one large thing, made and used block by block
    U = G w              = r times the gradient in q/|q|   (b, d)
    E = G^T q            = the gradient in p/|p|           (c, d)

    through the L2 norm:   dq = U - r^2 q (q . U)          dp = t (E - t^2 p (p . E))
        where the first dot is a sum of D L, so that no row of d numbers is read again for it:
        r^2 (q . U)_i = (r_i^2 / b) sum_j D_ij L_ij

D takes the place of P, where one is subtracted at each label, and the part of U along q leaves with the product that
makes U: its sum starts from the first term,

    dq = - q (r^2 (q . U)) + G w

All that is done to rows beside the products, scales and sums, passes over (b, c) there. With more classes than
features it is cheaper to do it to (b, d), and softmax is then the only pass over (b, c): the folded form. The scale
goes on the classes, and rows of images are scaled to length one before the product,

    v = r q        w = s t p        L = v w^T        U = D w / b        E = D^T v / b

    through the L2 norm:   dq = r (U - v (v . U))          dp = s t (E - t^2 p (p . E))

which is what weight normalisation (Salimans and Kingma, arXiv 1602.07868) does to the rows of a matrix, forward and
backward in one pass each; 1 / b goes with their lengths. Text that is trained passes through its norm so in both forms.

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
ratios drifted by it. Softmax sees differences of logits alone, so the mean class is taken off before w is rounded:

    L = s r q (w - m)^T        U = G (w - m)        m = (1/c) sum_j w_j

Nothing else changes for it: the gradient in m is the sum of all rows of E, which is zero.

One configuration works on tensors (rows, d) with ``torch.mm``, k stacked ones on (k, rows, d), so that small steps
share the cost of calling an operation. A step is laid out as a list of calls once (calls.py), and every step runs it:
whatever is called "laid out" below adds calls, and returns where they will write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from cafe.kernels.calls import Buffers, Calls, LaidOut, Layouts
from cafe.kernels.cpu_sides import (
    Ratio,
    Side,
    flat,
    invert,
    ratio_gradients,
    refresh_ratio,
    scale_rows,
    through_scaled_rows,
)
from cafe.kernels.optimizers import EPS, Update, empty_in_a_row, in_a_row, make_update
from cafe.kernels.reference import AdapterShape, Parameters

# Bytes of one block's logits and features: small beside a last-level cache, and measured best of 1, 2, 4 and 8 MiB.
BLOCK_BYTES = 2**22
# Products with fewer rows than this waste more than the cache saves.
LEAST_ROWS = 64
# Logits that softmax works on at a time: in float32 1 MiB, which the second-level caches of two cores hold. Parts of a
# half, a quarter and an eighth of it took 1.1, 1.3 and 1.5 times as long at 256 x 1,000.
SOFTMAX_NUMBERS = 2**18


@dataclass(frozen=True)
class _Scaled:
    """Rows, the lengths they are scaled to, where they lie when they are, and the lengths that they had."""

    rows: Tensor
    lengths: Tensor
    scaled: Tensor
    had: Tensor


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

    side = Side  # how one side is laid out

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
        self.gradients: Parameters = {}
        self.buffers = Buffers()
        self._layouts = Layouts()

    def make_update(self, name: str, parameters: Parameters, weight_decay: Tensor, eps: float = EPS) -> Update:
        """Return an optimiser of the step's parameters; arguments as :func:`cafe.kernels.optimizers.make_update`."""
        return make_update(name, parameters, weight_decay, eps)

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
        key = (*index.shape, index.stride(0) == 0, with_losses)
        laid = self._layouts(parameters, key, partial(self._lay_out, parameters, index, with_losses))
        return laid.run(index), self.gradients

    def _lay_out(self, parameters: Parameters, index: Tensor, with_losses: bool) -> LaidOut:
        """Lay a step out for batches like this one."""
        g, b = index.shape
        # Products of stacks in bfloat16 are those of their matrices, which may be the same; torch.bmm would make copies
        # of them itself.
        shared = g > 1 and index.stride(0) == 0 and self.features.dtype == torch.bfloat16
        kept = torch.empty((1 if shared else g, b), dtype=torch.int64)
        laid = LaidOut(Calls(self.buffers), kept, self.text.new_empty(g) if with_losses else None)
        if laid.losses is not None:
            laid.calls.add(laid.losses.zero_)
        self._lay_out_fits(laid, parameters, kept.expand(g, b))
        return laid

    def _lay_out_fits(self, laid: LaidOut, parameters: Parameters, index: Tensor) -> None:
        """Lay out every configuration's losses and gradients, in stacks that fit into cache."""
        g, b = index.shape
        c, d = self.text.shape[1:]
        bytes_of_one = b * (c + 2 * d) * self.text.element_size()
        stack = max(1, min(g, self.block_bytes // bytes_of_one))
        rows = min(b, max(self.least_rows, b * self.block_bytes // bytes_of_one))
        self._whole = rows >= b
        narrow = self.prepare(laid.calls, parameters)
        for start in range(0, g, stack):
            part = start if stack == 1 else slice(start, min(g, start + stack))
            losses = None if laid.losses is None else laid.losses[part]
            self._lay_out_part(laid.calls, parameters, narrow, index[part], part, rows, losses)
        self._widen_gradients(laid.calls)

    def _widen_gradients(self, calls: Calls) -> None:
        """Lay out the copy of the maps' gradients from the products' dtype, where they were written in that."""
        if not self._whole or self.narrow_text.dtype == self.text.dtype:
            return
        wide, narrow = in_a_row(self.gradients), in_a_row(self._narrow_gradients)
        if len(self._maps) == len(self.gradients) and wide is not None and narrow is not None:
            calls.add(wide.copy_, narrow)
            return
        for name in self._maps:
            calls.add(self.gradients[name].copy_, self._narrow_gradients[name])

    def prepare(self, calls: Calls, parameters: Parameters) -> Parameters:
        """Make the buffers of gradients, and return where the parameters lie in the products' dtype."""
        if not self.gradients:
            self.gradients = empty_in_a_row(parameters)
            self._maps = [name for name in parameters if name.endswith(("_down", "_up"))]
        if self.narrow_text.dtype == self.text.dtype:
            return parameters
        narrow, self._narrow_gradients = (empty_in_a_row(parameters, self.narrow_text.dtype) for _ in range(2))
        row, narrow_row = in_a_row(parameters), in_a_row(narrow)
        if row is not None and narrow_row is not None:
            calls.add(narrow_row.copy_, row)
        else:
            for name, value in parameters.items():
                calls.add(narrow[name].copy_, value)
        return narrow

    def _lay_out_part(
        self,
        calls: Calls,
        parameters: Parameters,
        narrow: Parameters,
        index: Tensor,
        part: int | slice,
        rows: int,
        losses: Tensor | None,
    ) -> None:
        """Lay out the configurations of ``part``, or the one of that number: text once, images in blocks of rows.

        Shapes of one configuration have no leading axis: [k,] says so.
        """
        shape, b = self.shape, index.shape[-1]
        text: Side | None = None
        if shape.adapts_text:
            x = self.narrow_text[0] if isinstance(part, int) else self.narrow_text.expand(len(index), -1, -1)
            text = self._forward(calls, "text", parameters, narrow, x, part)
        classes, scaled = self._classes(calls, text, part)
        upstream: Tensor | None = None  # E
        lay_out_block = self._folded_block if self.folded else self._direct_block
        for first in range(0, b, rows):
            block = index[..., first : first + rows]
            x = self._gathered(calls, "features", block)
            image = self._forward(calls, "image", parameters, narrow, x, part) if shape.adapts_image else None
            error, q, dq = lay_out_block(calls, image, x, classes, block, part, b, losses)
            if image is not None and dq is not None:
                self._store(calls, parameters, image, dq, self.weighted, part, first == 0)
            if text is None:
                continue
            product = calls.product(error.mT, q, self.buffers("e", q, *text.q.shape))
            upstream = self._total(calls, "sum of e", product, upstream, alone=rows >= b)
        if text is not None and upstream is not None and scaled is not None:
            dp = self._through_scaled(calls, scaled, upstream, b if self.folded else 1)
            self._store(calls, parameters, text, dp, False, part, True)

    def _total(self, calls: Calls, name: str, of_block: Tensor, total: Tensor | None, alone: bool) -> Tensor:
        """Lay out the sum over blocks of rows, in at least float32; the only block is its own sum."""
        if alone:
            return of_block
        wide = torch.promote_types(of_block.dtype, torch.float32)
        if total is None:
            total = self.buffers(name, of_block, *of_block.shape, dtype=wide)
            calls.add(total.copy_, of_block)
        else:
            calls.add(total.add_, of_block)
        return total

    def _gathered(self, calls: Calls, source: str, block: Tensor) -> Tensor:
        """Return the features, labels or lengths of a block, ([k,] rows, any); those who share rows share one copy."""
        shared = block.ndim == 2 and len(block) > 1 and block.stride(0) == 0
        numbers = block[0] if shared else block
        like: Tensor = getattr(self, source)
        out = self.buffers(f"gathered {source}", like, *numbers.shape, like.shape[-1])
        self._lay_out_gather(calls, source, numbers.reshape(-1), flat(out))
        return out.expand(len(block), *out.shape) if shared else out

    def _lay_out_gather(self, calls: Calls, source: str, rows: Tensor, out: Tensor) -> None:
        """Lay out the copy of rows with these numbers."""
        calls.add(self._gather, source, rows, out)

    def _gather(self, source: str, rows: Tensor, out: Tensor) -> None:
        """Copy rows of what is now used: features on disk come batch by batch."""
        torch.index_select(getattr(self, source), 0, rows, out=out)

    def _direct_block(
        self,
        calls: Calls,
        image: Side | None,
        x: Tensor,
        classes: Tensor,
        block: Tensor,
        part: int | slice,
        b: int,
        losses: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return G, q and dq (None without an image adapter).

        Letters are those of the module. ``block`` has the numbers of the rows in ``x``, ``part`` is the place of their
        configurations in the stack, and ``b`` is the size of the whole batch.
        """
        q, r = (x, self._gathered(calls, "row_r", block)) if image is None else (image.q, image.r)
        cosines = self._times(calls, "cosines", q, classes.mT)
        error, along = self.errors(calls, cosines, r, block, part, b, losses)
        if image is None:
            return error, q, None
        along = calls.cast(q, along, "narrow along")
        radial = calls.into(self.buffers("u", q, *q.shape), torch.mul, q, along)
        return error, q, self._times(calls, "u", error, classes, minus=radial)

    def _folded_block(
        self,
        calls: Calls,
        image: Side | None,
        x: Tensor,
        classes: Tensor,
        block: Tensor,
        part: int | slice,
        b: int,
        losses: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return D, v and dq (None without an image adapter)."""
        q = x if image is None else image.q
        if not q.is_contiguous():  # rows that configurations share
            q = self.buffers("x of each", x, *x.shape)
            calls.add(q.copy_, x)
        v = self._scaled(calls, "v", q, self.buffers.filled(1, q, q.numel() // q.shape[-1], 1))
        error = self._times(calls, "cosines", v.scaled, classes.mT)
        for rows, _, raw in self._softmax_errors(calls, error, None, block, b, losses):
            if raw.dtype != error.dtype:
                calls.add(_rows(error, rows).copy_, raw)
        if image is None:
            return error, v.scaled, None
        u = self._times(calls, "u", error, classes)
        dq = self.buffers("dq", q, *q.shape)
        for each in _matrix_by_matrix(dq, u, q, self._shares(part, block, b, q.dtype), v.had):
            calls.add(_write_through, *each)
        return error, v.scaled, dq

    def _scaled(self, calls: Calls, name: str, rows: Tensor, lengths: Tensor) -> _Scaled:
        """Return rows and where they lie when scaled to these lengths, (all rows, 1)."""
        wide = torch.promote_types(rows.dtype, torch.float32)
        had = self.buffers(f"{name} had", rows, *lengths.shape, dtype=wide)
        scaled = _Scaled(rows, lengths, self.buffers(name, rows, *rows.shape), had)
        for each in _matrix_by_matrix(rows, lengths, scaled.scaled, had):
            calls.add(scale_rows, *each)
        return scaled

    def _shares(self, part: int | slice, block: Tensor, b: int, dtype: torch.dtype) -> Tensor:
        """Return what dq is multiplied by in the folded form, 1 / b or with the ratio, (all rows of the block, 1)."""
        _, weight = self._scale_and_weight(part, b)
        if isinstance(weight, float):
            return self.buffers.filled(weight, self.narrow_text, block.numel(), 1)
        shares: Tensor = weight.expand(*block.shape, 1).reshape(-1, 1).to(dtype)
        return shares

    def _classes(self, calls: Calls, text: Side | None, part: int | slice) -> tuple[Tensor, _Scaled | None]:
        """Return w, or s w in the folded form: (c, d) shared and less their mean, or (k, c, d) of trained text.

        Of trained text also return what its gradient needs.
        """
        if text is not None:
            return self._trained_classes(calls, text, part)
        if not self.folded:
            return self.centred_text, None
        scales = self.numbers["logit_scale"]
        given = {scales[part]} if isinstance(part, int) else set(scales[part])
        scale: Any = given.pop() if len(given) == 1 else self.scale[part]
        return (self._centred_text * scale).to(self.narrow_text.dtype), None

    def _trained_classes(self, calls: Calls, text: Side, part: int | slice) -> tuple[Tensor, _Scaled]:
        """Return w, or s w in the folded form, ([k,] c, d), less its mean where it is rounded; and what dp needs."""
        wide = calls.cast(self.text, text.q, "wide text")
        length = self.scale[part] if self.folded else torch.ones_like(self.scale[part])
        lengths = length.expand(*wide.shape[:-1], 1).reshape(-1, 1).contiguous()
        scaled = self._scaled(calls, "w", wide, lengths)
        if wide is text.q:
            return scaled.scaled, scaled
        mean = self.buffers("mean class", wide, *wide.shape[:-2], 1, wide.shape[-1])
        calls.into(mean, torch.mean, scaled.scaled, -2, keepdim=True)
        calls.add(scaled.scaled.sub_, mean)
        return calls.cast(text.q, scaled.scaled, "narrow w"), scaled

    def _through_scaled(self, calls: Calls, text: _Scaled, upstream: Tensor, share: int) -> Tensor:
        """Return dp, ([k,] c, d), from E times ``share``."""
        gradient = calls.cast(text.rows, upstream, "e of rows")
        dp = self.buffers("dp", text.rows, *text.rows.shape)
        for each in _matrix_by_matrix(dp, gradient, text.rows, text.lengths / share, text.had):
            calls.add(_write_through, *each)
        return calls.cast(self.narrow_text, dp, "narrow dp")

    def _forward(
        self, calls: Calls, name: str, parameters: Parameters, narrow: Parameters, x: Tensor, part: int | slice
    ) -> Side:
        """Return one side after its forward pass."""
        ratio_name = {"image": "alpha", "text": "beta"}[name]
        mode: str = getattr(self.shape, f"{ratio_name}_mode")
        if mode == "fixed":
            numbers = self.numbers[ratio_name]
            numbers = [numbers[part]] if isinstance(part, int) else numbers[part]
            ratio = Ratio(ratio_name, mode, self.fixed[ratio_name][part], numbers=numbers)
        else:
            own, mean = self._ratio_inputs(name, x, part)
            span = _span(parameters, part)
            rows = own.shape[1] if mode == "learned" else 1
            values = self.buffers(f"{ratio_name} values", self.text, len(span[f"{ratio_name}_bias"]), rows, 1)
            ratio = Ratio(ratio_name, mode, values)
            calls.add(refresh_ratio, ratio, self.hyper[ratio_name], span, own, mean)
        weights = narrow[f"{name}_down"][part], narrow[f"{name}_up"][part]
        return self.side(calls, name, x, weights, ratio, self.shape.form)

    def _ratio_inputs(self, name: str, x: Tensor, part: int | slice) -> tuple[Tensor, Tensor]:
        """Return the inputs of learned ratios of a side: its rows, ([k,] rows, d), and the other side's mean."""
        if name == "text":
            return self.text, _span({"": self.feature_mean}, part)[""]
        return (x[None] if isinstance(part, int) else x), self.text_mean

    def _scale_and_weight(self, part: int | slice, b: int) -> tuple[Any, Any]:
        """Return s, and what G is multiplied by beside s r: 1 / b, and the ratio where G carries it.

        Numbers of one configuration, (k, 1, 1) of a stack.
        """
        weight = self.weight[part] / b
        if isinstance(part, int):
            return self.numbers["logit_scale"][part], float(weight)
        return self.scale[part], weight

    def errors(
        self,
        calls: Calls,
        cosines: Tensor,
        r: Tensor,
        block: Tensor,
        part: int | slice,
        b: int,
        losses: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return weight G in the products' dtype, and weight r^2 (q . U) as ([k,] rows, 1).

        Adds the block's share to ``losses``, if there is one. Cosines are q w^T, of unit w and q as long as it is; they
        are overwritten.
        """
        scale, weight = self._scale_and_weight(part, b)
        factor = calls.into(self.buffers("factor", r, *r.shape), torch.mul, r, scale)  # ([k,] rows, 1)
        errors = self.buffers("errors", cosines, *cosines.shape) if cosines.dtype == r.dtype else cosines
        alongs = self.buffers("alongs", r, *r.shape)
        for rows, logits, raw in self._softmax_errors(calls, cosines, factor, block, b, losses, errors):
            calls.add(logits.mul_, raw)
            along = calls.into(_rows(alongs, rows), torch.sum, logits, -1, keepdim=True)  # sum_j D L
            own = _rows(r, rows)
            share = calls.into(self.buffers("share", own, *own.shape), torch.mul, own, weight)
            calls.add(raw.mul_, calls.into(self.buffers("share of g", own, *own.shape), torch.mul, share, scale))
            calls.add(share.mul_, own)
            calls.add(along.mul_, share)
            if raw.dtype != errors.dtype:
                calls.add(_rows(errors, rows).copy_, raw)
        return errors, alongs

    def _softmax_errors(
        self,
        calls: Calls,
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
        labels = self._gathered(calls, "labels", block)
        minus = self.buffers.filled(-1, self.text, *labels.shape)
        for rows in _row_slices(product):
            # Casts go through buffers of their own: mixed dtypes inside one operation allocate a temporary.
            logits = calls.cast(self.text, _rows(product, rows), "logits")
            label = _rows(labels, rows)
            if factor is not None:
                calls.add(logits.mul_, _rows(factor, rows))
            if losses is not None:
                calls.add(_add_losses, losses, logits, label, b)
            if factor is None:
                raw = logits
            elif errors is not None and errors.dtype == logits.dtype:
                raw = _rows(errors, rows)
            else:
                raw = self.buffers("raw", logits, *logits.shape)
            calls.into(raw, torch.softmax, logits, -1)
            calls.add(raw.scatter_add_, -1, label, _rows(minus, rows))
            yield rows, logits, raw

    def _store(
        self,
        calls: Calls,
        parameters: Parameters,
        side: Side,
        dq: Tensor,
        weighted: bool,
        part: int | slice,
        fresh: bool,
    ) -> None:
        """Write, or from the second block of rows on add, the gradients of a side from that of its q."""
        direct = fresh and (self._whole or self.text.dtype == dq.dtype)
        gradients = self.gradients if self.text.dtype == dq.dtype else self._narrow_gradients
        own = gradients[f"{side.name}_down"][part], gradients[f"{side.name}_up"][part]
        down, up, dratio = side.gradients(dq, weighted, own if direct else None)
        if not direct:
            for name, value in ((f"{side.name}_down", down), (f"{side.name}_up", up)):
                target = self.gradients[name][part]
                calls.add(target.copy_ if fresh else target.add_, value)
        if dratio is not None:
            inputs = self._ratio_inputs(side.name, side.x, part)
            slopes = dratio[None] if isinstance(part, int) else dratio
            calls.add(
                _write_ratio_gradients, _span(self.gradients, part), fresh,
                side.ratio, slopes, _span(parameters, part), *inputs,
            )  # fmt: skip

    def _times(self, calls: Calls, name: str, a: Tensor, b: Tensor, minus: Tensor | None = None) -> Tensor:
        """Return a ([k,] rows, m) times b, (m, n) shared or (k, m, n) own; less ``minus``, in its place."""
        out = self.buffers(name, a, *a.shape[:-1], b.shape[-1]) if minus is None else minus
        if a.ndim == b.ndim == 3:
            if minus is None:
                return calls.product(a, b, out)
            for total, left, right in zip(out, a, b, strict=True):
                calls.add(total.addmm_, left, right, beta=-1)
            return out
        if minus is None:
            calls.into(flat(out), torch.mm, flat(a), b)
        else:
            calls.add(flat(out).addmm_, flat(a), b, beta=-1)
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


def _matrix_by_matrix(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield each matrix of the stacks (k, rows, d) with its part of (k rows, any), since one matrix stays in cache.

    Matrices without a stack are yielded as they are.
    """
    k = max(len(value) if value.ndim == 3 else 1 for value in tensors)
    yield from zip(*(value if value.ndim == 3 else value.chunk(k) for value in tensors), strict=True)


def _add_losses(losses: Tensor, logits: Tensor, labels: Tensor, b: int) -> None:
    """Add the losses of a block of rows, logits ([k,] rows, c), to the means ([k]) over b rows."""
    losses += (logits.logsumexp(-1, keepdim=True) - logits.gather(-1, labels))[..., 0].sum(-1) / b


def _write_ratio_gradients(gradients: Parameters, fresh: bool, ratio: Ratio, *inputs: Any) -> None:
    """Write the gradients of a ratio's own parameters, or add them where they are not fresh."""
    for name, value in ratio_gradients(ratio, *inputs).items():
        if fresh:
            gradients[name].copy_(value)
        else:
            gradients[name].add_(value)


def _write_through(out: Tensor, gradient: Tensor, rows: Tensor, lengths: Tensor, had: Tensor) -> None:
    """Write the gradient in rows from the gradient in what they were scaled to."""
    out.copy_(through_scaled_rows(gradient, rows, lengths, had))
