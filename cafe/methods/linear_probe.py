"""Linear probe: multinomial logistic regression on image features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.compute import run_each, threads_for
from cafe.errors import InputError
from cafe.methods.base import Array, FewShotClassifier, Problem
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Choice, Constraint, Number
from cafe.methods.inputs.problem import CheckedArrays
from cafe.methods.inputs.stored_rows import StoredRows, uploaded
from cafe.protocol.selection import mildest, steps_from_start

if TYPE_CHECKING:
    from cafe.solvers.logistic import PenaltyPath

METHOD = "linear-probe"

# For each problem of a search, by a digest of its rows: the basis of their span, or None, and the solutions so far.
_Paths = dict[bytes, "tuple[Array | None, PenaltyPath]"]

# The published search: seven decades first, then bisection in log10 C (KaiyangZhou/CoOp lpclip/linear_probe.py).
C_PATH = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
BISECTIONS = 8
SOLVERS = ("torch", "scikit-learn")
# Rows x features (or rows, where fewer) x classes up to which float64 and a tight tolerance cost next to nothing.
SMALL_PROBLEM = 2_000_000
# Expected relative decrease of the objective at which a fit is done. Candidates of a search are compared by the rows
# that they get right: a solution nearer to the minimum changes a few, for the better as for the worse, and ten times
# the tolerance took 369 passes over the rows of the folds in place of 660 (ImageNet's features, 4 shots).
SMALL_TOLERANCE, TOLERANCE, SEARCH_TOLERANCE = 1e-10, 5e-6, 5e-5


@dataclass(eq=False, repr=False)
class LinearProbe(FewShotClassifier):
    """Logistic regression by L-BFGS; of the text only the number of classes is used.

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
    solver : {"torch", "scikit-learn"}, default="torch"
        What minimises scikit-learn's objective. ``"torch"`` is :func:`cafe.solvers.logistic.logistic_path`, which
        fits all C and folds of a search in one run; ``"scikit-learn"`` is its ``LogisticRegression``, as published,
        whose stopping rule leaves the objective at large C above its minimum.
    logit_scale : float, default=100.0
        Not used; kept so that every method takes the same parameters.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry. The published code does not.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``: where to compute, the scores of new rows too; ``"auto"`` takes
        a GPU where the problem is large enough to gain by it.
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

    class_embeddings: ArrayLike | None = None
    C: float | str = "auto"
    max_iter: int = 1000
    solver: str = "torch"
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    random_state: int | None = None
    C_: float = field(init=False)

    grid: ClassVar = {"C": C_PATH}
    constraints: ClassVar[dict[str, Constraint]] = {
        "C": Number(0, above=True, infinite=True),
        "max_iter": Number(1, whole=True),
        "solver": Choice(SOLVERS),
    }
    # Unit-length features need little shrinkage; only used where one row per class leaves nothing to choose by.
    default_C: ClassVar[float] = 100.0
    # Solutions that the candidates of one search share; None outside of a search.
    _paths: _Paths | None = field(default=None, init=False)

    def defaults(self) -> dict[str, Any]:
        """Return what ``"auto"`` falls back to where nothing can be chosen."""
        return {"C": self.default_C}

    def varied(self, **changes: Any) -> Self:
        """Return an unfitted copy with some parameters changed, which shares the solutions of a search."""
        other = super().varied(**changes)
        if self._paths is not None:
            other._paths = self._paths
        return other

    def search(self, score: Callable[[list[Any]], list[float]]) -> Any:
        """Search C: seven decades, then eight bisection steps around the best."""
        paths: _Paths = {}  # shared by all candidates, so that a fit starts at solutions of earlier ones
        tried: list[Any] = []
        scores: list[float] = []

        def best_of(values: list[float]) -> tuple[tuple[float, float], float]:
            """Score values of C; return the best one's sorting key and its log10.

            The key is the accuracy and, among equal accuracies, the nearness to the published start.
            """
            candidates = [self.varied(C=value) for value in values]
            for candidate in candidates:
                candidate._paths = paths
            new_scores = score(candidates)
            tried.extend(candidates)
            scores.extend(new_scores)
            keys = [(s, -steps_from_start(self, {"C": value})) for s, value in zip(new_scores, values, strict=True)]
            best_key, best_value = max(zip(keys, values, strict=True), key=lambda pair: pair[0])
            return best_key, float(np.log10(best_value))

        best_key, centre = best_of(list(C_PATH))
        step = 1.0  # half the distance of the decades above, in log10 C
        for _ in range(BISECTIONS):
            key, log_C = best_of([float(10 ** (centre - step)), float(10 ** (centre + step))])
            if key > best_key:
                best_key, centre = key, log_C
            step /= 2
        return self.varied(C=mildest(self, tried, scores, score).C)

    def _choose(self, problem: Problem) -> None:
        if len(np.unique(problem.y)) < 2:
            raise InputError("a linear probe needs training rows of two classes or more, but they have one class")
        super()._choose(problem)
        self.C_ = float(self.C_)

    @classmethod
    def _fit_problems(cls, estimators: Sequence[Any], problems: Sequence[Problem]) -> None:
        """Fit each estimator to its problem; those with equal features, iterations and device are fitted together."""
        runs: dict[tuple[CheckedArrays, int, str], list[tuple[Any, Problem]]] = {}
        for estimator, problem in zip(estimators, problems, strict=True):
            if estimator.solver == "scikit-learn":
                estimator._fit_with_scikit_learn(problem)
            else:
                key = problem.base, estimator.max_iter, estimator.device_
                runs.setdefault(key, []).append((estimator, problem))
        for (_, max_iter, device), members in runs.items():
            _fit_paths(members, max_iter, device)

    def _store(self, coef: Array, intercept: Array, iterations: int, dtype: Any) -> None:
        self.coef_, self.intercept_ = coef.astype(dtype), intercept.astype(dtype)
        self.n_iter_, self.kernel_ = iterations, self.solver

    def _multiply_adds(self, n: int, d: int, c: int) -> float:
        # About 30 evaluations, of three products each.
        return 90.0 * n * d * c

    def _fit_with_scikit_learn(self, problem: Problem) -> None:
        """Fit by scikit-learn's LogisticRegression, on the CPU. Raises InputError for another device."""
        if self.device not in ("auto", "cpu"):
            raise InputError(
                f"solver 'scikit-learn' runs on the CPU alone, not on {self.device!r}; "
                "use solver='torch', or leave device at 'auto'"
            )
        self.device_ = "cpu"
        from sklearn.linear_model import LogisticRegression

        features, labels = problem.X, problem.y
        seen = np.unique(labels)
        with threads_for(features.size * len(seen)):
            model = LogisticRegression(C=self.C_, max_iter=self.max_iter).fit(features, labels)
        coef, intercept = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
        if len(seen) == 2:
            # scikit-learn keeps one row for two classes; half of it on each side has the same softmax.
            coef, intercept = np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
        full, offset = np.zeros((len(self.classes_), features.shape[1])), np.full(len(self.classes_), -np.inf)
        full[seen], offset[seen] = coef, intercept
        self._store(full, offset, int(np.max(model.n_iter_)), features.dtype)

    def _logits(self, X: Array) -> Array:
        return scores.linear_probe(self, X)


