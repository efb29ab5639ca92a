"""What methods that train with the one trainer share: checks, automatic values, and the run itself.

Estimators that read the same checked arrays, device and precision are trained in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch

from cafe.errors import InputError
from cafe.methods.base import CheckedArrays, Problem, unit_length
from cafe.methods.many import fit_many
from cafe.methods.training_runs import shared_runs
from cafe.protocol.selection import resolve_automatic
from cafe.training.trainer import Configuration, Objective, Trained, steps_for, train_many

# The constant in AdamW's denominator, as the trainer has it.
TRAINER_EPS = 1e-8

ObjectiveOf = Callable[[CheckedArrays, list[Any], list[Problem], dict[str, Any]], Objective]
ConfigurationOf = Callable[[Any, Problem, int], Configuration]


def check_numbers(estimator: Any, **lowest: float) -> None:
    """Check that parameters are finite numbers not below a bound, or ``"auto"`` where they have a grid.

    Raises
    ------
    InputError
        Naming the parameter, its value and what is possible.
    """
    for name, low in lowest.items():
        value = getattr(estimator, name)
        if value is None or (value == "auto" and name in estimator.grid):
            continue
        if isinstance(value, str) or not low <= value < np.inf:
            automatic = ", or 'auto'" if name in estimator.grid else ""
            raise InputError(
                f"{name} of {type(estimator).__name__} must be a number not below {low:g}{automatic}, but is {value!r}"
            )


def resolve_grid(estimator: Any, problem: Problem) -> None:
    """Set ``name_`` for every parameter that may be ``"auto"``: as given, or chosen on the training rows."""
    chosen = resolve_automatic(estimator, problem, fit_many)
    for name in estimator.grid:
        setattr(estimator, f"{name}_", getattr(chosen, name))


def dassl_steps(epochs: float, n_rows: int, batch_size: int) -> tuple[int, int]:
    """Return the steps of so many epochs, and of the first one, in which CoOp's schedule warms up.

    Examples
    --------
    >>> dassl_steps(300, 1024, 256)
    (1200, 4)
    """
    steps = steps_for(epochs, n_rows, batch_size)
    return steps, min(steps - 1, steps_for(1, n_rows, batch_size))


def fit_side_by_side(
    estimators: Sequence[Any],
    problems: Sequence[Problem],
    objective_of: ObjectiveOf,
    configuration_of: ConfigurationOf,
    key_of: Callable[[Any], Hashable] = lambda estimator: None,
    cosine: bool = False,
) -> list[Trained]:
    """Train estimators in as few runs as possible; sets ``loss_``, ``n_steps_``, ``kernel_``, ``device_``, ``dtype_``.

    Parameters
    ----------
    estimators, problems : sequence
        Checked, with everything that is ``"auto"`` resolved.
    objective_of : callable
        Takes the shared arrays, the estimators and problems of one run, and ``{"device", "dtype"}``.
    configuration_of : callable
        Takes an estimator, its problem and its place in the run.
    key_of : callable
        What estimators must share beside arrays, device and precision, to be one run.
    cosine : bool, default=False
        Whether rows are scaled to length one whatever ``normalize`` says, since the logits are cosines.

    Returns
    -------
    list of Trained
        In the order of the estimators.
    """
    results: dict[int, Trained] = {}
    for members, base, device, dtype in shared_runs(estimators, problems, key_of):
        to: dict[str, Any] = {"device": device, "dtype": dtype}
        X = torch.as_tensor(np.ascontiguousarray(unit_length(np.asarray(base.X)) if cosine else base.X)).to(**to)
        objective = objective_of(base, [estimators[i] for i in members], [problems[i] for i in members], to)
        configurations = [configuration_of(estimators[i], problems[i], place) for place, i in enumerate(members)]
        trained = train_many(objective, X, torch.as_tensor(base.y).to(device), configurations)
        for i, configuration, result in zip(members, configurations, trained, strict=True):
            results[i] = result
            estimators[i].loss_, estimators[i].n_steps_ = result.loss, configuration.steps
            estimators[i].kernel_ = "torch"
    return [results[i] for i in range(len(estimators))]
