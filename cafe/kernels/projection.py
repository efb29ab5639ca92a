"""Loss and gradient of a projection that is trained, from formulas, in blocks of rows that stay in cache.

Letters: b rows, p width before the projection, d after it, c classes; W = W0 + D, of which D is trained; s logit scale;
T class embeddings of unit length.

    z = x D        v = v0 + z,  v0 = x W0 + bias        L = (s / |v|) (v0 T^T + x (D T^T))        P = softmax(L)
    loss = mean CE(L) + strength |D|^2

With E = P - Y, Y the one-hot labels, and u = v / |v|:

    dL/du = (s / b) E T        dv = (dL/du - u (u . dL/du)) / |v|        dD = x^T dv + 2 strength D

The step from dL/du to dv is that of rows under weight normalisation (cpu_sides.py), in one pass.

Every batch has all rows of its configuration, in one order or another, and the loss is a mean over them. So they are
gathered at the first step, where v0 and v0 T^T are computed too. Apart from x and D, these keep D's share of v and of
the logits whole: D is some thousandths of W0, and a sum of both in bfloat16, whose numbers have eight bits, would round
it away. At 4,000 x 512 x 1,000 it costs one more product of D, 4 % of the step's multiply-adds.

Products run in float64, float32, or bfloat16 with float32 accumulation inside a product; v0, logits, softmax, D and its
gradient stay in the parameters' dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cafe.kernels.calls import Buffers
from cafe.kernels.class_weights import BLOCK_BYTES, LEAST_ROWS
from cafe.kernels.class_weights_reference import Parameters
from cafe.kernels.cpu_sides import through_scaled_rows


@dataclass(frozen=True)
class _Rows:
    """What stays of a configuration's batch: x (b, p), v0 (b, d), v0 T^T (b, c), labels (b, 1)."""

    x: Tensor
    v0: Tensor
    logits0: Tensor
    labels: Tensor


