"""Triton kernels: AdamW and SGD of a stack of configurations in one pass over memory. Never run on a GPU so far.

Formulas in cafe/kernels/optimizers.py. Learning rates, decays and AdamW's corrections 1 - b1^t and 1 - b2^t are
read from the device's memory, so that a captured graph takes another step each time it is replayed. The corrections
are a table made in float64: in float32, 1 - 0.999^t loses three digits at the first steps.
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
def _adamw(p, g, m, v, lr, decay, corrections, size, b1, b2, eps, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One step of a block of one configuration's parameters."""
    fit = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    place = fit * size + i
    rate, shrink = tl.load(lr + fit), tl.load(decay + fit)
    slope = tl.load(g + place, mask=inside, other=0.0)
    first = b1 * tl.load(m + place, mask=inside, other=0.0) + (1 - b1) * slope
    second = b2 * tl.load(v + place, mask=inside, other=0.0) + (1 - b2) * slope * slope
    tl.store(m + place, first, mask=inside)
    tl.store(v + place, second, mask=inside)
    move = (first / tl.load(corrections)) / (tl.sqrt(second / tl.load(corrections + 1)) + eps)
    value = tl.load(p + place, mask=inside, other=0.0)
    tl.store(p + place, value - rate * (shrink * value + move), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _sgd(p, g, m, lr, decay, size, momentum, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One step of a block of one configuration's parameters."""
    fit = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    place = fit * size + i
    value = tl.load(p + place, mask=inside, other=0.0)
    slope = tl.load(g + place, mask=inside, other=0.0) + tl.load(decay + fit) * value
    velocity = momentum * tl.load(m + place, mask=inside, other=0.0) + slope
    tl.store(m + place, velocity, mask=inside)
    tl.store(p + place, value - tl.load(lr + fit) * velocity, mask=inside)


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
        t = torch.arange(1, steps + 1, dtype=torch.float64)
        table = torch.stack([-torch.expm1(t * torch.tensor(b, dtype=torch.float64).log()) for b in BETAS], 1)
        self.corrections = table.to(weight_decay)  # (steps, 2)
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
                _sgd[grid](p, g, m, lr, self.weight_decay, size, MOMENTUM, BLOCK=FLAT)
                continue
            v, decay = self.second[name], self.weight_decay
            _adamw[grid](p, g, m, v, lr, decay, corrections, size, *BETAS, self.eps, BLOCK=FLAT)
        self.t.add_(1)
