"""LP++: a linear probe whose weights are a visual part plus a learned multiple of the text, with data-driven steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cafe.arrays import sums_by_class
from cafe.compute import SMALL, leave_if_given_up, run_each, threads_for
from cafe.errors import InputError
from cafe.kernels.class_weights import ClassWeightStep, WeightSizes
from cafe.kernels.class_weights_reference import WeightsShape
from cafe.kernels.fastest import choose_precision
from cafe.kernels.optimizers import make_update
from cafe.methods.base import Array, FewShotClassifier, Problem
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Choice, Constraint, Number
from cafe.methods.objectives.base import DTYPES

METHOD = "lp++"

FORMS = ("paper", "released")
# From the released code: iterations from one step of alpha to the next, and the factor of alpha's start. Its momentum
# for the visual weights is the default of the optimiser used here, 0.9.
ALPHA_EVERY, ALPHA_START = 10, 250.0


@dataclass(eq=False, repr=False)
class LPPlusPlus(FewShotClassifier):
    """Train a visual prototype and a text multiplier per class on all shots at once; encoders frozen.

    ::

        logits_c = f . (w_c + alpha_c t_c) + b_c            no logit scale: alpha plays it
        start      w_c = sum of the shots of class c,  alpha_c = 250 mean_i f_i . t_(y_i),  b = 0
        w, b       gradient steps with momentum 0.9 and step 4 n / lambda_max(F^T F)
        alpha      every 10th iteration, step n / (4 max_c sum_i (f_i . t_c)^2)

    Step sizes come from Lipschitz constants of the loss on the data, so there is no learning rate to choose. Full
    batch; cost of an iteration: two products of all shots with all classes. Nothing is random (the released code
    draws b).

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    iterations : int or "auto", default=300
        As published. The paper keeps the best iterate on validation images: that is ``"auto"``, and all candidates
        are snapshots of one run.
    form : {"paper", "released"}, default="paper"
        Alpha's gradient at the current point, or, as in the released code, which never clears it, summed over all
        iterations so far.
    logit_scale : float, default=100.0
        Not used; kept so that every method takes the same parameters.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry, as published.
    device : str, default="auto"
        Where to train.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of training; auto is float32, with products in bfloat16 where they were measured to be faster.
    random_state : int, default=None
        Folds of ``"auto"``.

    Attributes
    ----------
    weights_ : ndarray of shape (c, d)
        w + alpha t.
    intercept_ : ndarray of shape (c,)
        b.
    alpha_ : ndarray of shape (c,)
        Text multipliers.
    iterations_ : int
        The number used.

    References
    ----------
    Huang et al., LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP (CVPR 2024), sections 3 and 4; released
    methods/linear_probe_p2.py.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    >>> LPPlusPlus(np.eye(2)).fit(X, [0, 0, 1, 1]).predict([[0.9, 0.3]])
    array([0])
    """

    class_embeddings: ArrayLike | None = None
    iterations: int | str = 300
    form: str = "paper"
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    dtype: str = "auto"
    random_state: int | None = None

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"iterations": (1, 10, 25, 50, 100, 200, 300)}
    constraints: ClassVar[dict[str, Constraint]] = {
        "iterations": Number(1, whole=True),
        "form": Choice(FORMS),
        "dtype": Choice(tuple(DTYPES)),
    }

    def _multiply_adds(self, n: int, d: int, c: int) -> float:
        return 2.0 * n * d * c * (self.iterations if isinstance(self.iterations, int) else max(self.grid["iterations"]))

    @classmethod
    def _fit_problems(cls, estimators: Sequence[Any], problems: Sequence[Problem]) -> None:
        """Fit several estimators; those that differ in the number of iterations alone are snapshots of one training."""
        runs: dict[tuple[Any, ...], list[tuple[Any, Problem]]] = {}
        for estimator, problem in zip(estimators, problems, strict=True):
            key = (problem.base, problem.rows.tobytes(), estimator.form, estimator.device_, estimator.dtype)
            runs.setdefault(key, []).append((estimator, problem))
        # Runs share nothing: several on a thread each need no barrier between their operations.
        on_cpu = all(estimator.device_ == "cpu" for estimator in estimators)
        large = all(len(problem.rows) * problem.class_embeddings.size >= SMALL for problem in problems)
        if len(runs) > 1 and on_cpu and large and torch.get_num_threads() > 1:
            # Precisions are chosen before, where nothing runs beside what is timed.
            placed = [(members, _products(*members[0])) for members in runs.values()]
            run_each([partial(_fit_together, members, products) for members, products in placed])
            return
        for members in runs.values():
            _fit_together(members, _products(*members[0]))

    def _logits(self, X: Array) -> Array:
        return scores.linear(self, X)


def _products(estimator: Any, problem: Problem) -> str:
    """Return the name of the dtype of the products with a problem's rows."""
    sizes = WeightSizes(False, len(problem.rows), *problem.class_embeddings.shape[::-1])
    return choose_precision(estimator.dtype, estimator.device_, sizes)


def _fit_together(members: list[tuple[Any, Problem]], products: str) -> None:
    """Train once for estimators that differ in the number of iterations alone, and store each one's snapshot."""
    first, problem = members[0]
    iterations = {estimator.iterations_ for estimator, _ in members}
    snapshots = train(problem, first.form, first.device_, DTYPES[first.dtype], products, iterations)
    for estimator, _ in members:
        estimator.weights_, estimator.alpha_, estimator.intercept_ = snapshots[estimator.iterations_]
        estimator.kernel_, estimator.dtype_ = "torch", products


