"""auto: text, a trained residual and two Gaussian models, mixed as held-out rows of the shots say."""

from __future__ import annotations

from typing import Any, ClassVar

from numpy.typing import ArrayLike

from cafe.methods.base import Array, FewShotClassifier, Problem
from cafe.methods.inputs.parameters import Choice, Constraint, Number, Seed, seed_of
from cafe.methods.mixture.experts import EXPERTS, fit_experts, held_out_scores
from cafe.methods.mixture.weights import one_shot_mixture, pick_mixture
from cafe.methods.objectives.base import DTYPES

METHOD = "auto"


class Auto(FewShotClassifier):
    """The method to take when there is no reason for another: it chooses everything itself, on the shots alone.

    ::

        logits = a cos(f, t_c) + b cos(f, w_c) + g (f G_c + g_c) + h (f H_c + h_c)         a, b, g, h >= 0

    with t the text, w TaskRes's class weights after a fixed number of steps, (G, g) the Gaussian model of
    :class:`cafe.GDA`, and (H, h) the same with its covariance about the mean of all rows. The weights are those of
    least negative log-likelihood on held-out rows of the shots, shrunk to an equal mixture where there are few shots;
    where the mixture is less accurate there than zero-shot by more than a paired standard error, zero-shot is taken.
    With one shot per class there is nothing to hold out, and a fixed mixture is used. docs/auto.md argues the design
    and has the attempts.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    folds : int, default=4
        At most; a class with fewer rows is in as many folds as it has rows.
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
        Of the Gaussian parts.
    mixture_ : dict of str to float
        a, b, g and h, as ``text``, ``residual``, ``within`` and ``total``; text and residual times ``logit_scale``.
    evidence_ : dict
        What the choice rested on: number of held-out rows, their accuracy and loss for zero-shot and the choice.

    References
    ----------
    This project, docs/auto.md. Parts: Yu et al., TaskRes (CVPR 2023); Wang et al., GDA (ICLR 2024); stacking with
    weights that are not negative, Breiman (Machine Learning, 1996).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    >>> Auto(np.eye(2), random_state=0).fit(X, [0, 0, 1, 1]).predict([[0.9, 0.3]])
    array([0])
    """

    constraints: ClassVar[dict[str, Constraint]] = {
        "folds": Number(2, whole=True),
        "steps": Number(1, whole=True),
        "dtype": Choice(tuple(DTYPES)),
        "random_state": Seed(),
    }

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

    def _fit_rows(self, problem: Problem) -> None:
        text = problem.class_embeddings if self.embedding_source_ == "text" else None
        settings: dict[str, Any] = {
            "steps": self.steps,
            "logit_scale": self.logit_scale,
            "device": self.device,
            "dtype": self.dtype,
            "random_state": seed_of(self) if self.random_state is not None else 0,
        }
        X, y, n_classes = problem.X, problem.y, len(problem.class_embeddings)
        experts = fit_experts(X, y, problem.class_embeddings, settings)
        scores = held_out_scores(X, y, text, n_classes, self.folds, settings)
        if scores is None:
            mixture, self.evidence_ = one_shot_mixture(experts.logits(X), y, text is not None), {"held_out": 0}
        else:
            mixture, self.evidence_ = pick_mixture(scores, text is not None)
        self.mixture_ = dict(zip(EXPERTS, map(float, mixture), strict=True))
        weights, intercept = experts.merged(mixture)
        self.weights_, self.intercept_ = (v.astype(problem.base.X.dtype) for v in (weights, intercept))
        self.kernel_, self.device_ = "torch", experts.device
        self.dtype_ = str(DTYPES[self.dtype]).removeprefix("torch.")

    def chosen_on(self) -> str:
        """Return that weights are chosen on held-out rows of the shots, where there are any; see the base class."""
        return "cross-validation" if self.evidence_.get("held_out") else "nothing"

    def row_extras(self) -> dict[str, Any]:
        """Say what was chosen, and by what evidence."""
        return {"auto": {**self.mixture_, **self.evidence_}}

    def _logits(self, X: Array) -> Array:
        logits: Array = X @ self.weights_.astype(X.dtype, copy=False).T + self.intercept_.astype(X.dtype, copy=False)
        return logits
