"""The direct form of the adapter's step with compiled passes between its products; letters and formulas as in cpu.py.

Between two products, in brackets, lies one pass:

    rows of x    (x W1)    H    (H W2)    q, r    (q w^T)    G, u    (G w - u)    (dA W2^T)    dH    (x^T dH)

and the update is one pass too (update.py); u = weight r^2 (q . U) q is the part of U along q. Trained text goes through
its norm by PyTorch's operations, as in the base class, and so do learned ratios.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor

from cafe.errors import InputError
from cafe.kernels.calls import Calls
from cafe.kernels.compiled.library import TYPES, Activation, Arguments, Blend, Errors, Gather, bound
from cafe.kernels.compiled.update import CompiledUpdate
from cafe.kernels.cpu import CpuAdapterStep
from cafe.kernels.cpu_sides import Side
from cafe.kernels.optimizers import EPS, empty_in_a_row
from cafe.kernels.reference import Parameters


class CompiledSide(Side):
    """One side of the step, with compiled passes; parameters and attributes as there."""

    def _pass(self, name: str, arguments: Arguments) -> None:
        """Lay out a pass on numbers of the products' dtype."""
        self.calls.add(bound(f"{name}_{TYPES[self.x.dtype]}", arguments))

    def _relu(self, value: Tensor, out: Tensor) -> None:
        self._pass("relu", _activation(value, None, out))

    def _zero_where_zero(self, gradient: Tensor, activation: Tensor, out: Tensor) -> None:
        self._pass("zero_where_zero", _activation(gradient, activation, out))

    def _blend(self) -> None:
        calls, ratio, x = self.calls, self.ratio, self.x
        is_fixed, is_released = ratio.mode == "fixed", self.form == "released"
        self.narrow_ratio = (
            self.ratio_values.to(x.dtype) if is_fixed else calls.cast(x, self.ratio_values, f"{self.name} ratio")
        )
        adapted = self.q if is_fixed and not is_released else self._buffer("a", x, *x.shape)
        calls.product(self.hidden, self.weights[1], adapted)
        self.adapted = None if adapted is self.q else adapted
        # Only rows of images are divided by their lengths here.
        self._r = self._buffer("r", ratio.values, *x.shape[:-1], 1) if self.name == "image" else None
        configurations, rows, width = _stack_shape(x)
        per_row = ratio.values.shape[-2] > 1
        self._pass(
            "blend",
            Blend(
                x=x, adapted=adapted, q=self.q, ratio=ratio.values, r=self._r,
                configurations=configurations, rows=rows, width=width,
                ratio_per_row=int(per_row), x_shared=int(configurations > 1 and x.stride(0) == 0),
                released=int(is_released),
            ),
        )  # fmt: skip


