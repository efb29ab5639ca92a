"""One side of the adapter on a CPU, image or text: forward and backward without autograd. Formulas in kernels/cpu.py.

Everything here works on one configuration, tensors (rows, d) and ``torch.mm``, or on k stacked ones, tensors
(k, rows, d) and ``torch.bmm``. Small steps gain by the stack, which shares the cost of calling an operation. Large
ones lose by it in bfloat16: there ``bmm`` takes up to twice as long as ``mm`` where an operand is transposed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cafe.kernels.cpu_ratios import Ratio

Multiply = Callable[..., Any]


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
    """Forward, then backward, of one side of one configuration (rows, d) or of a stack (k, rows, d).

    Parameters
    ----------
    name : str
        ``"image"`` or ``"text"``.
    x : Tensor of shape (rows, d) or (k, rows, d)
        What goes in, in the dtype of the products.
    weights : tuple of Tensor
        W1 (..., d, h) and W2 (..., h, d), in x's dtype.
    ratio : Ratio
        Weight of the adapted rows; of one configuration where x is that of one.
    share : float or None
        The ratio as a number, where there is one configuration and its ratio is fixed.
    form : str
        ``"paper"`` or ``"released"``.
    room : Workspace
        Buffers.
    """

    def __init__(
        self,
        name: str,
        x: Tensor,
        weights: tuple[Tensor, Tensor],
        ratio: Ratio,
        share: float | None,
        form: str,
        room: Workspace,
    ) -> None:
        self.name, self.x, self.weights, self.form, self.room = name, x, weights, form, room
        self.ratio, self.share = ratio, ratio.values[0] if ratio.values.ndim > x.ndim else ratio.values
        self.multiply: Multiply = torch.mm if x.ndim == 2 else torch.bmm
        down, up = weights
        self.hidden = self.multiply(x, down, out=room(f"{name} h", x, *x.shape[:-1], down.shape[-1])).relu_()
        self.adapted: Tensor | None = None
        q = room(f"{name} q", x, *x.shape)
        if share is not None and form == "paper":
            # The blend inside the product; A itself is needed by nothing.
            self.q = torch.addmm(x, self.hidden, up, beta=1 - share, alpha=share, out=q)
        else:
            self.adapted = self.multiply(self.hidden, up, out=room(f"{name} a", x, *x.shape))
            if form == "released":
                self.adapted.relu_()
            self.q = torch.lerp(x, self.adapted, self.share.to(x.dtype), out=q)
        self.r, self.wide = reciprocal_length(self.q, self.share.dtype, room)

    def unit(self) -> Tensor:
        """Return q / |q| in the dtype of the products, rounded once."""
        wide = torch.mul(self.wide, self.r, out=self.room(f"{self.name} unit wide", self.wide, *self.wide.shape))
        if wide.dtype == self.q.dtype:
            return wide
        return self.room(f"{self.name} unit", self.q, *self.q.shape).copy_(wide)

    def through_norm(self, u: Tensor, along: Tensor) -> Tensor:
        """Return u - q along, in u's place: the gradient of q from that of q/|q| and its part along q."""
        return u.addcmul_(self.q, along.to(u.dtype), value=-1)

    def gradients(self, dq: Tensor, weighted: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return dW1, dW2 and, where the ratio is trained, dratio (..., rows, 1).

        Parameters
        ----------
        dq : Tensor of q's shape
            Gradient of q; overwritten.
        weighted : bool, default=False
            Whether it is already multiplied by the ratio.
        """
        room, name, multiply, adapted = self.room, self.name, self.multiply, self.adapted
        error = None
        if self.ratio.mode != "fixed" and adapted is not None:
            error = ((adapted - self.x) * dq).sum(-1, keepdim=True).to(self.r.dtype)
        da = dq if weighted else dq.mul_(self.share.to(dq.dtype))
        if self.form == "released" and adapted is not None:
            zero_where_zero(da, adapted)
        down, up = self.weights
        dh = multiply(da, up.mT, out=room(f"{name} dh", dq, *self.hidden.shape))
        zero_where_zero(dh, self.hidden)
        dup = multiply(self.hidden.mT, da, out=room(f"{name} up", dq, *up.shape))
        ddown = multiply(self.x.mT, dh, out=room(f"{name} down", dq, *down.shape))
        return ddown, dup, error


def reciprocal_length(q: Tensor, dtype: torch.dtype, room: Workspace) -> tuple[Tensor, Tensor]:
    """Return 1 / |q| of rows, (..., rows, 1), and q in that dtype; a row of zeros gets 0, as its loss is constant."""
    # Two passes in dtype are faster than one that converts as it adds.
    wide = q if q.dtype == dtype else room("wide", q, *q.shape, dtype=dtype).copy_(q)
    return invert(torch.linalg.vector_norm(wide, dim=-1, keepdim=True)), wide


def invert(length: Tensor) -> Tensor:
    """Return 1 / length in its place, 0 where it is 0; a NaN stays."""
    return length.reciprocal_().nan_to_num_(nan=float("nan"), posinf=0.0)


def zero_where_zero(gradient: Tensor, activation: Tensor) -> None:
    """ReLU's derivative, in place: zero the gradient where the activation is zero."""
    torch.ops.aten.threshold_backward.grad_input(gradient, activation, 0, grad_input=gradient)
