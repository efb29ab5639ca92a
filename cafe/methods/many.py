"""Methods by name, and many fits at once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.errors import InputError
from cafe.registry import entries, find

if TYPE_CHECKING:
    from cafe.methods.base import FewShotClassifier


def method_names() -> list[str]:
    """Return the names of all methods, sorted, without importing them."""
    return list(entries("methods", "METHOD"))


def make_method(name: str, **parameters: Any) -> FewShotClassifier:
    """Make an unfitted method by its name.

    Parameters
    ----------
    name : str
        Such as ``"clip-adapter"``; see :func:`method_names`.
    **parameters
        Its keyword parameters.

    Raises
    ------
    InputError
        If there is no such method, or it does not take one of the parameters.

    Examples
    --------
    >>> make_method("clip-adapter", alpha=0.6).alpha
    0.6
    """
    method: type[FewShotClassifier] = find("methods", "METHOD", "method", name).load()
    known = list(inspect.signature(method).parameters)
    for given in parameters:
        if given not in known:
            raise InputError(f"method {name!r} takes no parameter {given!r}; it takes {', '.join(known)}")
    return method(**parameters)


def fit_many(
    X: ArrayLike,
    y: ArrayLike,
    configurations: Sequence[FewShotClassifier],
    rows: Sequence[NDArray[np.int64]] | None = None,
) -> list[FewShotClassifier]:
    """Fit a whole grid on the same features in as few runs as its methods allow.

    Gives what single fits give: every configuration has its own initial weights, batch order and rows.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Image features.
    y : array-like of shape (n,)
        Labels.
    configurations : sequence of unfitted classifiers
        They are copied, not changed, and arrays among their parameters are shared; methods and parameters may differ.
    rows : sequence of integer arrays, default=None
        Rows of X that each configuration trains on; None for all rows.

    Returns
    -------
    list of fitted classifiers
        In the order of the configurations.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(20, 8)); y = np.arange(20) % 2
    >>> from cafe import CLIPAdapter
    >>> fits = fit_many(X, y, [CLIPAdapter(alpha=a, epochs=2) for a in (0.2, 0.6)])
    >>> [fit.alpha for fit in fits]
    [0.2, 0.6]
    """
    fresh = [estimator.varied() for estimator in configurations]
    groups: dict[type[FewShotClassifier], list[int]] = {}
    for i, estimator in enumerate(fresh):
        groups.setdefault(type(estimator), []).append(i)
    for method, members in groups.items():
        chosen = None if rows is None else [np.asarray(rows[i]) for i in members]
        method.fit_grid([fresh[i] for i in members], X, y, chosen)
    return fresh


def expected_failed_checks(estimator: FewShotClassifier) -> dict[str, str]:
    """Return the checks of scikit-learn's ``check_estimator`` that a method cannot pass, each with the reason.

    Parameters
    ----------
    estimator : classifier
        Any method.

    Returns
    -------
    dict of str to str
        Empty for most methods.
    """
    return dict(estimator.expected_failed_checks)
