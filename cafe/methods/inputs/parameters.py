"""Which values a parameter may have: a method says it in one table, ``constraints``, checked before anything is read.

scikit-learn has the like (``_parameter_constraints``). Its classes are private and have changed between releases, and
its error is not of the family that the command line turns into a message, so this is a small equal of the part that
cafe needs.

A table holds the class's own parameters; those of its base classes are added, and a later entry replaces an earlier
one. A parameter that has a grid may be ``"auto"`` whatever its table says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cafe.errors import InputError, unknown_name


class Constraint(Protocol):
    """What one parameter may be."""

    def check(self, value: Any, parameter: str, words: tuple[str, ...]) -> None:
        """Refuse a value.

        Parameters
        ----------
        value : object
            What was given.
        parameter : str
            How messages call the parameter, such as ``"alpha of tip-adapter"``.
        words : tuple of str
            Words that the parameter may be beside what the constraint says.

        Raises
        ------
        InputError
            Naming the parameter, its value and what is possible.
        """


@dataclass(frozen=True)
class Number:
    """A number in an interval.

    Attributes
    ----------
    low, high : float
        Bounds; both are possible values, unless ``above``.
    above : bool, default=False
        Whether ``low`` itself is refused.
    whole : bool, default=False
        Whether it must be an integer.
    infinite : bool, default=False
        Whether infinity is possible.
    none : bool, default=False
        Whether None is possible.
    words : tuple of str
        Words that are possible too.
    why : str
        What a refusal adds.

    Examples
    --------
    >>> str(Number(0, 1, words=("learned",))), str(Number(0, above=True)), str(Number(1, whole=True, none=True))
    ("a number from 0 to 1, or 'learned'", 'a number, above 0', 'a whole number, at least 1, or None')
    """

    low: float = -np.inf
    high: float = np.inf
    above: bool = False
    whole: bool = False
    infinite: bool = False
    none: bool = False
    words: tuple[str, ...] = ()
    why: str = ""

    def check(self, value: Any, parameter: str, words: tuple[str, ...]) -> None:
        """Refuse a value; see :class:`Constraint`."""
        words = (*words, *self.words)
        if value is None:
            fits = self.none
        elif isinstance(value, str):
            fits = value in words
        else:
            fits = self._holds(value)
        if not fits:
            why = f"; {self.why}" if self.why else ""
            raise InputError(f"{parameter} must be {self.possible(words)}, but is {value!r}{why}")

    def _holds(self, value: Any) -> bool:
        """Return whether a value is a number of the right kind within the bounds."""
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
            return False
        if np.isnan(value) or (np.isinf(value) and not self.infinite) or (self.whole and value != int(value)):
            return False
        return bool(self.low < value if self.above else self.low <= value) and bool(value <= self.high)

    def possible(self, words: Iterable[str]) -> str:
        """Describe the possible values, for a message."""
        kind = "a whole number" if self.whole else "a number"
        if np.isfinite(self.low) and np.isfinite(self.high):
            start = f"above {self.low:g} and at most" if self.above else f"from {self.low:g} to"
            kind += f"{',' if self.above else ''} {start} {self.high:g}"
        elif np.isfinite(self.low):
            kind += f", {'above' if self.above else 'at least'} {self.low:g}"
        also = [*map(repr, words), *(["None"] if self.none else [])]
        return " or ".join([", ".join([kind, *also[:-1]]) + ",", also[-1]]) if also else kind

    def __str__(self) -> str:
        return self.possible(self.words)


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    names: tuple[str, ...]

    def check(self, value: Any, parameter: str, words: tuple[str, ...]) -> None:
        """Refuse a value; see :class:`Constraint`."""
        known = (*self.names, *words)
        if not isinstance(value, str) or value not in known:
            raise unknown_name(parameter, str(value), known)


@dataclass(frozen=True)
class Seed:
    """An integer, or None, which draws one."""

    def check(self, value: Any, parameter: str, words: tuple[str, ...]) -> None:
        """Refuse a value; see :class:`Constraint`."""
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
            raise InputError(f"{parameter} must be an integer or None, but is {value!r}")


def check_parameters(estimator: Any) -> None:
    """Check every parameter that the estimator's class or its base classes have a constraint for.

    Parameters
    ----------
    estimator : classifier
        With ``get_params`` and ``grid``.

    Raises
    ------
    InputError
        Naming the parameter, its value and what is possible.
    """
    constraints: dict[str, Constraint] = {}
    for part in reversed(type(estimator).__mro__):
        constraints.update(vars(part).get("constraints", {}))
    for name, value in estimator.get_params(deep=False).items():
        if name in constraints:
            words = ("auto",) if name in estimator.grid else ()
            constraints[name].check(value, f"{name} of {method_name(estimator)}", words)


def method_name(estimator: Any) -> str:
    """Return what people call an estimator's method: its ``METHOD``, or its class where its module has none.

    Examples
    --------
    >>> from cafe.methods import make_method
    >>> method_name(make_method("lp++"))
    'lp++'
    """
    module = sys.modules.get(type(estimator).__module__)
    return str(getattr(module, "METHOD", type(estimator).__name__))


def seed_of(estimator: Any) -> int:
    """Return ``random_state`` of a checked estimator, or a fresh seed for None."""
    seed = estimator.random_state
    return int(np.random.default_rng().integers(2**31)) if seed is None else int(seed)
