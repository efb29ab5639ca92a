"""The base of the methods that :mod:`cafe.training.trainer` trains, and how several estimators train side by side.

Estimators that read the same checked arrays and have the same placement (device, precision, and what else their
method says) are one group, trained in one call; those whose configurations are equal are one fit.
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
    """Where and in what numbers estimators are trained; those with equal placements are trained together.

    Attributes
    ----------
    device : str
        As :func:`cafe.compute.choose_device` returns it.
    dtype : torch.dtype
        Dtype of parameters.
    kernel : str
        Name of what computes losses and gradients, which ``kernel_`` shows.
    products : torch.dtype or None, default=None
        Dtype of matrix products; None for ``dtype``.
    precision : {"ieee", "tf32"}, default="ieee"
        How float32 operands enter a product.
    alike : hashable, default=None
        Whatever else estimators must share to be trained together.
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
class TrainingGroup:
    """Estimators that are trained together, and what they share.

    Attributes
    ----------
    base : CheckedArrays
        The checked features, labels and class embeddings that all of them learn from.
    placement : Placement
        Device, precision and kernel.
    X : Tensor of shape (n, d)
        Features on the group's device, in its precision.
    estimators, problems : list
        One problem for each estimator; a configuration's ``hyper["index"]`` is its place in both.
    """

    base: CheckedArrays
    placement: Placement
    X: Tensor
    estimators: list[Any]
    problems: list[Problem]

    def tensor(self, values: Any) -> Tensor:
        """Return values as a tensor on the group's device, in its precision."""
        return torch.as_tensor(values).to(device=self.placement.device, dtype=self.placement.dtype)

    def labels(self, values: NDArray[np.int64]) -> Tensor:
        """Return class rows as an int64 tensor on the group's device."""
        return torch.as_tensor(values).to(self.placement.device)


@dataclass(frozen=True)
class Result:
    """The result of training one estimator.

    Attributes
    ----------
    problem : Problem
        The estimator's rows and class embeddings.
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
        members_of: dict[tuple[CheckedArrays, Placement], list[int]] = {}
        for i, (estimator, problem) in enumerate(zip(estimators, problems, strict=True)):
            members_of.setdefault((problem.base, estimator._placement(problem)), []).append(i)
        for (base, placement), members in members_of.items():
            X = cls._features(base, placement)
            cls._train(
                TrainingGroup(base, placement, X, [estimators[i] for i in members], [problems[i] for i in members])
            )

    @classmethod
    def _train(cls, group: TrainingGroup) -> None:
        """Train the estimators of a group side by side, equal configurations once, and store the results."""
        objective = cls._objective(group)
        pairs = list(zip(group.estimators, group.problems, strict=True))
        configurations = [estimator._configuration(problem, i) for i, (estimator, problem) in enumerate(pairs)]
        # Estimators that differ only in what follows training are trained once. Those without a seed have drawn
        # different ones, and so differ.
        distinct: dict[Hashable, list[int]] = {}
        for i, configuration in enumerate(configurations):
            distinct.setdefault(_configuration_key(configuration), []).append(i)
        firsts = [configurations[members[0]] for members in distinct.values()]
        trained = train_many(objective, group.X, group.labels(group.base.y), firsts)
        for members, fit in zip(distinct.values(), trained, strict=True):
            for i in members:
                estimator, problem = pairs[i]
                estimator.loss_, estimator.n_steps_ = fit.loss, configurations[i].steps
                estimator.kernel_ = group.placement.kernel
                estimator.dtype_ = group.placement.dtype_name
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
    def _objective(cls, group: TrainingGroup) -> Objective:
        """Return the objective that the estimators of a group are trained by."""
        raise TypeError(f"{cls.__name__} must say what is trained")

    def _configuration(self, problem: Problem, index: int) -> Configuration:
        """Return how the estimator is trained; ``index`` is its place in its group."""
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
    """Return a hashable key of a configuration; configurations of equal content have equal keys."""
    values = vars(configuration) | {
        "rows": configuration.rows.tobytes(),
        "hyper": tuple(configuration.hyper.items()),
    }
    return tuple(values.values())
