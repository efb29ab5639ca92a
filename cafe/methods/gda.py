"""GDA: Gaussian discriminant analysis on image features, added to zero-shot; closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.arrays import kernel_name, on_device, on_host
from cafe.methods.base import Array, FewShotClassifier, Problem, softmax, unit_length
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Choice, Constraint, Number
from cafe.methods.inputs.problem import widen
from cafe.methods.inputs.template_weights import TEMPLATE_CONSTRAINTS, embeddings_for
from cafe.protocol.selection import score_probabilities
from cafe.solvers.closed_forms import gaussian_path

METHOD = "gda"

ZERO_COVARIANCE = ("zero-shot", "total")


@dataclass(eq=False, repr=False)
class GDA(FewShotClassifier):
    """Model every class as a Gaussian with one shared covariance; nothing is trained.

    ::

        logits  = logit_scale * cos(f, t)  +  alpha (f W + b)
        W_c     = P mu_c                      b_c = log(1 / C) - mu_c P mu_c / 2
        P       = d ( (n - 1) S + shrinkage trace(S) I )^-1

    with mu_c the mean of class c, S the covariance of the n rows about their class means, C the number of classes
    with a row. Classes without a row keep the zero-shot logit plus the mean of the others' Gaussian part.
    Cost: one d x d factorisation, and one eigendecomposition for any number of shrinkages.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    alpha : float or "auto", default=0.1
        Weight of the Gaussian part. The paper chooses among the decades from 1e-4 to 1e2 on validation images; with
        one view per image the best is near 0.1, with ten near 1, since P does not grow with n as it should.
    shrinkage : float or "auto", default=1.0
        How much of the identity, in units of trace(S), is added to (n - 1) S; 1 is the published precision.
    zero_covariance : {"zero-shot", "total"}, default="zero-shot"
        What to do where S is zero up to rounding: one row per class, or copies of one. ``"zero-shot"`` leaves the
        Gaussian part out, which is what the published code's pseudo-inverse does at one shot (with copies of a row
        it inverts rounding noise). ``"total"`` takes S about the mean of all rows; it wants a smaller alpha (0.01).
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry, as published.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``: where to compute, the scores of new rows too; ``"auto"`` takes
        a GPU where the problem is large enough to gain by it.
    random_state : int, default=None
        Folds of ``"auto"``.
    template_weights : {"uniform", "timo"}, default="uniform"
        How a class's templates are averaged: as ``class_embeddings`` has them, or each by how near it is to the mean
        of the class's training images, softmax(template_gamma * cosine) (TIMO's image-guided text). The second
        learns from images; a class without one averages its templates.
    text_features : array-like of shape (m, c, d) or (p, d), default=None
        The templates, for ``"timo"``; or prompts written per class, with ``prompt_classes``. The command line takes
        both from the cache.
    prompt_classes : array-like of shape (p,), default=None
        Class row of each prompt.
    template_gamma : float, default=50.0
        Sharpness of the weights; 0 is uniform.

    Attributes
    ----------
    weights_ : ndarray of shape (c, d)
        alpha W.
    intercept_ : ndarray of shape (c,)
        alpha b.
    covariance_ : str
        ``"within"``, ``"total"`` or ``"none"``: what S was.
    alpha_, shrinkage_ : float
        The values used.

    References
    ----------
    Wang et al., A Hard-to-Beat Baseline for Training-Free CLIP-Based Adaptation (ICLR 2024);
    released main_few_shots.py, whose formulas these are. The shrunk precision is Kubokawa and Srivastava's.

    Li et al., Text and Image Are Mutually Beneficial (TIMO, AAAI 2025, arXiv 2412.11375): ``template_weights``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    >>> GDA(np.eye(2)).fit(X, [0, 0, 1, 1]).predict([[0.9, 0.3]])
    array([0])
    """

    class_embeddings: ArrayLike | None = None
    alpha: float | str = 0.1
    zero_covariance: str = "zero-shot"
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    random_state: int | None = None
    shrinkage: float | str = 1.0
    template_weights: str = "uniform"
    text_features: ArrayLike | None = None
    prompt_classes: ArrayLike | None = None
    template_gamma: float = 50.0

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "alpha": (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0),
        "shrinkage": (0.1, 0.3, 1.0, 3.0, 10.0),
    }
    constraints: ClassVar[dict[str, Constraint]] = {
        "alpha": Number(0),
        "shrinkage": Number(0, above=True, why="fewer rows than features leave S without an inverse"),
        "zero_covariance": Choice(ZERO_COVARIANCE),
        **TEMPLATE_CONSTRAINTS,
    }

    def _multiply_adds(self, n: int, d: int, c: int) -> float:
        return float(n + 10 * d) * d * d

    @classmethod
    def _fit_problems(cls, estimators: Sequence[Any], problems: Sequence[Problem]) -> None:
        """Fit several; those that learn from the same rows share one decomposition, whatever their shrinkages."""
        together: dict[tuple[Any, ...], list[tuple[Any, Problem]]] = {}
        for estimator, problem in zip(estimators, problems, strict=True):
            if estimator.template_weights == "timo":
                estimator.class_embeddings_ = embeddings_for(estimator, problem.X, problem.y)
            key = (problem.base, problem.rows.tobytes(), estimator.zero_covariance, estimator.device_)
            together.setdefault(key, []).append((estimator, problem))
        for members in together.values():
            first, problem = members[0]
            values = sorted({float(estimator.shrinkage_) for estimator, _ in members})
            models, source = gaussian_path(
                on_device(problem.X, first.device_), problem.y, len(first.classes_), values, first.zero_covariance
            )
            for estimator, _ in members:
                estimator.alpha_, estimator.shrinkage_ = float(estimator.alpha_), float(estimator.shrinkage_)
                weights, intercept = models[values.index(estimator.shrinkage_)]
                estimator.weights_ = np.asarray(estimator.alpha_ * weights, problem.base.X.dtype)
                estimator.intercept_ = np.asarray(estimator.alpha_ * intercept, problem.base.X.dtype)
                estimator.covariance_, estimator.kernel_ = source, kernel_name(estimator.device_)

    @classmethod
    def score_grid(cls, fits: Sequence[Any], X: Array, labels: NDArray[np.int64]) -> list[float] | None:
        """Return the accuracies of fits that share class embeddings, with text's logits made once; None else."""
        first = fits[0]
        if any(
            fit.class_embeddings_ is not first.class_embeddings_ or fit.logit_scale != first.logit_scale for fit in fits
        ):
            return None
        checked = np.asarray(widen(X))
        queries = on_device(unit_length(checked) if first.normalize else checked, first._scoring_device())
        text = scores.text_cosines(first, queries)  # (n, c)
        logits = (on_host(text + scores.linear(fit, queries)) for fit in fits)
        return [score_probabilities(fit, softmax(of_fit), labels) for fit, of_fit in zip(fits, logits, strict=True)]

    def _logits(self, X: Array) -> Array:
        return scores.gda(self, X)
