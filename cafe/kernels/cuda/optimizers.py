"""AdamW and SGD of a stack of configurations in one pass over memory, and as what a gradient's kernel ends with.

    AdamW   m <- b1 m + (1 - b1) g      v <- b2 v + (1 - b2) g^2
            p <- p - lr (wd p + (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps))
    SGD     m <- momentum m + g + wd p                                             p <- p - lr m

as in cafe/kernels/optimizers.py. Learning rates, decays and AdamW's corrections 1 - b1^t and 1 - b2^t are
read from the device's memory, so that a captured graph takes another step each time it is replayed. The corrections
are a table made in float64: in float32, 1 - 0.999^t loses three digits at the first steps. Never run on a GPU so far.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cafe.errors import unknown_name
from cafe.kernels.optimizers import BETAS, EPS, MOMENTUM, OPTIMIZERS

# Numbers of one program.
FLAT = 1024


@triton.jit  # type: ignore[untyped-decorator]
def adamw(p, m, v, place, inside, g, lr, decay, c1, c2, eps, B1: tl.constexpr, B2: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
    """Take AdamW's step at some places and return the new values; moments and values are stored."""
    first = B1 * tl.load(m + place, mask=inside, other=0.0) + (1 - B1) * g
    second = B2 * tl.load(v + place, mask=inside, other=0.0) + (1 - B2) * g * g
    value = tl.load(p + place, mask=inside, other=0.0)
    value -= lr * (decay * value + (first / c1) / (tl.sqrt(second / c2) + eps))
    tl.store(m + place, first, mask=inside)
    tl.store(v + place, second, mask=inside)
    tl.store(p + place, value, mask=inside)
    return value


@triton.jit  # type: ignore[untyped-decorator]
def sgd(p, m, place, inside, g, lr, decay, MOMENTUM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Take SGD's step at some places and return the new values; velocities and values are stored."""
    value = tl.load(p + place, mask=inside, other=0.0)
    velocity = MOMENTUM * tl.load(m + place, mask=inside, other=0.0) + g + decay * value
    value -= lr * velocity
    tl.store(m + place, velocity, mask=inside)
    tl.store(p + place, value, mask=inside)
    return value


@triton.jit  # type: ignore[untyped-decorator]
def update(  # type: ignore[no-untyped-def]
    g, p, m, v, narrow, place, inside, fit, rates, decay, corrections, now, stack, eps,
    OPTIMIZER: tl.constexpr, NARROW: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr, MOMENTUM: tl.constexpr,
):  # fmt: skip
    """Update one configuration's parameters at some places by their gradient g, or store it in p ("none")."""
    if OPTIMIZER == "none":
        tl.store(p + place, g, mask=inside)
    else:
        step = tl.load(now)
        lr, shrink = tl.load(rates + step * stack + fit), tl.load(decay + fit)
        if OPTIMIZER == "adamw":
            c1, c2 = tl.load(corrections + 2 * step), tl.load(corrections + 2 * step + 1)
            value = adamw(p, m, v, place, inside, g, lr, shrink, c1, c2, eps, B1, B2)
        else:
            value = sgd(p, m, place, inside, g, lr, shrink, MOMENTUM)
        if NARROW:
            tl.store(narrow + place, value.to(narrow.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def adamw_kernel(p, g, m, v, lr, decay, corrections, size, eps, B1: tl.constexpr, B2: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """One step of a block of one configuration's parameters."""
    fit = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, place = i < size, fit * size + i
    slope = tl.load(g + place, mask=inside, other=0.0)
    c1, c2 = tl.load(corrections), tl.load(corrections + 1)
    adamw(p, m, v, place, inside, slope, tl.load(lr + fit), tl.load(decay + fit), c1, c2, eps, B1, B2)


@triton.jit  # type: ignore[untyped-decorator]
def sgd_kernel(p, g, m, lr, decay, size, MOMENTUM: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One step of a block of one configuration's parameters."""
    fit = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, place = i < size, fit * size + i
    slope = tl.load(g + place, mask=inside, other=0.0)
    sgd(p, m, place, inside, slope, tl.load(lr + fit), tl.load(decay + fit), MOMENTUM)


def correction_table(steps: int, like: Tensor) -> Tensor:
    """Return AdamW's 1 - b1^t and 1 - b2^t of steps 1 to ``steps``, (steps, 2), on ``like``'s device."""
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    table = torch.stack([-torch.expm1(t * torch.tensor(b, dtype=torch.float64).log()) for b in BETAS], 1)
    return table.to(like)


class TritonUpdate:
    """AdamW or SGD with momentum, one launch for each parameter tensor, counting its steps on the device.

    Parameters
    ----------
    name : str
        ``"adamw"`` or ``"sgd"``; formulas in :mod:`cafe.kernels.optimizers`.
    parameters : dict of str to Tensor of shape (g, ...), float32, contiguous
        What will be updated; always the same tensors.
    weight_decay : Tensor of shape (g,)
        One per configuration.
    steps : int
        How many steps there will be at most.
    eps : float, default=1e-8
        AdamW's.

    Raises
    ------
    InputError
        If the name is not one of ``OPTIMIZERS``.
    """

    def __init__(
        self, name: str, parameters: dict[str, Tensor], weight_decay: Tensor, steps: int, eps: float = EPS
    ) -> None:
        if name not in OPTIMIZERS:
            raise unknown_name("optimizer", name, OPTIMIZERS)
        self.name, self.weight_decay, self.eps = name, weight_decay, eps
        self.first = {k: torch.zeros_like(v) for k, v in parameters.items()}
        self.second = {k: torch.zeros_like(v) for k, v in parameters.items()} if name == "adamw" else {}
        self.corrections = correction_table(steps, weight_decay)
        self.t = torch.zeros(1, dtype=torch.int64, device=weight_decay.device)

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes, beside the parameters."""
        return [*self.first.values(), *self.second.values(), self.t]

    def __call__(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], lr: Tensor) -> None:
        """Take one step with learning rates (g,); nothing waits for the device."""
        corrections = self.corrections.index_select(0, self.t)
        for name, p in parameters.items():
            size, g, m = p[0].numel(), gradients[name].contiguous(), self.first[name]
            grid = (triton.cdiv(size, FLAT), len(p))
            if self.name == "sgd":
                sgd_kernel[grid](p, g, m, lr, self.weight_decay, size, MOMENTUM=MOMENTUM, BLOCK=FLAT)
                continue
            v, decay = self.second[name], self.weight_decay
            adamw_kernel[grid](p, g, m, v, lr, decay, corrections, size, self.eps, B1=BETAS[0], B2=BETAS[1], BLOCK=FLAT)
        self.t.add_(1)