class ProjectionStep:
    """Losses and gradients of a stack of configurations, step after step.

    Parameters
    ----------
    hyper : dict of str to Tensor of shape (g,)
        ``logit_scale``, ``strength``.
    features : Tensor of shape (n, p)
        All rows, in the parameters' dtype.
    labels : Tensor of shape (n,), int64
        Class row of each.
    start : Tensor of shape (p, d)
        W0, in the parameters' dtype.
    bias : Tensor of shape (d,)
        Frozen, in the parameters' dtype.
    text : Tensor of shape (c, d)
        Class embeddings, in the parameters' dtype.
    products : torch.dtype, default=None
        Dtype of the products; None for the parameters'.
    block_bytes, least_rows : int
        How much memory a block of logits may need, and how few rows it may have for that.

    Notes
    -----
    Formulas in the module's docstring.

    Examples
    --------
    >>> hyper = {"logit_scale": torch.tensor([1.0]), "strength": torch.zeros(1)}
    >>> eye = torch.eye(2)
    >>> step = ProjectionStep(hyper, eye, torch.tensor([0, 1]), eye, torch.zeros(2), eye)
    >>> losses, gradients = step({"change": torch.zeros(1, 2, 2)}, torch.tensor([[0, 1]]))
    >>> losses, gradients["change"]
    (tensor([0.3133]), tensor([[[0.0000, 0.1345],
             [0.1345, 0.0000]]]))
    """

    def __init__(
        self,
        hyper: Parameters,
        features: Tensor,
        labels: Tensor,
        start: Tensor,
        bias: Tensor,
        text: Tensor,
        products: torch.dtype | None = None,
        block_bytes: int = BLOCK_BYTES,
        least_rows: int = LEAST_ROWS,
    ) -> None:
        self.features, self.labels, self.start, self.bias = features, labels, start, bias
        self.scales, self.strengths = hyper["logit_scale"].tolist(), hyper["strength"].tolist()
        self.products = products or features.dtype
        self.unit_text = torch.nn.functional.normalize(text, dim=-1)
        self.text = self.unit_text.to(self.products)
        self.rows_of_block = max(least_rows, block_bytes // (2 * start.element_size() * len(text)))
        self.minus_one = start.new_full((1, 1), -1.0)
        self.kept: list[_Rows] = []
        self.buffers, self.gradients = Buffers(), Parameters()

    def __call__(
        self, parameters: Parameters, index: Tensor, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,), or None, and gradients.

        Parameters
        ----------
        parameters : dict of str to Tensor
            ``change`` (g, p, d).
        index : Tensor of shape (g, b), int64
            Rows of each configuration's batch; after the first call the same rows in any order.
        with_losses : bool, default=True
            Whether losses are wanted.

        Returns
        -------
        tuple of Tensor of shape (g,) or None, and dict of str to Tensor
            The gradient is overwritten by the next call.
        """
        change = parameters["change"]
        if not self.kept:
            self.kept = [self._gathered(rows) for rows in index]
            self.gradients = {"change": torch.empty_like(change)}
        losses = change.new_zeros(len(change)) if with_losses else None
        for k, rows in enumerate(self.kept):
            total = self._run(rows, change[k], k, with_losses)
            if losses is not None and total is not None:
                losses[k] = total
        return losses, self.gradients

    def _gathered(self, index: Tensor) -> _Rows:
        """Return what stays of a batch, its rows in their order in the features."""
        order = index.sort().values
        x = self.features[order]
        v0 = torch.addmm(self.bias, x, self.start)
        return _Rows(x.to(self.products), v0, v0 @ self.unit_text.T, self.labels[order][:, None])

    def _run(self, rows: _Rows, change: Tensor, k: int, with_losses: bool) -> Tensor | None:
        """Write the gradient of configuration k, and return its loss if it is wanted."""
        b, s = len(rows.x), self.scales[k]
        narrow = self.buffers("narrow change", rows.x, *change.shape).copy_(change)
        moves = torch.mm(narrow, self.text.mT, out=self._buffer("moves", narrow, len(self.text)))  # D T^T, (p, c)
        gradient = self.gradients["change"][k]
        loss = change.new_zeros(()) if with_losses else None
        for first in range(0, b, self.rows_of_block):
            block = slice(first, first + self.rows_of_block)
            x = rows.x[block]
            z = torch.mm(x, narrow, out=self._buffer("z", x, narrow.shape[1]))
            v = self.buffers.in_dtype_of(self.start, z, "v").add_(rows.v0[block])
            had = torch.linalg.vector_norm(v, dim=-1, keepdim=True)  # (rows, 1)
            had.masked_fill_(had == 0, math.inf)  # no gradient goes through a row of zeros
            product = torch.mm(x, moves, out=self._buffer("product", x, len(self.text)))
            logits = self.buffers.in_dtype_of(self.start, product, "logits").add_(rows.logits0[block]).mul_(s / had)
            errors = self._errors(logits, rows.labels[block], loss)
            du = torch.mm(_narrowed(errors, product), self.text, out=self._buffer("du", x, narrow.shape[1]))
            lengths = self.buffers.filled(s / b, x, len(x), 1)
            dv = through_scaled_rows(du, _narrowed(v, z), lengths, had)
            _add_product(gradient, x.mT, dv, first == 0, self.buffers)  # x^T dv
        strength = self.strengths[k]
        if strength:
            gradient.add_(change, alpha=2 * strength)
        return None if loss is None else loss / b + strength * change.square().sum()

    def _buffer(self, name: str, like: Tensor, width: int) -> Tensor:
        """Return a buffer of as many rows as ``like``, of its dtype."""
        return self.buffers(name, like, len(like), width)

    def _errors(self, logits: Tensor, labels: Tensor, loss: Tensor | None) -> Tensor:
        """Return softmax minus one-hot labels, in the logits' place, and add the block's losses."""
        if loss is not None:
            loss += (torch.logsumexp(logits, -1, keepdim=True) - logits.gather(-1, labels)).sum()
        torch.softmax(logits, -1, out=logits)
        return logits.scatter_add_(-1, labels, self.minus_one.expand(labels.shape))


def _add_product(target: Tensor, a: Tensor, b: Tensor, fresh: bool, buffers: Buffers) -> None:
    """Add the product of two matrices to the target; write it there where that is fresh."""
    if target.dtype == a.dtype:
        if fresh:
            torch.mm(a, b, out=target)
        else:
            target.addmm_(a, b)
        return
    product = torch.mm(a, b, out=buffers("product to add", a, *target.shape))
    if fresh:
        target.copy_(product)
    else:
        target.add_(buffers.in_dtype_of(target, product, "wide product to add"))


def _narrowed(value: Tensor, like: Tensor) -> Tensor:
    """Return the value in the dtype of ``like``, in its place where that is another tensor."""
    return value if value is like else like.copy_(value)


@dataclass(frozen=True)
class ProjectionSizes:
    """What decides how long a step of one configuration takes.

    Attributes
    ----------
    batch, before, width, classes : int
        b, p, d, c.
    """

    batch: int
    before: int
    width: int
    classes: int

    @property
    def multiply_adds(self) -> int:
        """Projection and logits, forward once and backward once."""
        return 2 * self.batch * self.width * (self.before + self.classes)

    def __str__(self) -> str:
        return f"projection, batch {self.batch}, width {self.before} to {self.width}, {self.classes} classes"

    def timed_step(self, products: torch.dtype) -> Callable[[], object]:
        """Return a step on random rows, to be called with nothing."""
        generator = torch.Generator().manual_seed(0)

        def draw(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator) / math.sqrt(size[-1])

        hyper = {"logit_scale": torch.tensor([100.0]), "strength": torch.tensor([0.1])}
        rows, start, text = draw(self.batch, self.before), draw(self.before, self.width), draw(self.classes, self.width)
        labels = torch.arange(self.batch) % self.classes
        step = ProjectionStep(hyper, rows, labels, start, torch.zeros(self.width), text, products)
        change, index = {"change": torch.zeros(1, self.before, self.width)}, torch.arange(self.batch)[None]
        return lambda: step(change, index, False)
