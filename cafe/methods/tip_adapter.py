"""Tip-Adapter without training: zero-shot logits plus a cache of the few shots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.arrays import kernel_name, on_device
from cafe.methods.base import Array, FewShotClassifier, Problem, unit_length
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Constraint, Number
from cafe.methods.inputs.problem import CheckedArrays, widen
from cafe.protocol.selection import RowsScore

METHOD = "tip-adapter"


@dataclass(eq=False, repr=False)
class TipAdapter(FewShotClassifier):
    """Add votes of similar training images to the zero-shot logits; nothing is trained.

    ::

        logits = s f.W + alpha * sum_i exp( -beta (1 - f.k_i) ) [label_i = class]

    with f, W and the keys k_i of unit length. The sum over keys of one class is a segment sum, since the
    values are one-hot. Cost: one product of queries and keys.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    alpha : float or "auto", default=1.17
        Weight of the cache (the paper's residual ratio); at least 0.
    beta : float or "auto", default=1.0
        Sharpness of the affinity; above 0. The defaults are the released code's initial values for ImageNet.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry; keys and queries are compared as cosines either way.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``: where to compute, the scores of new rows too; ``"auto"`` takes
        a GPU where the problem is large enough to gain by it.
    random_state : int, default=None
        Folds of ``"auto"``.

    Attributes
    ----------
    keys_ : ndarray of shape (n, d)
        Unit-length training features, sorted by class.
    segments_ : ndarray of shape (number of seen classes,)
        First key of each class that has one.
    seen_ : ndarray of shape (number of seen classes,)
        Rows of the classes that have keys.
    alpha_, beta_ : float
        The values used; as given, or chosen by cross-validation on the training rows where ``"auto"``.

    References
    ----------
    Zhang et al., Tip-Adapter (ECCV 2022), equations 3 to 5; released main.py, utils.py.

    Examples
    --------
    >>> import numpy as np
    >>> text = np.array([[1.0, 0.1], [0.1, 1.0]])
    >>> model = TipAdapter(text, alpha=1.0, beta=5.5).fit(np.eye(2), [0, 1])
    >>> model.predict([[0.9, 0.2]])
    array([0])
    """

    class_embeddings: ArrayLike | None = None
    alpha: float | str = 1.17
    beta: float | str = 1.0
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    random_state: int | None = None

    # Logarithmic, and wide enough for the released per-dataset ranges: alpha to 50, beta to 50.
    grid: ClassVar = {
        "alpha": (0.1, 0.3, 0.6, 1.0, 1.17, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0),
        "beta": (0.1, 0.5, 1.0, 2.0, 3.5, 5.5, 8.0, 12.0, 20.0, 50.0),
    }
    constraints: ClassVar[dict[str, Constraint]] = {"alpha": Number(0), "beta": Number(0, above=True)}

    @classmethod
    def _fit_problems(cls, estimators: Sequence[Any], problems: Sequence[Problem]) -> None:
        """Fit several; those on the same rows share their keys."""
        shared: dict[tuple[CheckedArrays, bytes], tuple[Array, Array, Array]] = {}
        for estimator, problem in zip(estimators, problems, strict=True):
            estimator.alpha_, estimator.beta_ = float(estimator.alpha_), float(estimator.beta_)
            key = (problem.base, problem.rows.tobytes())
            if key not in shared:
                labels = problem.y
                order = np.argsort(labels, kind="stable")
                shared[key] = (unit_length(problem.X[order]), *np.unique(labels[order], return_index=True))
            estimator.keys_, estimator.seen_, estimator.segments_ = shared[key]
            estimator.kernel_ = kernel_name(estimator.device_)

    @classmethod
    def score_grid(cls, fits: Sequence[Any], X: Array, labels: NDArray[np.int64]) -> list[float] | None:
        """Return the accuracies of fits that share keys, with affinities computed once; None if some do not."""
        search = KeySearch.of(fits, X, labels)
        if search is None:
            return None
        scores_of = search.scores()
        return [scores_of[fit.alpha_, fit.beta_] for fit in fits]

    def _logits(self, X: Array) -> Array:
        return scores.tip_adapter(self, X)


@dataclass(frozen=True)
class KeySearch:
    """Scores of fits that share their keys and differ in alpha and beta, with affinities computed once.

    Attributes
    ----------
    fit : classifier
        Any of the fits.
    alphas, betas : list of float
        Their values, sorted.
    queries : ndarray of shape (n, d)
        Unit-length rows, in the dtype of the keys and on the device of the fits.
    labels : ndarray of shape (n,), int64
        Class row of each query.
    """

    fit: Any
    alphas: list[float]
    betas: list[float]
    queries: Array
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, fits: Sequence[Any], X: Array, labels: NDArray[np.int64]) -> KeySearch | None:
        """Return the search over fits on rows X (n, d) with labels; None if fits share no keys, or lack a class."""
        first = fits[0]
        if not np.isin(labels, first.classes_).all() or any(
            fit.keys_ is not first.keys_ or fit.logit_scale != first.logit_scale for fit in fits
        ):
            return None
        alphas, betas = (sorted({float(getattr(fit, name)) for fit in fits}) for name in ("alpha_", "beta_"))
        queries = unit_length(np.asarray(widen(X))).astype(first.keys_.dtype, copy=False)
        order = np.argsort(first.classes_)
        class_rows = order[np.searchsorted(first.classes_[order], labels)]
        return cls(first, alphas, betas, on_device(queries, first.device_), class_rows)

    def scores(self, **options: Any) -> dict[tuple[float, float], RowsScore]:
        """Return the accuracy of every alpha and beta; options go to :func:`cafe.solvers.tip_search.tip_search`."""
        import torch

        from cafe.solvers.tip_search import tip_search

        fit, dtype = self.fit, self.fit.keys_.dtype
        correct = np.empty((len(self.betas), len(self.alphas), len(self.labels)), dtype=bool)
        accuracy = tip_search(
            self.queries,
            self.labels,
            torch.from_numpy(fit.keys_).to(fit.device_),
            np.repeat(fit.seen_, np.diff(np.append(fit.segments_, len(fit.keys_)))),
            torch.from_numpy(unit_length(fit._entry_text(dtype))).to(fit.device_),
            fit.logit_scale,
            self.alphas,
            self.betas,
            correct=correct,
            **options,
        )
        return {
            (alpha, beta): RowsScore(float(accuracy[i, j]), correct[i, j])
            for i, beta in enumerate(self.betas)
            for j, alpha in enumerate(self.alphas)
        }
