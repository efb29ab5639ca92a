"""One implementation of every way to choose a hyper-parameter, for every method.

Nothing in this file can receive a test array: policies are made from training rows and validation rows only.
The one policy that looks at test data, ``oracle-test``, lives in ``oracle.py``, has to be asked for by name,
and marks every row that it touches.

Policies
--------
fixed
    Parameters are used as given.
few-shot-val
    Candidates are fitted on the shots and scored on min(shots, 4) validation rows per class (CoOp's protocol).
cross-validation
    Stratified folds of the training shots; needs at least two rows in every class that has any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError, unknown_name
from cafe.evaluation.metrics import negative_log_likelihood

POLICIES = ("auto", "fixed", "few-shot-val", "cross-validation", "oracle-test")
# What each policy chooses on, in a reader's words.
CHOSEN_ON = {
    "fixed": "nothing",
    "few-shot-val": "validation",
    "cross-validation": "cross-validation",
    "oracle-test": "TEST",
}
FOLDS = 4

Score = tuple[float, float]
Scorer = Callable[[list[Any]], list[Score]]
Array = NDArray[Any]


class NothingToChooseByError(InputError):
    """A class has a single training row, so its shots cannot be split. Remedy: more shots, or validation rows."""


@dataclass(frozen=True)
class Selection:
    """What was chosen and how; stands in every row.

    Attributes
    ----------
    policy : str
        One of ``POLICIES`` but ``"auto"``.
    chosen : dict
        Parameter values; empty for ``"fixed"``.
    accuracy : float or None
        On the rows chosen by.
    candidates : int
        How many were tried.
    note : str
        Why nothing could be chosen, where that is so.
    """

    policy: str
    chosen: dict[str, Any] = field(default_factory=dict)
    accuracy: float | None = None
    candidates: int = 0
    note: str = ""

    @property
    def chosen_on(self) -> str:
        """What was used to choose: ``"nothing"``, ``"validation"``, ``"cross-validation"`` or ``"TEST"``."""
        return CHOSEN_ON[self.policy]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return dict(vars(self))


def score_fitted(estimator: Any, X: Array, rows: NDArray[np.int64]) -> Score:
    """Score a fitted classifier on rows: (accuracy, -NLL); the second breaks ties of the first."""
    own = estimator.predict_proba(X)
    # A method that started from class means has no column for a class without a training row.
    probabilities = np.zeros((len(own), int(max(rows.max(), estimator.classes_.max())) + 1), dtype=own.dtype)
    probabilities[:, estimator.classes_] = own
    accuracy = float(np.mean(probabilities.argmax(axis=1) == rows))
    return accuracy, -negative_log_likelihood(probabilities, rows)


def score_all(fits: Sequence[Any], X: Array, rows: NDArray[np.int64]) -> list[Score]:
    """Score fitted classifiers of one method on rows, together where the method has ``score_grid``."""
    together = getattr(type(fits[0]), "score_grid", None)
    found: list[Score] | None = None if together is None else together(fits, X, rows)
    return [score_fitted(fit, X, rows) for fit in fits] if found is None else found


def few_shot_val(fit_many: Any, X: Array, y: Array, train: NDArray[np.int64], val: tuple[Array, Array]) -> Scorer:
    """Make the scorer of ``few-shot-val``.

    Parameters
    ----------
    fit_many : callable
        :func:`cafe.methods.fit_many`; passed in, as everywhere in this file.
    X, y : ndarray
        Features and class rows that ``train`` indexes.
    train : ndarray of int64
        The shots.
    val : tuple of ndarray
        Validation features and their class rows.
    """

    def score(candidates: list[Any]) -> list[Score]:
        fits = fit_many(X, y, candidates, [train] * len(candidates))
        return score_all(fits, *val)

    return score


def cross_validation(fit_many: Any, X: Array, y: Array, train: NDArray[np.int64], seed: int | None) -> Scorer:
    """Make the scorer of ``cross-validation``: mean over stratified folds of the shots.

    Raises
    ------
    NothingToChooseByError
        If a class has a single row.
    """
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(y[train])
    smallest = int(counts[counts > 0].min())
    if smallest < 2:
        raise NothingToChooseByError(
            "cross-validation needs at least two training rows in every class, but a class has one; "
            "take more shots, give the value, or choose on validation images (few-shot-val) where there are some"
        )
    splitter = StratifiedKFold(min(FOLDS, smallest), shuffle=True, random_state=0 if seed is None else seed)
    folds = [(train[a], train[b]) for a, b in splitter.split(train, y[train])]

    def score(candidates: list[Any]) -> list[Score]:
        grid = [candidate for _ in folds for candidate in candidates]
        rows = [fitted_on for fitted_on, _ in folds for _ in candidates]
        fits, size = fit_many(X, y, grid, rows), len(candidates)
        parts = [fits[k * size : (k + 1) * size] for k in range(len(folds))]
        scores = np.array([score_all(part, X[held], y[held]) for part, (_, held) in zip(parts, folds, strict=True)])
        return [(float(a), float(b)) for a, b in scores.mean(axis=0)]

    return score


def choose(estimator: Any, policy: str, scorer: Scorer | None) -> tuple[Any, Selection]:
    """Resolve every parameter that is ``"auto"``.

    Parameters
    ----------
    estimator : unfitted classifier
        With or without parameters that are ``"auto"``.
    policy : str
        Name of the policy that made the scorer.
    scorer : callable or None
        None for ``"fixed"``.

    Returns
    -------
    tuple of classifier and Selection
        The classifier has no ``"auto"`` left.

    Raises
    ------
    InputError
        If something is ``"auto"`` but the policy is ``"fixed"``.
    """
    names = estimator.automatic()
    if not names:
        return estimator, Selection("fixed")
    if scorer is None:
        raise InputError(
            f"{', '.join(names)} of {type(estimator).__name__} is 'auto', which selection 'fixed' cannot choose; "
            "give a value, or another selection"
        )
    seen: list[Score] = []

    def counting(candidates: list[Any]) -> list[Score]:
        scores = scorer(candidates)
        seen.extend(scores)
        return scores

    chosen = estimator.search(counting)
    values = {name: chosen.get_params()[name] for name in names}
    return chosen, Selection(policy, values, max(seen)[0], len(seen))


def fall_back(estimator: Any, reason: str) -> tuple[Any, Selection]:
    """Use the method's defaults where nothing can be chosen by, and say so."""
    from sklearn.base import clone

    names = estimator.automatic()
    defaults = {**_signature_defaults(estimator), **getattr(estimator, "defaults", dict)()}
    values = {name: defaults[name] for name in names}
    return clone(estimator).set_params(**values), Selection("fixed", values, note=reason)


