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

Which candidate
---------------
The most accurate of those with *evidence* against the method's published start; of equals the *mildest*: the one
nearest to that start, counted in steps of its grid and summed over parameters; of equals again the first of the grid.
Evidence is a gain of at least one row and ``ERRORS`` paired standard errors over the start, on the rows that are chosen
by. Where none has it, and with fewer than four rows a class to choose by, the published start stays. Likelihood,
which broke ties before, rewards sharpness: on one row a class it chose Tip-Adapter's alpha at 10 to 50.
benchmarks/studies/search_study.py measures these rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError, unknown_name

POLICIES = ("auto", "fixed", "few-shot-val", "cross-validation", "oracle-test")
# What each policy chooses on, as rows say it.
CHOSEN_ON = {
    "fixed": "nothing",
    "few-shot-val": "validation",
    "cross-validation": "cross-validation",
    "oracle-test": "TEST",
}
FOLDS = 4
ROUNDING = 1e-9  # of a mean over folds
# Rows a class from which the highest accuracy is taken at its word; the few-shot protocol has min(shots, 4) validation
# rows a class. A rule of one standard error for fewer rows was tried and lost six points in a cell.
ENOUGH_ROWS_A_CLASS = 4
# Paired standard errors beside the one row that a candidate has to gain on the published start to take its place;
# chosen by the rule in benchmarks/studies/README.md, "what counts as evidence".
ERRORS = 0.5
MOST_ACCURATE = "most accurate"
PUBLISHED_START = "published start: fewer than four rows a class"
NO_EVIDENCE = "published start: no candidate gains more than its error"

# An accuracy from 0 to 1; a RowsScore where it is known which rows are right.
Score = float
Scorer = Callable[[list[Any]], list[Score]]
Array = NDArray[Any]


class RowsScore(float):
    """An accuracy that knows which rows are right, by which two candidates can be compared row by row.

    Parameters
    ----------
    accuracy : float
        From 0 to 1.
    correct : ndarray of shape (n,), bool
        Of each row scored on whether it was right.

    Examples
    --------
    >>> score = RowsScore(0.5, np.array([True, False]))
    >>> score, score.correct.tolist()
    (0.5, [True, False])
    """

    correct: NDArray[np.bool_]

    def __new__(cls, accuracy: float, correct: NDArray[np.bool_]) -> Self:
        """Make the accuracy."""
        score = super().__new__(cls, accuracy)
        score.correct = correct
        return score


class NothingToChooseByError(InputError):
    """A class has a single training row, so its shots cannot be split. Remedy: more shots, or validation rows."""


@dataclass(frozen=True)
class Selection:
    """The chosen values, and how they were chosen; every result row holds a selection.

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
    rows_a_class : float or None
        Rows of a class that were chosen by, their median; None where nothing was chosen.
    rule : str
        ``"most accurate"``, ``"published start: fewer than four rows a class"`` or ``"published start: no candidate
        gains more than its error"``; empty where nothing was chosen.
    """

    policy: str
    chosen: dict[str, Any] = field(default_factory=dict)
    accuracy: float | None = None
    candidates: int = 0
    note: str = ""
    rows_a_class: float | None = None
    rule: str = ""

    @property
    def chosen_on(self) -> str:
        """What was used to choose: ``"nothing"``, ``"validation"``, ``"cross-validation"`` or ``"TEST"``."""
        return "nothing" if self.rule == PUBLISHED_START else CHOSEN_ON[self.policy]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Scoring:
    """A scorer that knows by how many rows it scores; calling it is calling ``score``.

    Attributes
    ----------
    score : callable
        Takes unfitted candidates, returns the accuracy of each.
    rows, rows_a_class : float
        Rows that candidates are scored on, all, and the median of those of a class that has any.
    """

    score: Scorer
    rows: float
    rows_a_class: float

    def __call__(self, candidates: list[Any]) -> list[Score]:
        """Return the accuracy of each candidate."""
        return self.score(candidates)

    def is_enough(self) -> bool:
        """Return whether a class has rows enough for anything to be chosen by them."""
        return self.rows_a_class >= ENOUGH_ROWS_A_CLASS


