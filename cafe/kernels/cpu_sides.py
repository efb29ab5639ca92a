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
from dataclasses import dataclass

import torch
from torch import Tensor

from cafe.kernels.calls import Calls
from cafe.kernels.reference import START_LOGIT, Parameters

_THRESHOLD_BACKWARD = torch.ops.aten.threshold_backward.grad_input


def in_order_of_step(parameters: Parameters) -> Parameters:
    """Return the parameters with W1 as (h, d) in memory, so that W1 of several configurations lie side by side."""
    return {name: value.mT.contiguous().mT if name.endswith("_down") else value for name, value in parameters.items()}


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


def refresh_ratio(ratio: Ratio, fixed: Tensor, parameters: Parameters, own: Tensor, other_mean: Tensor) -> None:
    """Write the present values of a trained ratio; arguments as :func:`ratio_forward`."""
    now = ratio_forward(ratio.name, ratio.mode, fixed, parameters, own, other_mean)
    ratio.values.copy_(now.values)
    ratio.hidden = now.hidden


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
    """Forward, then backward, of one side of one configuration (rows, d) or of a stack (k, rows, d), laid out as calls.

    Parameters
    ----------
    calls : Calls
        What the side's calls are added to.
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

    Attributes
    ----------
    q : Tensor of x's shape
        The blended rows.
    hidden, adapted : Tensor
        H (..., rows, h), and A of x's shape or None where the blend makes it in one product.
    """

    def __init__(
        self, calls: Calls, name: str, x: Tensor, weights: tuple[Tensor, Tensor], ratio: Ratio, form: str
    ) -> None:
        self.calls, self.name, self.x, self.weights, self.form = calls, name, x, weights, form
        self.ratio = ratio
        self.ratio_values = ratio.values[0] if ratio.values.ndim > x.ndim else ratio.values
        down, up = weights
        # Configurations that share their rows multiply them with all their W1 at once, which lie side by side.
        beside = x.ndim == 3 and len(x) > 1 and x.stride(0) == 0 and down.mT.is_contiguous()
        self.shared = x[0] if beside else None
        self.hidden = self._buffer("h", x, *x.shape[:-1], down.shape[-1])
        if self.shared is None:
            self._relu(calls.product(x, down, self.hidden), self.hidden)
        else:
            both = self._buffer("h side by side", x, len(self.shared), len(x), down.shape[-1])
            calls.into(both.flatten(1), torch.mm, self.shared, _side_by_side(down))
            self._relu(both.transpose(0, 1), self.hidden)
        self.adapted: Tensor | None = None
        self.q = self._buffer("q", x, *x.shape)
        self._r: Tensor | None = None
        self._blend()

    def _buffer(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Return a buffer of this side."""
        return self.calls.buffers(f"{self.name} {name}", like, *shape)

    def _relu(self, value: Tensor, out: Tensor) -> None:
        """Lay out max(value, 0), which may take the value's place."""
        if value is out:
            self.calls.add(out.relu_)
        else:
            self.calls.into(out, torch.clamp_min, value, 0)

    def _zero_where_zero(self, gradient: Tensor, activation: Tensor, out: Tensor) -> None:
        """Lay out ReLU's derivative, which may take the gradient's place."""
        self.calls.add(zero_where_zero, gradient, activation, out)

    def _blend(self) -> None:
        """Lay out A and q."""
        calls, x, ratio, (_, up) = self.calls, self.x, self.ratio, self.weights
        if ratio.mode == "fixed":  # a constant
            self.narrow_ratio = self.ratio_values.to(x.dtype)
        else:
            self.narrow_ratio = calls.cast(x, self.ratio_values, f"{self.name} ratio")
        if ratio.numbers is not None and self.form == "paper" and (x.ndim == 2 or x.dtype == torch.bfloat16):
            # The adapted rows are needed in this blend alone. addmm copies x before it adds, which costs more than a
            # blend after the product, except in bfloat16, whose passes are slow.
            each = zip(ratio.numbers, _each(x), _each(self.hidden), _each(up), _each(self.q), strict=True)
            for number, rows, hidden, up_of_one, out in each:
                if x.dtype == ratio.values.dtype:
                    calls.into(out, torch.mm, hidden, up_of_one)
                    calls.into(out, torch.lerp, rows, out, number)
                else:
                    calls.into(out, torch.addmm, rows, hidden, up_of_one, beta=1 - number, alpha=number)
        else:
            self.adapted = calls.product(self.hidden, up, self._buffer("a", x, *x.shape))
            if self.form == "released":
                calls.add(self.adapted.relu_)
            calls.into(self.q, torch.lerp, x, self.adapted, self.narrow_ratio)

    @property
    def r(self) -> Tensor:
        """1 / |q| in the parameters' dtype, (..., rows, 1)."""
        if self._r is None:
            self._r = self._buffer("r", self.ratio_values, *self.q.shape[:-1], 1)
            wide = self.ratio_values.dtype
            self.calls.into(self._r, torch.linalg.vector_norm, self.q, dim=-1, keepdim=True, dtype=wide)
            self.calls.add(invert, self._r)
        return self._r

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
        calls, adapted = self.calls, self.adapted
        dratio = None
        if self.ratio.mode != "fixed" and adapted is not None:
            dratio = self._buffer("dratio", self.ratio_values, *dq.shape[:-1], 1)
            calls.add(_write_ratio_gradient, dratio, adapted, self.x, dq)
        if not weighted:
            calls.add(dq.mul_, self.narrow_ratio)
        if self.form == "released" and adapted is not None:
            self._zero_where_zero(dq, adapted, dq)
        down, up = self.weights
        dh = calls.product(dq, up.mT, self._buffer("dh", dq, *self.hidden.shape))
        if targets is None:
            of_down = (
                self._buffer("down", dq, *down.shape)
                if down.is_contiguous()
                else self._buffer("down", dq, *down.mT.shape).mT
            )
            targets = of_down, self._buffer("up", dq, *up.shape)
        if self.shared is None:
            self._zero_where_zero(dh, self.hidden, dh)
            if targets[0].is_contiguous():
                calls.product(self.x.mT, dh, targets[0])
            else:  # as (h, d) in memory
                calls.product(dh.mT, self.x, targets[0].mT)
        else:
            both = self._buffer("dh side by side", dq, len(self.shared), *self.hidden.shape[::2])
            self._zero_where_zero(dh, self.hidden, both.transpose(0, 1))
            calls.into(_side_by_side(targets[0]).mT, torch.mm, both.flatten(1).mT, self.shared)
        calls.product(self.hidden.mT, dq, targets[1])
        return *targets, dratio


def _side_by_side(maps: Tensor) -> Tensor:
    """Return maps (k, d, h), which lie in memory as (k, h, d), as one matrix (d, k h)."""
    return maps.mT.flatten(0, 1).mT


def _write_ratio_gradient(target: Tensor, adapted: Tensor, x: Tensor, dq: Tensor) -> None:
    """Write dq . (A - x) of every row."""
    target.copy_(((adapted - x) * dq).sum(-1, keepdim=True))


def invert(length: Tensor) -> Tensor:
    """Replace lengths by their inverses in place, and return them; the inverse of 0 is 0, and NaN stays NaN."""
    return length.reciprocal_().nan_to_num_(nan=float("nan"), posinf=0.0)


def flat(value: Tensor) -> Tensor:
    """Return a stack (k, rows, d) as one matrix (k rows, d); a matrix is returned itself, since a view is not free."""
    return value if value.ndim == 2 else value.view(-1, value.shape[-1])


def _each(value: Tensor) -> list[Tensor]:
    """Return the matrices of a stack as a list; a single matrix is a list of itself."""
    return [value] if value.ndim == 2 else list(value)


def scale_rows(rows: Tensor, lengths: Tensor, scaled: Tensor, had: Tensor) -> None:
    """Write rows scaled to the given lengths to ``scaled``, and the lengths that they had before to ``had``.

    A row of zeros stays zeros, and infinity is written as the length that it had.

    Parameters
    ----------
    rows, scaled : Tensor of shape (rows, d)
        Contiguous.
    lengths : Tensor of shape (rows, 1)
        The lengths to scale to, in the dtype of ``rows``.
    had : Tensor of shape (rows, 1)
        In at least float32.
    """
    result, lengths_before = torch._weight_norm_interface(rows, lengths, 0)
    scaled.copy_(result)
    had.copy_(lengths_before)
    if float(had.min()) == 0:
        # No gradient goes through a row of infinite length.
        zeros = had == 0
        scaled.masked_fill_(zeros, 0)
        had.masked_fill_(zeros, math.inf)


def through_scaled_rows(gradient: Tensor, rows: Tensor, lengths: Tensor, had: Tensor) -> Tensor:
    """Return the gradient in the rows that :func:`scale_rows` took, from the gradient in the rows that it wrote.

    ``rows`` and ``lengths`` are the arguments of :func:`scale_rows`, and ``had`` are the lengths that it wrote.
    """
    of_rows: Tensor = torch.ops.aten._weight_norm_interface_backward(gradient, rows, lengths, had, 0)[0]
    return of_rows


def zero_where_zero(gradient: Tensor, activation: Tensor, out: Tensor | None = None) -> None:
    """ReLU's derivative: the gradient, but zero where the activation is; written to ``out``, or in its place."""
    _THRESHOLD_BACKWARD(gradient, activation, 0, grad_input=gradient if out is None else out)
