"""TransCLIP: classify a whole query set at once, by its own clusters, the shots and the text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.arrays import kernel_name, like, on_host
from cafe.compute import run_each
from cafe.errors import CafeWarning
from cafe.methods.base import Array, Problem, TransductiveClassifier, cosine_logits, unit_length
from cafe.methods.inputs.parameters import Choice, Constraint, Number
from cafe.protocol.selection import score_fitted
from cafe.solvers.transductive import solve

METHOD = "trans-clip"

SETTINGS = ("few-shot", "zero-shot")


@dataclass(eq=False, repr=False)
class TransCLIP(TransductiveClassifier):
    """Fit a Gaussian mixture to all rows to be classified; TRANSDUCTIVE: a prediction depends on its whole batch.

    ::

        z_i ~ y_i^lambda  exp( (1/50) ( loglik_i + (50/2k) (neighbours' z)_i ) )

    alternated with means and one shared diagonal variance in closed form (all equations in solvers/transductive.py).
    ``fit`` only keeps the shots; every call of ``predict`` solves anew for the rows that it is given, which should
    be the whole test set: a batch of few classes is wrecked (a warning says so). Its accuracy is not comparable with
    that of methods that classify one image at a time.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    setting : {"few-shot", "zero-shot"}, default="few-shot"
        Zero-shot leaves the shots out and trusts the text fully (lambda 1 instead of 0.5).
    gamma : float or "auto", default=0.002
        Weight of a shot; the paper chooses among 0.002, 0.01, 0.02 and 0.2 on validation images. It scores each of
        these by its nearest query's prediction; a selection policy here has no query set and scores the held-out
        rows as a query set of their own.
    neighbors : int, default=3
        k.
    iterations : int, default=10
        Outer iterations.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry; they are compared as cosines either way.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``: where to compute, the scores of new rows too; ``"auto"`` takes
        a GPU where the problem is large enough to gain by it.
    random_state : int, default=None
        Folds of ``"auto"``.

    Attributes
    ----------
    shots_ : ndarray of shape (n, d)
        Unit length.
    shot_labels_ : ndarray of shape (n,)
        Class rows.
    gamma_ : float
        The value used.

    Warns
    -----
    UserWarning
        On predicting a batch that looks like few of the classes; ``stat-a`` is made for those.

    References
    ----------
    Zanella et al., Boosting Vision-Language Models with Transduction (NeurIPS 2024); released
    TransCLIP_solver. The released few-shot path orders rows as shots, queries in the affinities but as queries,
    shots in the assignments, so that its neighbours are others than meant; here both have one order.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    >>> TransCLIP(np.eye(2)).fit(X, [0, 0, 1, 1]).predict(X[::-1])
    array([1, 1, 0, 0])
    """

    class_embeddings: ArrayLike | None = None
    setting: str = "few-shot"
    gamma: float | str = 0.002
    neighbors: int = 3
    iterations: int = 10
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    random_state: int | None = None
    gamma_: float = field(init=False)

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"gamma": (0.002, 0.01, 0.02, 0.2)}
    constraints: ClassVar[dict[str, Constraint]] = {
        "setting": Choice(SETTINGS),
        "gamma": Number(0),
        "neighbors": Number(1, whole=True),
        "iterations": Number(1, whole=True),
    }

    def _fit_rows(self, problem: Problem) -> None:
        """Keep the shots; every prediction solves anew."""
        self.shots_, self.shot_labels_ = unit_length(problem.X), problem.y
        self.kernel_ = f"{kernel_name(self.device_)}, transductive"

    @classmethod
    def score_grid(cls, fits: Sequence[Any], X: Array, labels: NDArray[np.int64]) -> list[float] | None:
        """Return the accuracies of fits, solved on a thread each, since NumPy's passes use one; None on a GPU."""
        if any(fit.device_ != "cpu" for fit in fits):
            return None
        scores: dict[int, float] = {}

        def score(i: int) -> None:
            scores[i] = score_fitted(fits[i], X, labels)

        run_each([partial(score, i) for i in range(len(fits))])
        return [scores[i] for i in range(len(fits))]

    def _logits(self, X: Array) -> Array:
        """Solve the mixture for the batch X; return the logarithms of its assignments."""
        few_shot = self.setting == "few-shot"
        text_logits = cosine_logits(X, self._text_like(X), self.logit_scale)
        _warn_of_few_classes(on_host(text_logits.argmax(axis=1)), text_logits.shape[1])
        queries = unit_length(X)
        logits: Array = solve(
            queries,
            text_logits,
            like(self.shots_, queries),
            self.shot_labels_,
            float(self.gamma_) if few_shot else 0.0,
            0.5 if few_shot else 1.0,
            self.neighbors,
            self.iterations,
        )
        return logits


def _warn_of_few_classes(best: NDArray[np.int64], n_classes: int) -> None:
    """Warn where the text sees fewer than half of the classes that a balanced batch of that size would have.

    Classes that are not in the batch are moved onto rows of others: in batches of 64 rows of one to four classes,
    the paper on StatA (arXiv 2501.03729) has this method at 38.9 where zero-shot has 65.2.
    """
    n, seen = len(best), len(np.unique(best))
    expected = n_classes * (1 - (1 - 1 / n_classes) ** n)
    if seen < expected / 2:
        warnings.warn(
            f"the batch of {n} images looks like {seen} of {n_classes} classes; trans-clip is made for batches with "
            "images of nearly every class, and puts some into classes that are absent; stat-a is for such batches",
            CafeWarning,
            stacklevel=4,
        )