def resolve_automatic(estimator: Any, problem: Any, fit_many: Any) -> Any:
    """Choose ``"auto"`` inside a plain ``fit``: by cross-validation on the training rows, else the defaults.

    Parameters
    ----------
    estimator : classifier
        The one being fitted; ``selection_`` is set on it.
    problem : Problem
        Its checked training rows.
    fit_many : callable
        :func:`cafe.methods.fit_many`; passed in, so that this package does not import the methods that import it.

    Returns
    -------
    classifier
        Unfitted, with every value given.
    """
    if not estimator.automatic():
        estimator.selection_ = Selection("fixed").as_json()
        return estimator
    from sklearn.base import clone

    # Class means are taken again from each fold's own rows, or held-out rows would have helped to make them.
    text = problem.class_embeddings if estimator.embedding_source_ == "text" else None
    plain = clone(estimator).set_params(class_embeddings=text, classes=None)
    try:
        scorer = cross_validation(fit_many, problem.X, problem.y, np.arange(len(problem.y)), estimator.random_state)
        chosen, selection = choose(plain, "cross-validation", scorer)
    except NothingToChooseByError as error:
        chosen, selection = fall_back(plain, str(error))
    estimator.selection_ = selection.as_json()
    return chosen


def resolve_policy(policy: str, has_val: bool) -> str:
    """Turn ``"auto"`` into a policy: ``few-shot-val`` where there is a val split, else ``cross-validation``.

    Raises
    ------
    InputError
        If the policy is unknown, or asks for validation rows that this data set does not have.
    """
    if policy not in POLICIES:
        raise unknown_name("selection", policy, POLICIES)
    if policy == "auto":
        return "few-shot-val" if has_val else "cross-validation"
    if policy == "few-shot-val" and not has_val:
        raise InputError("selection 'few-shot-val' needs a val split, which this cache has not; use 'cross-validation'")
    return policy


def _signature_defaults(estimator: Any) -> dict[str, Any]:
    import inspect

    return {name: p.default for name, p in inspect.signature(type(estimator)).parameters.items()}
