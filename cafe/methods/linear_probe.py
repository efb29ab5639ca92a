"""Linear probe: multinomial logistic regression on image features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from cafe.errors import InputError
from cafe.methods.base import Array, FewShotClassifier, Problem
from cafe.threads import threads_for

METHOD = "linear-probe"

# The published search: seven decades first, then bisection in log10 C (KaiyangZhou/CoOp lpclip/linear_probe.py).
C_PATH = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
BISECTIONS = 8


class LinearProbe(FewShotClassifier):
    """Logistic regression (scikit-learn's, L-BFGS); text is not used but for the list of classes.

    Classes without a training row cannot be predicted: their probability is zero.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        Only its number of rows is used, so that ``classes_`` holds all classes.
    C : float or "auto", default="auto"
        Inverse strength of the L2 penalty. ``"auto"`` searches as the published protocol does (seven decades
        from 1e6 to 1e-6, then eight bisection steps), by cross-validation on the training rows, or on
        validation shots where a selection policy has them. Where a class has a single row there is nothing to
        cross-validate, and C is ``default_C``.
    max_iter : int, default=1000
        Iterations of L-BFGS, as published.
    logit_scale : float, default=100.0
        Not used; kept so that every method takes the same parameters.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry. The published code does not.
    random_state : int, default=None
        Folds of ``"auto"``.

    Attributes
    ----------
    coef_ : ndarray of shape (c, d)
        Rows of classes not seen are zero.
    intercept_ : ndarray of shape (c,)
        Minus infinity for classes not seen.
    C_ : float
        The value used.

    References
    ----------
    Radford et al. (arXiv 2103.00020), appendix A.3; Zhou et al., CoOp, lpclip/linear_probe.py.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> LinearProbe(C=1.0).fit(X, ["a", "a", "b", "b"]).predict([[0.8, 0.3]])
    array(['a'], dtype='<U1')
    """

    grid: ClassVar = {"C": C_PATH}
    # Unit-length features need little shrinkage; only used where one row per class leaves nothing to choose by.
    default_C: ClassVar[float] = 100.0

    def __init__(
        self,
        class_embeddings: ArrayLike | None = None,
        C: float | str = "auto",
        max_iter: int = 1000,
        logit_scale: float = 100.0,
        classes: ArrayLike | None = None,
        normalize: bool = True,
        random_state: int | None = None,
    ) -> None:
        self.class_embeddings = class_embeddings
        self.C = C
        self.max_iter = max_iter
        self.logit_scale = logit_scale
        self.classes = classes
        self.normalize = normalize
        self.random_state = random_state

    def _prepare(self) -> None:
        super()._prepare()
        if self.C != "auto" and (isinstance(self.C, str) or not self.C > 0):
            raise InputError(f"C must be a positive number or 'auto', but is {self.C!r}")

    def defaults(self) -> dict[str, Any]:
        """Return what ``"auto"`` falls back to where nothing can be chosen."""
        return {"C": self.default_C}

    def search(self, score: Callable[[list[Any]], list[tuple[float, float]]]) -> Any:
        """Search C: seven decades, then eight bisection steps around the best."""
        from sklearn.base import clone

        def candidates(values: list[float]) -> list[Any]:
            return [clone(self).set_params(C=value) for value in values]

        values = list(C_PATH)
        scores = score(candidates(values))
        best = max(range(len(values)), key=lambda i: scores[i])
        centre, best_score = np.log10(values[best]), scores[best]
        step = 1.0  # half the distance of the decades above, in log10 C
        for _ in range(BISECTIONS):
            sides = [centre - step, centre + step]
            found = score(candidates([float(10**side) for side in sides]))
            winner = max((0, 1), key=lambda i: found[i])
            if found[winner] > best_score:
                centre, best_score = sides[winner], found[winner]
            step /= 2
        return clone(self).set_params(C=float(10**centre))

    def _fit_rows(self, problem: Problem) -> None:
        from sklearn.linear_model import LogisticRegression

        from cafe.protocol.selection import resolve_automatic

        chosen = resolve_automatic(self, problem)
        self.C_ = float(chosen.C)
        seen = np.unique(problem.y)
        if len(seen) < 2:
            raise InputError("a linear probe needs training rows of at least two classes, but they all have one class")
        with threads_for(problem.X.size * len(seen)):
            model = LogisticRegression(C=self.C_, max_iter=self.max_iter).fit(problem.X, problem.y)
        coef, intercept = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
        if len(seen) == 2:
            # scikit-learn keeps one row for two classes; half of it on each side has the same softmax.
            coef, intercept = np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
        n_classes = len(self.classes_)
        self.coef_ = np.zeros((n_classes, problem.X.shape[1]), dtype=problem.X.dtype)
        self.intercept_ = np.full(n_classes, -np.inf, dtype=problem.X.dtype)
        self.coef_[seen], self.intercept_[seen] = coef, intercept
        self.n_iter_ = int(np.max(model.n_iter_))
        self.kernel_ = "scikit-learn"

    def _logits(self, X: Array) -> Array:
        logits: Array = X @ self.coef_.astype(X.dtype, copy=False).T + self.intercept_.astype(X.dtype, copy=False)
        return logits