class CpuCompiledStep(CpuAdapterStep):
    """As :class:`CpuAdapterStep` in the direct form, with compiled passes; parameters as there but ``folded``.

    Notes
    -----
    An optimiser from :meth:`make_update` writes parameters in the products' dtype too, and reads gradients in it; with
    any other, both are copied at every step as in the base class.
    """

    side = CompiledSide

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._narrow: Parameters | None = None
        self._trained: list[Tensor] = []
        self._wide_gradients: Parameters = {}
        self._is_own = False
        super().__init__(*arguments, **named)

    def use(self, features: Tensor, labels: Tensor) -> None:
        """Take rows from here from now on; see the base class."""
        if features.dtype not in TYPES or self.text.dtype != torch.float32:
            raise InputError("kernel 'cpu-compiled' multiplies float32 or bfloat16; use kernel='cpu' for float64")
        super().use(features.contiguous(), labels.contiguous())

    def make_update(self, name: str, parameters: Parameters, weight_decay: Tensor, eps: float = EPS) -> CompiledUpdate:
        """Return an optimiser of these parameters, which nothing else may change from now on.

        Parameters
        ----------
        name : str
            ``"adamw"`` or ``"sgd"``.
        parameters : dict of str to Tensor of shape (g, ...)
            What will be updated.
        weight_decay : Tensor of shape (g,)
            One per configuration.
        eps : float, default=1e-8
            AdamW's.
        """
        if self.narrow_text.dtype != self.text.dtype:
            self._narrow = empty_in_a_row(parameters, self.narrow_text.dtype)
            for own, value in parameters.items():
                self._narrow[own].copy_(value)
            self._trained = list(parameters.values())
        return CompiledUpdate(name, parameters, weight_decay, eps, self._narrow)

    def prepare(self, calls: Calls, parameters: Parameters) -> Parameters:
        """Make the buffers of gradients, and return where the parameters lie in the products' dtype."""
        if self._wide_gradients:
            self.gradients = self._wide_gradients
        self._is_own = self._narrow is not None and all(map(is_, parameters.values(), self._trained))
        # The optimiser has rounded its parameters already: of the base class's work, the buffers alone are needed.
        rounded = super().prepare(Calls(self.buffers) if self._is_own else calls, parameters)
        self._wide_gradients = self.gradients
        return self._narrow if self._is_own and self._narrow is not None else rounded

    def _widen_gradients(self, calls: Calls) -> None:
        """Lay out the copy of the maps' gradients, unless the optimiser reads them as they are."""
        if not (self._is_own and self._whole):
            super()._widen_gradients(calls)
            return
        narrow = {name: self._narrow_gradients[name] for name in self._maps}
        calls.add(setattr, self, "gradients", {**self._wide_gradients, **narrow})

    def _lay_out_gather(self, calls: Calls, source: str, rows: Tensor, out: Tensor) -> None:
        """Lay out the copy of rows with these numbers."""
        arguments = Gather(index=rows, out=out, n=len(out), bytes=out.shape[-1] * out.element_size())
        calls.add(partial(self._gather_rows, arguments, source, bound("gather", arguments)))

    def _gather_rows(self, arguments: Gather, source: str, run: Callable[[], None]) -> None:
        """Copy rows of what is now used: features on disk come batch by batch."""
        rows: Tensor = getattr(self, source)
        arguments.point("rows", rows)
        arguments.point("available", len(rows))
        run()

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
        """Return G, q and dq (None without an image adapter)."""
        q, r = (x, self._gathered(calls, "row_r", block)) if image is None else (image.q, image.r)
        cosines = self._times(calls, "cosines", q, classes.mT)
        configurations, rows, c = _stack_shape(cosines)
        if not r.is_contiguous():  # lengths of rows that configurations share
            of_each = self.buffers("r of each", r, *r.shape)
            calls.add(of_each.copy_, r)
            r = of_each
        u = None if image is None else self.buffers("u", q, *q.shape)
        scale, weight = (_of_part(value, part).contiguous() for value in (self.scale, self.weight / b))
        of_rows = None if losses is None else self.buffers("losses of rows", r, *r.shape)
        arguments = Errors(
            cosines=cosines, q=q, u=u, r=r, scale=scale, weight=weight, index=block, losses=of_rows,
            configurations=configurations, rows=rows, classes=c, width=q.shape[-1],
            index_of_matrix=block.stride(0) if block.ndim == 2 else 0,
        )  # fmt: skip
        run = bound(f"errors_{TYPES[cosines.dtype]}", arguments)
        calls.add(partial(self._errors_of_rows, arguments, run))
        if losses is not None and of_rows is not None:
            calls.add(_add_mean, losses, of_rows, b)
        if u is None:
            return cosines, q, None
        return cosines, q, self._times(calls, "u", cosines, classes, minus=u)

    def _errors_of_rows(self, arguments: Errors, run: Callable[[], None]) -> None:
        """Run the pass with the labels of what is now used."""
        arguments.point("labels", self.labels)
        run()


def _activation(value: Tensor, activation: Tensor | None, out: Tensor) -> Activation:
    """Return the arguments of ReLU or its derivative on matrices (rows, width) or stacks (k, rows, width) of them."""
    matrices, rows, width = _stack_shape(value)
    steps: dict[str, int] = {}
    for name, tensor in (("in", value), ("activation", activation), ("out", out)):
        if tensor is not None:
            assert tensor.stride(-1) == 1
            of_matrix = tensor.stride(0) if tensor.ndim == 3 else 0
            steps |= {f"{name}_matrix": of_matrix, f"{name}_row": tensor.stride(-2)}
    pointers = {"in": value, "activation": activation, "out": out}
    return Activation(matrices=matrices, rows=rows, width=width, **pointers, **steps)


def _stack_shape(value: Tensor) -> tuple[int, int, int]:
    """Return k, rows and width of a stack (k, rows, width); k is 1 for a matrix."""
    k, rows, width = value.shape if value.ndim == 3 else (1, *value.shape)
    return k, rows, width


def _of_part(values: Tensor, part: int | slice) -> Tensor:
    """Return the values (g, 1, 1) of the configurations of a part, or of the one of that number."""
    return values[part : part + 1] if isinstance(part, int) else values[part]


def _add_mean(losses: Tensor, of_rows: Tensor, b: int) -> None:
    """Add the losses of rows, ([k,] rows, 1), to the means ([k]) over b rows."""
    losses += of_rows[..., 0].sum(-1) / b