def has_evidence(candidate: Score, start: Score, errors: float) -> bool:
    """Return whether a candidate gains at least one row and so many paired standard errors on the published start.

    With b rows that the candidate alone gets right and c that the start alone does, of n, the paired standard error of
    b - c is sqrt(b + c - (b - c)^2 / n). Scores that do not say which rows are right are compared without an error.

    Parameters
    ----------
    candidate, start : float
        Accuracies; :class:`RowsScore` where rows are known.
    errors : float
        How many standard errors; 0 asks for one row.

    Examples
    --------
    >>> start = RowsScore(0.5, np.arange(8) < 4)
    >>> [has_evidence(RowsScore(k / 8, np.arange(8) < k), start, errors=1) for k in (5, 6, 7, 8)]
    [False, False, True, True]
    """
    if not (isinstance(candidate, RowsScore) and isinstance(start, RowsScore)):
        return candidate > start + ROUNDING
    gained = int(np.sum(candidate.correct & ~start.correct))
    lost = int(np.sum(start.correct & ~candidate.correct))
    error = math.sqrt(gained + lost - (gained - lost) ** 2 / len(start.correct))
    return gained - lost >= 1 + errors * error


def mildest(
    estimator: Any, candidates: Sequence[Any], scores: Sequence[Score], score: Any, errors: float = ERRORS
) -> Any:
    """Return the candidate that the module's rule picks.

    Parameters
    ----------
    estimator : unfitted classifier
        With parameters that are ``"auto"``.
    candidates : sequence of unfitted classifiers
        With values in their place.
    scores : sequence of float
        Of the candidates.
    score : callable
        What scored them; a :class:`Scoring` knows how many rows it scored by, any other is not asked for evidence.
    errors : float, default=ERRORS
        Paired standard errors that evidence asks for, of a :class:`Scoring`.

    Examples
    --------
    >>> from cafe import TipAdapter
    >>> unfitted = TipAdapter(alpha="auto")
    >>> tried = [unfitted.varied(alpha=alpha) for alpha in (0.1, 2.0, 50.0)]
    >>> mildest(unfitted, tried, [0.8, 0.9, 0.9], None).alpha
    2.0
    """
    names = list(published_start(estimator))
    steps = [
        steps_from_start(estimator, {name: getattr(candidate, name) for name in names}) for candidate in candidates
    ]
    start = min(range(len(candidates)), key=steps.__getitem__)
    allowed = list(range(len(candidates)))
    if isinstance(score, Scoring):
        allowed = [i for i in allowed if score.is_enough() and has_evidence(scores[i], scores[start], errors)]
    highest = max((scores[i] for i in allowed), default=0.0)
    accurate = [i for i in allowed if scores[i] >= highest - ROUNDING]
    return candidates[min(accurate, key=steps.__getitem__, default=start)]


def score_fitted(estimator: Any, X: Array, labels: NDArray[np.int64]) -> Score:
    """Return the accuracy of a fitted classifier on rows X (n, d) with labels (n,)."""
    return score_probabilities(estimator, estimator.predict_proba(X), labels)


def score_probabilities(estimator: Any, probabilities: Array, labels: NDArray[np.int64]) -> Score:
    """Return the accuracy of probabilities (n, c), or other scores, that a fitted classifier gives labelled rows.

    Parameters
    ----------
    estimator : fitted classifier
        Its ``classes_`` are the columns of ``probabilities``.
    probabilities : ndarray of shape (n, c)
        The class with the highest score is predicted.
    labels : ndarray of shape (n,), int64
        Labels of the rows.
    """
    correct: NDArray[np.bool_] = estimator.classes_[probabilities.argmax(axis=1)] == labels
    return RowsScore(float(np.mean(correct)), correct)


def score_all(fits: Sequence[Any], X: Array, labels: NDArray[np.int64]) -> list[Score]:
    """Score fitted classifiers of one method on labelled rows, together where the method has ``score_grid``."""
    score_grid = getattr(type(fits[0]), "score_grid", None)
    scores: list[Score] | None = None if score_grid is None else score_grid(fits, X, labels)
    return [score_fitted(fit, X, labels) for fit in fits] if scores is None else scores


