"""An optimiser's step in one compiled pass, which rounds the parameters for the next step's products as it goes.

Formulas as in ``cafe/kernels/optimizers.py``, whose optimisers are what this is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_not

import torch
from torch import Tensor

from cafe.errors import unknown_name
from cafe.kernels.compiled.library import TYPES, Update, bound
from cafe.kernels.optimizers import BETAS, MOMENTUM, OPTIMIZERS, copied_in_a_row, in_a_row
from cafe.kernels.reference import Parameters


class CompiledUpdate:
    """AdamW or SGD, in place.

    Parameters
    ----------
    name : str
        ``"adamw"`` or ``"sgd"``.
    parameters : dict of str to Tensor of shape (g, ...), float32
        What will be updated; always the same tensors.
    weight_decay : Tensor of shape (g,)
        One per configuration.
    eps : float
        AdamW's.
    narrow : dict of str to Tensor, bfloat16, default=None
        Of the same shapes and orders in memory: takes the rounded parameters.

    Raises
    ------
    InputError
        If the name is not one of ``OPTIMIZERS``.
    """

    takes_numbers = True

    def __init__(
        self, name: str, parameters: Parameters, weight_decay: Tensor, eps: float, narrow: Parameters | None
    ) -> None:
        if name not in OPTIMIZERS:
            raise unknown_name("optimizer", name, OPTIMIZERS)
        self.name, self.eps, self.narrow = name, eps, narrow
        self.decays: list[float] = weight_decay.tolist()
        zeros = {key: torch.zeros_like(value) for key, value in parameters.items()}
        self.first = copied_in_a_row(zeros)
        self.second = copied_in_a_row(zeros) if name == "adamw" else {}
        self.steps = 0
        self._laid: dict[bool, list[tuple[int, Update, Callable[[], None]]]] = {}
        self._tensors: list[Tensor] = []

    def __call__(self, parameters: Parameters, gradients: Parameters, lr: Tensor | list[float]) -> None:
        """Take one step with the learning rates of the configurations (g,); see the class."""
        tensors = [*parameters.values(), *gradients.values()]
        if len(tensors) != len(self._tensors) or any(map(is_not, tensors, self._tensors)):
            self._laid, self._tensors = {}, tensors
        rates: list[float] = lr.tolist() if isinstance(lr, Tensor) else lr
        alike = rates.count(rates[0]) == len(rates) and self.decays.count(self.decays[0]) == len(self.decays)
        if alike not in self._laid:
            self._laid[alike] = self._lay_out(parameters, gradients, alike)
        self.steps += 1
        corrections = [1 - beta**self.steps for beta in BETAS]
        for owner, arguments, run in self._laid[alike]:
            arguments.rate = rates[owner]
            arguments.correction1, arguments.correction2 = corrections
            run()

    def _lay_out(
        self, parameters: Parameters, gradients: Parameters, alike: bool
    ) -> list[tuple[int, Update, Callable[[], None]]]:
        """Return passes with the number of the configuration whose rate each has: one for all numbers where possible.

        ``alike`` says whether all configurations have one rate and one decay.
        """
        trees = [parameters, self.first, self.second or None, {name: gradients[name] for name in parameters}]
        trees.append(self.narrow)
        rows = [None if tree is None else in_a_row(tree) for tree in trees]
        if alike and all((tree is None) == (row is None) for tree, row in zip(trees, rows, strict=True)):
            return [self._pass(0, *rows)]
        parts = []
        for name, value in parameters.items():
            tensors = [None if tree is None else tree[name] for tree in trees]
            if any(tensor is not None and tensor.stride() != value.stride() for tensor in tensors):
                raise ValueError(f"the gradients of {name} lie in memory in another order than the parameters")
            if alike:
                parts.append(self._pass(0, *tensors))
                continue
            for k in range(len(value)):
                parts.append(self._pass(k, *(None if tensor is None else tensor[k] for tensor in tensors)))
        return parts

    def _pass(
        self,
        owner: int,
        parameters: Tensor | None,
        first: Tensor | None,
        second: Tensor | None,
        gradients: Tensor | None,
        narrow: Tensor | None,
    ) -> tuple[int, Update, Callable[[], None]]:
        """Return one pass over tensors that lie in memory alike."""
        assert parameters is not None and gradients is not None
        beta1, beta2 = BETAS if self.name == "adamw" else (MOMENTUM, 0.0)
        arguments = Update(
            parameters=parameters, first=first, second=second, gradients=gradients, narrow=narrow,
            n=parameters.numel(), decay=self.decays[owner], beta1=beta1, beta2=beta2, eps=self.eps,
        )  # fmt: skip
        return owner, arguments, bound(f"{self.name}_{TYPES[gradients.dtype]}", arguments)