def _fit_paths(members: Sequence[tuple[LinearProbe, Problem]], max_iter: int, device: str) -> None:
    """Fit estimators that share their checked arrays, the number of iterations and the device.

    Estimators with the same training rows are one problem, whose values of C are fitted one after the other, from
    earlier solutions. Problems with the same values of C are fitted side by side.
    """
    base = members[0][1].base
    groups: dict[bytes, list[tuple[LinearProbe, Problem]]] = {}
    for estimator, problem in members:
        groups.setdefault(problem.rows.tobytes(), []).append((estimator, problem))
    together: dict[tuple[float, ...], list[list[tuple[LinearProbe, Problem]]]] = {}
    for group in groups.values():
        together.setdefault(tuple(sorted({estimator.C_ for estimator, _ in group})), []).append(group)
    n_classes, d = len(base.class_embeddings), base.X.shape[1]
    for path, batch in together.items():
        used = np.unique(np.concatenate([group[0][1].rows for group in batch]))
        work = len(used) * min(d, len(used)) * n_classes
        if len(batch) == 1 or device != "cpu" or isinstance(base.X, StoredRows) or work <= SMALL_PROBLEM:
            with threads_for(work * len(batch)):
                _fit_batch(batch, path, max_iter, device)
        else:
            # A problem fitted alone multiplies by its own rows only and ends when it has converged. There are enough
            # problems for all threads, and a large one gains little by being fitted beside others.
            run_each([partial(_fit_batch, [group], path, max_iter, device, len(batch)) for group in batch])


