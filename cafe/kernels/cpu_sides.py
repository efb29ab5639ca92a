"""One side of the adapter's step on a CPU, image or text, and its ratio: forward, then back.

Letters and formulas as in cpu.py. There are three kinds of ratio, of which two are trained:

    fixed    ratio_g = the given number
    scalar   ratio_g = sigmoid(start + bias_g),  start = logit of the default ratio
    learned  ratio_i = sigmoid(z_i),  z_i = v_i . o + start + bias,  v_i = tanh(x_i U + m V)

With e_i = dratio_i, the gradient in a row's ratio, and every sum over the rows i of one configuration:

    dz_i = e_i ratio_i (1 - ratio_i)        dbias = sum dz_i        do = sum dz_i v_i
    dpre_i = dz_i o (1 - v_i^2)             dU = sum x_i^T dpre_i   dV = m^T sum dpre_i
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cafe.kernels.reference import START_LOGIT, Parameters

Multiply = Callable[..., Tensor]


class Buffers:
    """Memory by name, made once: fresh memory costs a page fault per 4 KiB, as much as the arithmetic on it."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return the uninitialised buffer of that name and shape, of ``like``'s device and dtype."""
        buffer = self._buffers.get((name, shape))
        if buffer is None:
            buffer = like.new_empty(shape, dtype=dtype or like.dtype)
            self._buffers[name, shape] = buffer
        return buffer

    def filled(self, value: float, like: Tensor, *shape: int) -> Tensor:
        """Return a tensor of that shape with one value everywhere, to be read alone."""
        key = f"filled with {value} in {like.dtype}", shape
        if key not in self._buffers:
            self._buffers[key] = like.new_full(shape, value)
        return self._buffers[key]

    def in_dtype_of(self, like: Tensor, value: Tensor, name: str) -> Tensor:
        """Return the value in the dtype of ``like``, in the buffer of that name where that is another than its own."""
        return value if value.dtype == like.dtype else self(name, like, *value.shape).copy_(value)


def add_product(target: Tensor, a: Tensor, b: Tensor, fresh: bool, buffers: Buffers) -> None:
    """Add the product of two matrices, or of two stacks of them, to the target; write it there where that is fresh."""
    multiply, multiply_and_add = (torch.bmm, torch.baddbmm) if a.ndim == 3 else (torch.mm, torch.addmm)
    if target.dtype == a.dtype:
        if fresh:
            multiply(a, b, out=target)
        else:
            multiply_and_add(target, a, b, out=target)
        return
    product = multiply(a, b, out=buffers("product to add", a, *target.shape))
    if fresh:
        target.copy_(product)
    else:
        target.add_(buffers.in_dtype_of(target, product, "wide product to add"))


# ---------------------------------------------------------------------------- ratios


@dataclass
class Ratio:
    """Values of a ratio and what its gradient needs.

    Attributes
    ----------
    name, mode : str
        ``"alpha"`` or ``"beta"``; ``"fixed"``, ``"scalar"`` or ``"learned"``.
    values : Tensor of shape (k, rows or 1, 1)
        In the parameters' dtype; (1, 1) for a fixed ratio of one configuration.
    hidden : Tensor of shape (k, rows, q) or None
        tanh values v of ``"learned"``.
    numbers : list of float or None
        The ratios of the configurations themselves, where they are fixed.
    """

    name: str
    mode: str
    values: Tensor
    hidden: Tensor | None = None
    numbers: list[float] | None = None


def ratio_forward(
    name: str, mode: str, fixed: Tensor, parameters: Parameters, own: Tensor, other_mean: Tensor
) -> Ratio:
    """Return the ratio of k configurations; arguments as ``reference.ratio_values``."""
    if mode == "fixed":
        return Ratio(name, mode, fixed[:, None, None])
    bias = START_LOGIT + parameters[f"{name}_bias"][:, None, None]  # (k, 1, 1)
    if mode == "scalar":
        return Ratio(name, mode, torch.sigmoid(bias))
    pre = own.to(bias.dtype) @ parameters[f"{name}_own"] + other_mean @ parameters[f"{name}_other"]
    hidden = torch.tanh(pre)  # (k, rows, q)
    return Ratio(name, mode, torch.sigmoid(hidden @ parameters[f"{name}_out"][:, :, None] + bias), hidden)