def few_shot_val(fit_many: Any, X: Array, y: Array, train: NDArray[np.int64], val: tuple[Array, Array]) -> Scoring:
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

    return Scoring(score, len(val[1]), _rows_a_class(val[1]))


def cross_validation(fit_many: Any, X: Array, y: Array, train: NDArray[np.int64], seed: int | None) -> Scoring:
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
        scores = [score_all(part, X[held], y[held]) for part, (_, held) in zip(parts, folds, strict=True)]
        return [_over_folds(of_folds) for of_folds in zip(*scores, strict=True)]

    return Scoring(score, len(train), _rows_a_class(y[train]))


def _over_folds(scores: Sequence[Score]) -> Score:
    """Return the mean of the scores of one candidate over folds, with the rows of all."""
    accuracy = float(np.mean(scores))
    correct = [score.correct for score in scores if isinstance(score, RowsScore)]
    return RowsScore(accuracy, np.concatenate(correct)) if len(correct) == len(scores) else accuracy


def _rows_a_class(labels: NDArray[np.int64]) -> float:
    """Return the median number of rows of a class."""
    # The median, so that a few classes that lack a row, such as one left out for being in the test split as well, do
    # not keep all parameters at their published start.
    return float(np.median(np.unique(labels, return_counts=True)[1]))


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
        The classifier, without any ``"auto"``; and what was chosen.

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

    plain = scorer.score if isinstance(scorer, Scoring) else scorer

    def counting(candidates: list[Any]) -> list[Score]:
        scores = plain(candidates)
        seen.extend(scores)
        return scores

    chosen = estimator.search(replace(scorer, score=counting) if isinstance(scorer, Scoring) else counting)
    values = {name: chosen.get_params()[name] for name in names}
    rows = scorer.rows_a_class if isinstance(scorer, Scoring) else None
    if isinstance(scorer, Scoring) and not scorer.is_enough():
        rule = PUBLISHED_START
    else:
        stayed = isinstance(scorer, Scoring) and steps_from_start(estimator, values) == 0
        rule = NO_EVIDENCE if stayed else MOST_ACCURATE
    return chosen, Selection(policy, values, float(max(seen)), len(seen), rows_a_class=rows, rule=rule)


def fall_back(estimator: Any, reason: str) -> tuple[Any, Selection]:
    """Return the method with its defaults, and a selection that says why nothing could be chosen."""
    from sklearn.base import clone

    values = published_start(estimator)
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


def published_start(estimator: Any) -> dict[str, Any]:
    """Return the published value of each parameter that is ``"auto"``; it is used where nothing can be chosen.

    Examples
    --------
    >>> from cafe import TipAdapter
    >>> published_start(TipAdapter(alpha="auto", beta="auto"))
    {'alpha': 1.17, 'beta': 1.0}
    """
    defaults = {**_signature_defaults(estimator), **getattr(estimator, "defaults", dict)()}
    return {name: defaults[name] for name in estimator.automatic()}


def steps_from_start(estimator: Any, values: Mapping[str, Any]) -> float:
    """Return how far values are from the published start: steps of the grid, summed over parameters.

    A step leads from one value of the sorted grid, with the start among its values, to the next; values between two of
    them are interpolated.

    Parameters
    ----------
    estimator : unfitted classifier
        With parameters that are ``"auto"``.
    values : mapping
        A value for each of those parameters.

    Examples
    --------
    >>> from cafe import TipAdapter
    >>> steps_from_start(TipAdapter(alpha="auto", beta="auto"), {"alpha": 3.0, "beta": 0.5})
    3.0
    """
    steps = 0.0
    for name, start in published_start(estimator).items():
        if isinstance(start, str):  # a rule in place of a number: everything else is as far from it
            steps += float(values[name] != start)
            continue
        places = sorted({*map(float, estimator.grid[name]), float(start)})
        place = np.interp(float(values[name]), places, np.arange(len(places)))
        steps += abs(float(place) - places.index(float(start)))
    return steps


def _signature_defaults(estimator: Any) -> dict[str, Any]:
    """Return the default of every parameter of a method's constructor."""
    import inspect

    return {name: p.default for name, p in inspect.signature(type(estimator)).parameters.items()}