def _fit_batch(
    batch: Sequence[Sequence[tuple[LinearProbe, Problem]]],
    path: tuple[float, ...],
    max_iter: int,
    device: str,
    others: int = 1,
) -> None:
    """Fit linear probes, each at its own C, solving for several sets of training rows side by side.

    Parameters
    ----------
    batch : sequence of sequences of (LinearProbe, Problem)
        Problems; each is the group of estimators that have the same training rows. All have the same features.
    path : tuple of float
        The values of C of every group, ascending.
    max_iter : int
        Iterations at each C.
    device : str
        Where to compute.
    others : int, default=1
        Batches that are fitted at the same time, this one included; they share the memory for kept solutions.
    """
    base = batch[0][0][1].base
    used = np.unique(np.concatenate([group[0][1].rows for group in batch]))
    counts = np.stack([np.bincount(group[0][1].rows, minlength=len(base.y))[used] for group in batch])
    n_classes = len(base.class_embeddings)
    small = len(used) * min(base.X.shape[1], len(used)) * n_classes <= SMALL_PROBLEM
    # Features on disk are read in blocks, once for each evaluation of the loss.
    X = base.X.take(used) if isinstance(base.X, StoredRows) else base.X[used]
    known = batch[0][0][0]._paths
    basis, solver = _path_of(X, base.y[used], n_classes, counts, small, max_iter, known, device, others)
    fits = solver.fits(path, SMALL_TOLERANCE if small else TOLERANCE if known is None else SEARCH_TOLERANCE)
    for k, group in enumerate(batch):
        for estimator, _ in group:
            fit = fits[path.index(estimator.C_)][k]
            coef = fit.coef if basis is None else fit.coef @ basis
            estimator._store(coef, fit.intercept, fit.iterations, base.X.dtype)


def _path_of(
    X: Any,
    y: NDArray[np.int64],
    n_classes: int,
    counts: NDArray[np.int64],
    small: bool,
    max_iter: int,
    known: _Paths | None,
    device: str,
    others: int,
) -> tuple[Array | None, PenaltyPath]:
    """Return the basis of the rows' span, or None, and the object that solves at each C; ``known`` may hold both.

    Parameters
    ----------
    X : array of shape (n, d)
        Rows, in memory or on disk.
    y : ndarray of shape (n,), int64
        Their class rows.
    n_classes : int
        c.
    counts : ndarray of shape (problems, n), int64
        How often each problem has each row.
    small : bool
        Whether to compute in float64.
    max_iter : int
        Iterations at each C.
    known : dict or None
        Basis and solver of each problem that this search has met, by digest; those of a new problem are added. None
        outside of a search.
    device : str
        Where to compute.
    others : int
        Batches that are fitted at the same time, which share the memory for kept solutions.
    """
    import torch

    from cafe.solvers.logistic import KEPT_BYTES, PenaltyPath, SoftmaxLoss

    key = None
    if known is not None and not isinstance(X, StoredRows):
        digest = blake2b(digest_size=16)
        digest.update(device.encode())
        for part in (X, y, counts, np.array([n_classes, max_iter])):
            digest.update(np.ascontiguousarray(part).data)
        key = digest.digest()
        if key in known:
            return known[key]
    if isinstance(X, StoredRows):
        # A GPU holds all rows in its memory; a CPU reads them in blocks.
        rows, basis = (X if device == "cpu" else uploaded(X, device)), None
    else:
        rows, basis = _in_their_span(torch.from_numpy(X).to(device))
    loss = SoftmaxLoss(rows, y, n_classes, counts, torch.float64 if small else torch.float32)
    path = basis, PenaltyPath(loss, max_iter, KEPT_BYTES // others)
    if known is not None and key is not None:
        known[key] = path
    return path


def _in_their_span(X: Any) -> tuple[Any, Array | None]:
    """Return rows X (n, d) as coordinates (n, n) in a basis (n, d) of their span if n < d; else X itself and None.

    The penalty keeps every class's weights in the span of the rows, X^T = Q R, and |Q v| = |v|: the objective of v on
    X Q is that of Q v on X. One row a class in 512 columns is a problem of as many unknowns per class as rows.
    """
    import torch

    if len(X) >= X.shape[1]:
        return X, None
    basis = torch.linalg.qr(X.double().T)[0].T  # (n, d)
    return X.double() @ basis.T, basis.cpu().numpy()