def ratio_gradients(
    ratio: Ratio, dratio: Tensor, parameters: Parameters, own: Tensor, other_mean: Tensor
) -> Parameters:
    """Return the gradients of the ratio's own parameters.

    Parameters
    ----------
    ratio : Ratio
        From :func:`ratio_forward`.
    dratio : Tensor of shape (k, rows, 1)
        Gradient of the loss in each row's ratio.
    parameters, own, other_mean
        As given to :func:`ratio_forward`.
    """
    name, values = ratio.name, ratio.values
    if ratio.mode == "fixed":
        return {}
    if ratio.hidden is None:
        total = dratio.sum(1, keepdim=True) * values * (1 - values)
        return {f"{name}_bias": total.view(-1)}
    dz = dratio * values * (1 - values)  # (k, rows, 1)
    out = parameters[f"{name}_out"]
    dpre = dz * out[:, None, :] * (1 - ratio.hidden * ratio.hidden)  # (k, rows, q)
    return {
        f"{name}_bias": dz.sum((1, 2)),
        f"{name}_out": (dz * ratio.hidden).sum(1),
        f"{name}_own": own.to(dpre.dtype).transpose(1, 2) @ dpre,
        f"{name}_other": other_mean.transpose(1, 2) @ dpre.sum(1, keepdim=True),
    }


# ---------------------------------------------------------------------------- one side, image or text


