"""The base of the methods that :mod:`cafe.training.trainer` trains, and how several estimators train side by side.

Estimators that read the same checked arrays and have the same placement (device, precision, and what else their
method says) are trained in one run; those whose configurations are equal, in one fit.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cafe.methods.base import FewShotClassifier, unit_length
from cafe.methods.inputs.parameters import Choice, Constraint, Number, Seed
from cafe.methods.inputs.problem import CheckedArrays, Problem
from cafe.methods.inputs.stored_rows import StoredRows, uploaded
from cafe.training.trainer import Configuration, Objective, steps_for, train_many

DTYPES = {"auto": torch.float32, "float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Placement:
    """Device, precision and kernel of a training run; estimators with equal placements are trained together.

    Attributes
    ----------
    device : str
        As :func:`cafe.compute.choose_device` returns it.
    dtype : torch.dtype
        Of parameters.
    kernel : str
        What computes losses and gradients, for ``kernel_``.
    products : torch.dtype or None, default=None
        Of matrix products; None for ``dtype``.
    precision : {"ieee", "tf32"}, default="ieee"
        How float32 operands enter a product.
    alike : hashable, default=None
        What else estimators must share to be trained together.
    """

    device: str
    dtype: torch.dtype
    kernel: str
    products: torch.dtype | None = None
    precision: str = "ieee"
    alike: Hashable = None

    @property
    def dtype_name(self) -> str:
        """The precision that products run in, for ``dtype_``."""
        return "tf32" if self.precision == "tf32" else str(self.products or self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Run:
    """Estimators that are trained together, and what they share.

    Attributes
    ----------
    base : CheckedArrays
        What they learn from.
    placement : Placement
        Device, precision and kernel.
    X : Tensor of shape (n, d)
        Features as the trainer gets them.
    estimators, problems : list
        Of equal length, in the order of ``hyper["index"]``.
    """

    base: CheckedArrays
    placement: Placement
    X: Tensor
    estimators: list[Any]
    problems: list[Problem]

    def tensor(self, values: Any) -> Tensor:
        """Return values as a tensor on the run's device, in its precision."""
        return torch.as_tensor(values).to(device=self.placement.device, dtype=self.placement.dtype)

    def labels(self, values: NDArray[np.int64]) -> Tensor:
        """Return class rows as a tensor on the run's device."""
        return torch.as_tensor(values).to(self.placement.device)


@dataclass(frozen=True)
class Result:
    """The result of training one estimator.

    Attributes
    ----------
    problem : Problem
        What it learned from.
    configuration : Configuration
        How it was trained.
    parameters : dict of str to ndarray
        Trained, on the CPU.
    objective : Objective
        What was trained.
    """

    problem: Problem
    configuration: Configuration
    parameters: dict[str, NDArray[Any]]
    objective: Any


