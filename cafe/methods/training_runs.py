"""What methods that train with the one trainer share: their parameters' checks, and who can train in one run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from cafe.compute import choose_device
from cafe.errors import InputError, unknown_name
from cafe.methods.base import CheckedArrays, Problem

DTYPES = {"auto": torch.float32, "float32": torch.float32, "float64": torch.float64}


def shared_runs(
    estimators: Sequence[Any],
    problems: Sequence[Problem],
    key_of: Callable[[Any], Hashable] = lambda estimator: None,
) -> Iterator[tuple[list[int], CheckedArrays, str, torch.dtype]]:
    """Group estimators that share checked arrays, device and dtype, and so can train side by side.

    Parameters
    ----------
    estimators, problems : sequence
        Of equal length; estimators have the parameters ``device`` and ``dtype``.
    key_of : callable
        What estimators must share beside arrays, device and precision, to be one run.

    Yields
    ------
    tuple of list of int, CheckedArrays, str and torch.dtype
        Indices of the group's members, what they share, and where and in what to train. ``device_`` and
        ``dtype_`` of the members are set.

    Raises
    ------
    InputError
        If a device cannot be had, or a dtype is unknown.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, (one, problem) in enumerate(zip(estimators, problems, strict=True)):
        if one.dtype not in DTYPES:
            raise unknown_name(f"dtype of {type(one).__name__}", str(one.dtype), DTYPES)
        key = id(problem.base), choose_device(one.device), DTYPES[one.dtype], key_of(one)
        groups.setdefault(key, []).append(i)
    for (_, device, dtype, _), members in groups.items():
        for i in members:
            estimators[i].device_, estimators[i].dtype_ = device, str(dtype).removeprefix("torch.")
        yield members, problems[members[0]].base, device, dtype


def seed_of(estimator: Any) -> int:
    """Return ``random_state``, or a fresh seed for None.

    Raises
    ------
    InputError
        If it is neither None nor an integer.
    """
    seed = estimator.random_state
    if seed is None:
        return int(np.random.default_rng().integers(2**31))
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise InputError(f"random_state of {type(estimator).__name__} must be an integer or None, but is {seed!r}")
    return int(seed)


def at_least(method: str, name: str, value: Any, low: float, above: bool = False) -> None:
    """Refuse a parameter that is no number, not finite, or too small.

    Raises
    ------
    InputError
        Saying which, and from where on it is possible.

    Examples
    --------
    >>> at_least("tip-adapter-f", "lr", 0.001, 0)
    """
    fits = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and np.isfinite(value)
    if not fits or value < low or (above and value == low):
        words = "above" if above else "at least"
        raise InputError(f"{name} of {method} must be a number, {words} {low:g}, but is {value!r}")
