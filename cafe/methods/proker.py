"""ProKeR: zero-shot corrected by kernel ridge regression on what it got wrong about the shots; closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.arrays import double, functions, index_like, is_tensor, kernel_name, like, on_device, on_host
from cafe.compute import threads_for
from cafe.errors import InputError
from cafe.methods.base import Array, FewShotClassifier, Problem, cosine_logits, unit_length
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Constraint, Number

METHOD = "proker"

# The published settings by number of shots, found on ImageNet with ResNet-50: (beta, penalty).
PUBLISHED: dict[int, tuple[float, float]] = {
    1: (3.0, 0.05),
    2: (2.6, 0.05),
    4: (1.5, 0.05),
    8: (1.66, 0.07),
    16: (1.7, 0.1),
}
# The kernel of all pairs of shots is held in float64: 3.2 GB at this many rows.
MOST_ROWS = 20_000


@dataclass(eq=False, repr=False)
class ProKeR(FewShotClassifier):
    """Add to zero-shot a kernel regression on its errors about the shots; nothing is trained or chosen.

    ::

        logits  = logit_scale ( cos(f, t)  +  K(f, S) A )
        A       = ( K(S, S) / penalty + I )^-1 ( Y - cos(S, t) )
        K(a, b) = exp( -beta (1 - cos(a, b)) )

    with S the n shots, t the class embeddings and Y (n, c) one-hot. ``beta`` and ``penalty`` follow the number of
    shots as published, so the method needs no validation. Cost: one n x n Cholesky factorisation.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    beta : float, default=None
        Sharpness of the kernel; None for the published value at the number of shots (between two published numbers,
        the value on the line over the logarithm of the number; beyond 16, that of 16).
    penalty : float, default=None
        The paper's lambda; None as for ``beta``.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry; they are compared as cosines either way.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``: where to compute, the scores of new rows too; ``"auto"`` takes
        a GPU where the problem is large enough to gain by it.

    Attributes
    ----------
    keys_ : ndarray of shape (n, d)
        The shots, of unit length.
    dual_weights_ : ndarray of shape (n, c)
        A.
    beta_, penalty_ : float
        The values used.

    Raises
    ------
    InputError
        Beside what every method refuses, where there are more than 20,000 training rows.

    Notes
    -----
    Kernel ridge regression toward zero-shot (the paper's closed form) has a further factor 1 / penalty before K(f, S).
    The public code leaves it out, and the published settings belong to it without: on Caltech69 at one shot the
    correction then raises zero-shot from 90.7 to 92.4, where the full factor lowers it to 87.8.

    References
    ----------
    Bendou et al., ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language Models (CVPR 2025,
    arXiv 2501.11175): its closed-form solution, and its settings by number of shots.

    Examples
    --------
    >>> import numpy as np
    >>> text = np.array([[1.0, 0.1], [0.1, 1.0]])
    >>> ProKeR(text, classes=["cat", "dog"]).fit(np.eye(2), ["cat", "dog"]).predict([[0.9, 0.2]])
    array(['cat'], dtype='<U3')
    """

    class_embeddings: ArrayLike | None = None
    beta: float | None = None
    penalty: float | None = None
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    beta_: float = field(init=False)
    penalty_: float = field(init=False)

    constraints: ClassVar[dict[str, Constraint]] = {
        "beta": Number(0, above=True, none=True),
        "penalty": Number(0, above=True, none=True),
    }

    def _multiply_adds(self, n: int, d: int, c: int) -> float:
        return float(n) * n * (n + d + c)

    def _fit_rows(self, problem: Problem) -> None:
        """Solve for the dual weights A in closed form; raises InputError where the rows are too many."""
        n = len(problem.rows)
        if n > MOST_ROWS:
            raise InputError(
                f"proker holds a number for every pair of training rows, and {n:,} rows are too many "
                f"(at most {MOST_ROWS:,}); take fewer shots, or a method that does not, such as gda"
            )
        beta, penalty = published_settings(_mean_shots(problem.y))
        self.beta_ = float(beta if self.beta is None else self.beta)
        self.penalty_ = float(penalty if self.penalty is None else self.penalty)
        keys = unit_length(double(on_device(problem.X, self.device_)))
        targets = -cosine_logits(keys, like(self._entry_text(np.float64), keys), 1.0)
        targets[index_like(np.arange(n), keys), index_like(problem.y, keys)] += 1  # (n, c), Y - cos(S, t)
        self.keys_ = on_host(keys).astype(problem.base.X.dtype)
        solved = _solve(keys, targets, self.beta_, self.penalty_)
        self.dual_weights_ = on_host(solved).astype(problem.base.X.dtype)
        self.kernel_ = kernel_name(self.device_)

    def _logits(self, X: Array) -> Array:
        return scores.proker(self, X)


def published_settings(shots: float) -> tuple[float, float]:
    """Return the published (beta, penalty) at a number of shots per class, at least 1.

    Examples
    --------
    >>> published_settings(4), published_settings(100)
    ((1.5, 0.05), (1.7, 0.1))
    """
    at = np.log(list(PUBLISHED))
    betas, penalties = zip(*PUBLISHED.values(), strict=True)
    where = np.log(shots)
    return float(np.interp(where, at, betas)), float(np.interp(where, at, penalties))


def _mean_shots(y: NDArray[np.int64]) -> float:
    """Return the mean number of rows of the classes that have one."""
    counts = np.bincount(y)
    return float(counts[counts > 0].mean())


def _solve(keys: Array, targets: Array, beta: float, penalty: float) -> NDArray[Any]:
    """Return the dual weights A, (n, c): K / penalty + I has a Cholesky factor, its eigenvalues being at least 1."""
    from scipy.linalg import cho_factor, cho_solve

    n = len(keys)
    if is_tensor(keys):
        gram: Any = scores.exponential_kernel(keys, keys, beta) / penalty
        gram.diagonal().add_(1)
        lower = functions(gram).linalg.cholesky(gram)
        on_device_solved: NDArray[Any] = functions(gram).cholesky_solve(targets, lower)
        return on_device_solved
    with threads_for(n * n * max(n, keys.shape[1])):
        gram = scores.exponential_kernel(keys, keys, beta)
        gram /= penalty
        gram[np.diag_indices(n)] += 1
        solved: NDArray[Any] = cho_solve(cho_factor(gram, lower=True, overwrite_a=True), targets, overwrite_b=True)
    return solved