class TrainedClassifier(FewShotClassifier):
    """Base of the methods that are trained.

    A subclass says what is trained (``_objective``), how (``_configuration``) and what it keeps (``_store``).

    Attributes
    ----------
    loss_ : float
        Mean training loss over the last tenth of the steps.
    n_steps_ : int
        Optimiser steps taken.
    kernel_, device_, dtype_ : str
        What ran, and where.
    """

    constraints: ClassVar[dict[str, Constraint]] = {
        "epochs": Number(0, above=True),
        "batch_size": Number(1, whole=True),
        "lr": Number(0),
        "weight_decay": Number(0),
        "dtype": Choice(tuple(DTYPES)),
        "random_state": Seed(),
    }
    # What computes losses and gradients.
    _kernel: ClassVar[str] = "torch"
    _runs_on_mps: ClassVar[bool] = True
    # Whether rows are scaled to length one whatever `normalize` says, since the logits are cosines.
    _trains_on_cosines: ClassVar[bool] = False

    device: str
    dtype: str
    random_state: int | None

    @classmethod
    def _fit_problems(cls, estimators: Sequence[Any], problems: Sequence[Problem]) -> None:
        """Train several side by side."""
        groups: dict[tuple[CheckedArrays, Placement], list[int]] = {}
        for i, (estimator, problem) in enumerate(zip(estimators, problems, strict=True)):
            groups.setdefault((problem.base, estimator._placement(problem)), []).append(i)
        for (base, placement), members in groups.items():
            X = cls._features(base, placement)
            cls._train(Run(base, placement, X, [estimators[i] for i in members], [problems[i] for i in members]))

    @classmethod
    def _train(cls, run: Run) -> None:
        """Train the estimators of a run side by side, equal configurations once, and store the results."""
        objective = cls._objective(run)
        pairs = list(zip(run.estimators, run.problems, strict=True))
        configurations = [estimator._configuration(problem, i) for i, (estimator, problem) in enumerate(pairs)]
        # Estimators that differ only in what follows training are trained once. Without a seed each drew its own.
        distinct: dict[Hashable, list[int]] = {}
        for i, configuration in enumerate(configurations):
            distinct.setdefault(_configuration_key(configuration), []).append(i)
        firsts = [configurations[members[0]] for members in distinct.values()]
        trained = train_many(objective, run.X, run.labels(run.base.y), firsts)
        for members, fit in zip(distinct.values(), trained, strict=True):
            for i in members:
                estimator, problem = pairs[i]
                estimator.loss_, estimator.n_steps_ = fit.loss, configurations[i].steps
                estimator.kernel_ = run.placement.kernel
                estimator.dtype_ = run.placement.dtype_name
                estimator._store(Result(problem, configurations[i], fit.parameters, objective))

    def _placement(self, problem: Problem) -> Placement:
        """Return the device, precision and kernel that the estimator is trained with.

        Raises
        ------
        InputError
            If the device cannot be had.
        """
        return Placement(self.device_, DTYPES[self.dtype], self._kernel, alike=self._alike())

    def _multiply_adds(self, n: int, d: int, c: int) -> float:
        """Return an estimate of what training costs; see the base class."""
        # Forward and backward of every pass over the rows; None is the default of methods that train longest.
        epochs: Any = getattr(self, "epochs", None)
        passes = 300.0 if epochs is None else float(epochs)
        return 3.0 * n * d * c * passes

    def _alike(self) -> Hashable:
        """Return what estimators must share to be trained together, beside arrays, device and precision."""
        return None

    @classmethod
    def _features(cls, base: CheckedArrays, placement: Placement) -> Tensor:
        """Return the rows that the trainer gets, (n, d)."""
        if isinstance(base.X, StoredRows) and placement.device.startswith("cuda"):
            stored = base.X.normalised() if cls._trains_on_cosines else base.X
            features: Tensor = uploaded(stored, placement.device, placement.dtype)
            return features
        X: ArrayLike = unit_length(np.asarray(base.X)) if cls._trains_on_cosines else base.X
        return torch.as_tensor(np.ascontiguousarray(X)).to(device=placement.device, dtype=placement.dtype)

    @classmethod
    def _objective(cls, run: Run) -> Objective:
        """Return what is trained."""
        raise TypeError(f"{cls.__name__} must say what is trained")

    def _configuration(self, problem: Problem, index: int) -> Configuration:
        """Return how the estimator, whose place in its run is ``index``, is trained."""
        raise TypeError(f"{type(self).__name__} must say how it is trained")

    def _store(self, result: Result) -> None:
        """Set the fitted attributes."""
        raise TypeError(f"{type(self).__name__} must say what it keeps")


def steps_with_warmup(epochs: float, n_rows: int, batch_size: int) -> tuple[int, int]:
    """Return the number of steps of all epochs, and of the warm-up, which is the first epoch as CoOp published it.

    Examples
    --------
    >>> steps_with_warmup(300, 1024, 256)
    (1200, 4)
    """
    steps = steps_for(epochs, n_rows, batch_size)
    return steps, min(steps - 1, steps_for(1, n_rows, batch_size))


def _configuration_key(configuration: Configuration) -> Hashable:
    """Return a key that is equal for configurations of equal content."""
    values = vars(configuration) | {
        "rows": configuration.rows.tobytes(),
        "hyper": tuple(configuration.hyper.items()),
    }
    return tuple(values.values())