def train(
    problem: Problem, form: str, device: str, dtype: torch.dtype, products: str, snapshots_at: set[int]
) -> dict[int, tuple[Array, Array, Array]]:
    """Return W (c, d), alpha (c,) and b (c,) after each of some numbers of iterations; see :class:`LPPlusPlus`.

    The parameters are W = w + alpha t, so that a step of w is a step of W, and alpha's gradient follows from W's:

        logits_c = f . W_c + b_c        dloss/dalpha_c = t_c . dloss/dW_c

    Parameters
    ----------
    problem : Problem
        Rows to learn from.
    form : {"paper", "released"}
        Whether alpha steps by its gradient at the current point, or by the sum of all gradients so far.
    device : str
        Where to train.
    dtype : torch.dtype
        Dtype of the parameters.
    products : str
        Name of the dtype of the products with all rows.
    snapshots_at : set of int
        Numbers of iterations after which the parameters are returned.
    """
    to: dict[str, Any] = {"device": device, "dtype": dtype}
    F, t = (torch.as_tensor(np.ascontiguousarray(v)).to(**to) for v in (problem.X, problem.class_embeddings))
    y = torch.as_tensor(problem.y).to(device)
    (n, d), c = F.shape, len(t)
    snapshots: dict[int, tuple[Array, Array, Array]] = {}
    with threads_for(n * c * d):
        text = F @ t.T  # (n, c)
        alpha = torch.full((c,), float(ALPHA_START * _mean_over_classes(text, problem.y)), **to)
        # F F^T and F^T F have the same largest eigenvalue; the smaller is factorised.
        gram = F @ F.T if n < d else F.T @ F
        if not torch.isfinite(gram).all():
            raise _unusable(F.dtype)
        w_step = torch.tensor([_step(4 * n, torch.linalg.eigvalsh(gram.double())[-1].item(), F.dtype)], **to)
        alpha_step = _step(n / 4, text.square().sum(0).max().item(), F.dtype)
        parameters = {
            "weights": (_sums(F, problem.y, c) + alpha[:, None] * t)[None],
            "offset": torch.zeros(1, c, **to),
        }
        W, b = parameters["weights"][0], parameters["offset"][0]
        # No logit scale, and nothing that holds weights to an anchor.
        hyper = {"logit_scale": torch.ones(1, **to), "decay": torch.zeros(1, **to)}
        shape = WeightsShape(cosines=False, offset=True)
        step = ClassWeightStep(shape, hyper, F.to(getattr(torch, products)), y, t)
        update = make_update("sgd", parameters, torch.zeros(1, **to))
        alpha_sum = torch.zeros_like(alpha)
        for iteration in range(1, max(snapshots_at) + 1):
            leave_if_given_up()
            _, gradients = step(parameters, None, with_losses=False)
            moves_alpha = iteration % ALPHA_EVERY == 0
            if moves_alpha or form == "released":
                alpha_gradient = (gradients["weights"][0] * t).sum(1)
                alpha_sum += alpha_gradient
            update(parameters, gradients, w_step)
            if moves_alpha:
                change = (alpha_sum if form == "released" else alpha_gradient) * -alpha_step
                alpha += change
                W.addcmul_(t, change[:, None])
            if iteration in snapshots_at:
                snapshots[iteration] = tuple(v.cpu().numpy().copy() for v in (W, alpha, b))  # type: ignore[assignment]
    return snapshots


def _step(numerator: float, curvature: float, dtype: torch.dtype) -> float:
    """Return the length of a gradient step, ``numerator`` over the largest ``curvature`` of the loss.

    A curvature of zero (rows of zeros have no gradient for w and alpha) is replaced by one, that of a single row of
    length one, so that b, which shares w's step, stays bounded.

    Raises
    ------
    InputError
        If features are so large or so small that the step is not a positive, finite number of the dtype.
    """
    step = numerator / curvature if curvature > 0 else numerator
    if not 0 < step < torch.finfo(dtype).max:
        raise _unusable(dtype)
    return step


def _unusable(dtype: torch.dtype) -> InputError:
    """Return the error for features that are too large or too small to learn from."""
    return InputError(f"lp++ cannot learn from features of this size in {dtype}; scale them, or set normalize=True")


def _sums(rows: torch.Tensor, y: NDArray[np.int64], n_classes: int) -> torch.Tensor:
    """Return the sums of rows (n, k) by class y (n,), (n_classes, k), always added in the same order."""
    if rows.device.type != "cpu":  # index_add_ adds in any order there
        sums: torch.Tensor = sums_by_class(rows, y, n_classes)
        return sums
    return rows.new_zeros(n_classes, rows.shape[1]).index_add_(0, torch.as_tensor(y), rows)


def _mean_over_classes(text: torch.Tensor, y: NDArray[np.int64]) -> torch.Tensor:
    """Return the mean of f_i . t_(y_i) over the rows of each class, averaged over the classes that have a row.

    ``text`` (n, c) has f_i . t_c, and ``y`` (n,) the class rows.
    """
    own = text.gather(1, torch.as_tensor(y).to(text.device)[:, None])  # (n, 1)
    counts = np.bincount(y, minlength=text.shape[1])
    seen = torch.as_tensor(np.flatnonzero(counts)).to(text.device)
    present = torch.as_tensor(counts[counts > 0]).to(text.device)
    return (_sums(own, y, text.shape[1])[:, 0][seen] / present).mean()
