"""auto: text, a trained residual and a Gaussian model, mixed as cross-validation on the shots says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.methods.auto_parts import Mixture, fit_experts, held_out_scores, pick_mixture
from cafe.methods.base import Array, FewShotClassifier, Problem
from cafe.methods.problem import problems_of
from cafe.methods.side_by_side import DTYPES, check_numbers, seed_of

METHOD = "auto"


class Auto(FewShotClassifier):
    """The method to take when there is no reason for another: it chooses everything itself, on the shots alone.

    ::

        logits = tau ( logit_scale * ( (1 - rho) cos(f, t_c) + rho cos(f, w_c) )  +  alpha (f G_c + g_c) )

    with t the text, w TaskRes's class weights after a fixed number of steps, and (G, g) the Gaussian model of
    :class:`cafe.GDA`. rho, alpha and tau are those of least negative log-likelihood on held-out folds of the shots,
    shrunk to zero-shot: another mixture than rho = alpha = 0 is taken only where it is no less accurate on the folds,
    and the Gaussian part only where it lowers the likelihood loss by a paired standard error. With one shot per class
    there is nothing to hold out, and a fixed mixture is used. docs/auto.md argues the design and has the attempts.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    folds : int, default=4
        At most; each class needs a row in every fold.
    steps : int, default=100
        Of the residual, in each fold and at the end.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry.
    device : str, default="auto"
        Where to train.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of training; auto is float32.
    random_state : int, default=None
        Seed of folds and batch order.

    Attributes
    ----------
    weights_ : ndarray of shape (c, d)
        Everything above, merged: the mixture is linear in f.
    intercept_ : ndarray of shape (c,)
        Of the Gaussian part.
    rho_, alpha_, tau_ : float
        The mixture.
    evidence_ : dict
        What the choice rested on: number of held-out rows, their accuracy and loss for zero-shot and the choice.

    References
    ----------
    This project, docs/auto.md. Parts: Yu et al., TaskRes (CVPR 2023); Wang et al., GDA (ICLR 2024); temperature on
    held-out rows, Guo et al. (ICML 2017).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    >>> Auto(np.eye(2), random_state=0).fit(X, [0, 0, 1, 1]).predict([[0.9, 0.3]])
    array([0])
    """

    def __init__(
        self,
        class_embeddings: ArrayLike | None = None,
        folds: int = 4,
        steps: int = 100,
        logit_scale: float = 100.0,
        classes: ArrayLike | None = None,
        normalize: bool = True,
        device: str = "auto",
        dtype: str = "auto",
        random_state: int | None = None,
    ) -> None:
        self.class_embeddings = class_embeddings
        self.folds = folds
        self.steps = steps
        self.logit_scale = logit_scale
        self.classes = classes
        self.normalize = normalize
        self.device = device
        self.dtype = dtype
        self.random_state = random_state

    @classmethod
    def fit_grid(
        cls, estimators: Sequence[Any], X: ArrayLike, y: ArrayLike, rows: Sequence[NDArray[np.int64]] | None
    ) -> None:
        """Fit several; see the base class."""
        for one, problem in zip(estimators, problems_of(estimators, X, y, rows), strict=True):
            one._prepare()
            one._fit_rows(problem)

    def _prepare(self) -> None:
        super()._prepare()
        check_numbers(self, folds=2, steps=1)

    def _fit_rows(self, problem: Problem) -> None:
        text = problem.class_embeddings if self.embedding_source_ == "text" else None
        settings: dict[str, Any] = {
            "steps": self.steps,
            "logit_scale": self.logit_scale,
            "device": self.device,
            "dtype": self.dtype,
            "random_state": seed_of(self) if self.random_state is not None else 0,
        }
        scores = held_out_scores(problem.X, problem.y, text, self.folds, settings)
        mixture, self.evidence_ = pick_mixture(scores)
        self.rho_, self.alpha_, self.tau_ = mixture.rho, mixture.alpha, mixture.tau
        experts = fit_experts(problem.X, problem.y, problem.class_embeddings, settings)
        weights, intercept = experts.merged(Mixture(self.rho_, self.alpha_, self.tau_))
        self.weights_, self.intercept_ = (v.astype(problem.base.X.dtype) for v in (weights, intercept))
        self.kernel_, self.device_ = "torch", experts.device
        self.dtype_ = str(DTYPES[self.dtype]).removeprefix("torch.")

    def row_extras(self) -> dict[str, Any]:
        """Say what was chosen, and by what evidence."""
        return {"auto": {"rho": self.rho_, "alpha": self.alpha_, "tau": self.tau_, **self.evidence_}}

    def _logits(self, X: Array) -> Array:
        logits: Array = X @ self.weights_.astype(X.dtype, copy=False).T + self.intercept_.astype(X.dtype, copy=False)
        return logits