class Side:
    """Forward, then backward, of one side of one configuration (rows, d) or of a stack (k, rows, d).

    Parameters
    ----------
    name : str
        ``"image"`` or ``"text"``.
    x : Tensor of shape (rows, d) or (k, rows, d)
        The side's rows before they are adapted, in the dtype of the products.
    weights : tuple of Tensor
        W1 (..., d, h) and W2 (..., h, d), in x's dtype.
    ratio : Ratio
        Weight of the adapted rows; of one configuration where x is that of one.
    form : str
        ``"paper"`` or ``"released"``.
    buffers : Buffers
        Memory to work in.
    """

    def __init__(
        self, name: str, x: Tensor, weights: tuple[Tensor, Tensor], ratio: Ratio, form: str, buffers: Buffers
    ) -> None:
        self.name, self.x, self.weights, self.form, self.buffers = name, x, weights, form, buffers
        self.ratio = ratio
        self.ratio_values = ratio.values[0] if ratio.values.ndim > x.ndim else ratio.values
        self.multiply = multiplier(x)
        down, up = weights
        self.hidden = self.multiply(x, down, out=buffers(f"{name} h", x, *x.shape[:-1], down.shape[-1])).relu_()
        self.adapted: Tensor | None = None
        q = buffers(f"{name} q", x, *x.shape)
        if ratio.numbers is not None and form == "paper" and (x.ndim == 2 or x.dtype == torch.bfloat16):
            # The adapted rows are needed in this blend alone. addmm copies x before it adds, which costs more than a
            # blend after the product, except in bfloat16, whose passes are slow.
            each = zip(ratio.numbers, _each(x), _each(self.hidden), _each(up), _each(q), strict=True)
            for number, rows, hidden, up_of_one, out in each:
                if x.dtype == ratio.values.dtype:
                    torch.lerp(rows, torch.mm(hidden, up_of_one, out=out), number, out=out)
                else:
                    torch.addmm(rows, hidden, up_of_one, beta=1 - number, alpha=number, out=out)
            self.q = q
        else:
            self.adapted = self.multiply(self.hidden, up, out=buffers(f"{name} a", x, *x.shape))
            if form == "released":
                self.adapted.relu_()
            self.q = torch.lerp(x, self.adapted, self.ratio_values.to(x.dtype), out=q)

    @cached_property
    def r(self) -> Tensor:
        """Return 1 / |q| in the parameters' dtype, (..., rows, 1)."""
        return invert(torch.linalg.vector_norm(self.q, dim=-1, keepdim=True, dtype=self.ratio_values.dtype))

    @property
    def wide(self) -> Tensor:
        """Return q in the parameters' dtype: q itself, or a copy."""
        q, dtype = self.q, self.ratio_values.dtype
        return q if q.dtype == dtype else self.buffers("wide", q, *q.shape, dtype=dtype).copy_(q)

    def unit(self) -> Tensor:
        """Return q / |q| in the dtype of the products, rounded once."""
        wide = self.wide
        self.r = invert(torch.linalg.vector_norm(wide, dim=-1, keepdim=True))
        wide = torch.mul(wide, self.r, out=self.buffers(f"{self.name} unit wide", self.r, *self.q.shape))
        if wide.dtype == self.q.dtype:
            return wide
        return self.buffers(f"{self.name} unit", self.q, *self.q.shape).copy_(wide)

    def gradients(
        self, dq: Tensor, weighted: bool = False, targets: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return dW1, dW2 and, where the ratio is trained, dratio (..., rows, 1).

        Parameters
        ----------
        dq : Tensor of q's shape
            Gradient of q; overwritten.
        weighted : bool, default=False
            Whether ``dq`` is already multiplied by the ratio.
        targets : tuple of two Tensor, default=None
            Where dW1 and dW2 are written; None for buffers of its own.
        """
        buffers, name, multiply, adapted = self.buffers, self.name, self.multiply, self.adapted
        dratio = None
        if self.ratio.mode != "fixed" and adapted is not None:
            dratio = ((adapted - self.x) * dq).sum(-1, keepdim=True).to(self.r.dtype)
        da = dq if weighted else dq.mul_(self.ratio_values.to(dq.dtype))
        if self.form == "released" and adapted is not None:
            zero_where_zero(da, adapted)
        down, up = self.weights
        dh = multiply(da, up.mT, out=buffers(f"{name} dh", dq, *self.hidden.shape))
        zero_where_zero(dh, self.hidden)
        if targets is None:
            targets = buffers(f"{name} down", dq, *down.shape), buffers(f"{name} up", dq, *up.shape)
        multiply(self.x.mT, dh, out=targets[0])
        multiply(self.hidden.mT, da, out=targets[1])
        return *targets, dratio


def invert(length: Tensor) -> Tensor:
    """Replace lengths by their inverses in place, and return them; the inverse of 0 is 0, and NaN stays NaN."""
    return length.reciprocal_().nan_to_num_(nan=float("nan"), posinf=0.0)


def multiplier(like: Tensor) -> Multiply:
    """Return the function ``multiply(a, b, out=...)`` for operands of ``like``'s dtype and number of dimensions.

    Operands are two matrices, or two stacks of matrices (k, ., .); stacks in bfloat16 are multiplied matrix by matrix.
    """
    if like.ndim == 2:
        return torch.mm
    return _one_after_the_other if like.dtype == torch.bfloat16 else torch.bmm


def _one_after_the_other(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Multiply stacks a (k, rows, m) and b (k, m, n) matrix by matrix, into ``out`` (k, rows, n)."""
    for left, right, result in zip(a, b, out, strict=True):
        torch.mm(left, right, out=result)
    return out


def flat(value: Tensor) -> Tensor:
    """Return a stack (k, rows, d) as one matrix (k rows, d); a matrix is returned itself, since a view is not free."""
    return value if value.ndim == 2 else value.view(-1, value.shape[-1])


def _each(value: Tensor) -> list[Tensor]:
    """Return the matrices of a stack as a list; a single matrix is a list of itself."""
    return [value] if value.ndim == 2 else list(value)


def scaled_rows(rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows scaled to the given lengths, (..., rows, d), and the lengths that they had before, (all rows, 1).

    A row of zeros stays zeros, and infinity is returned as the length that it had.

    Parameters
    ----------
    rows : Tensor of shape (..., rows, d)
        Contiguous; a matrix, or a stack of matrices.
    lengths : Tensor of shape (all rows, 1)
        The lengths to scale to, of all matrices' rows in their order; in the dtype of ``rows``.
    """
    scaled, had = torch._weight_norm_interface(flat(rows), lengths, 0)
    if float(had.min()) == 0:
        # No gradient goes through a row of infinite length.
        zeros = had == 0
        scaled.masked_fill_(zeros, 0)
        had.masked_fill_(zeros, math.inf)
    return scaled if rows.ndim == 2 else scaled.view(rows.shape), had


def through_scaled_rows(gradient: Tensor, rows: Tensor, lengths: Tensor, had: Tensor) -> Tensor:
    """Return the gradient in the rows that :func:`scaled_rows` took, from the gradient in the rows that it returned.

    ``rows`` and ``lengths`` are the arguments of :func:`scaled_rows`, and ``had`` are the lengths that it returned.
    """
    backward = torch.ops.aten._weight_norm_interface_backward
    of_rows: Tensor = backward(flat(gradient), flat(rows), lengths, had, 0)[0]
    return of_rows if rows.ndim == 2 else of_rows.view(rows.shape)


def zero_where_zero(gradient: Tensor, activation: Tensor) -> None:
    """ReLU's derivative, in place: zero the gradient where the activation is zero."""
    torch.ops.aten.threshold_backward.grad_input(gradient, activation, 0, grad_input=gradient)
