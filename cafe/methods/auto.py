"""auto: a trained residual on text and a Gaussian model of the images, mixed as the shots themselves say."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from cafe.methods.base import Array, FewShotClassifier, Problem
from cafe.methods.inputs.parameters import Choice, Constraint, Number, Seed, seed_of
from cafe.methods.mixture.experts import SCORED_ROWS, centred_means, distinct_rows, fit_residual, held_out_scores
from cafe.methods.mixture.gaussians import fit_gaussian
from cafe.methods.mixture.weights import pick_weights, text_scale, weight_without_evidence
from cafe.methods.objectives.base import DTYPES

METHOD = "auto"


class Auto(FewShotClassifier):
    """The method to take when there is no reason for another: it chooses everything itself, on the shots alone.

    ::

        logits = a s cos(f, w_c) + g (f G_c + b_c)         a, g >= 0

    with s the scale of text that is likeliest on the shots, w TaskRes's class weights after a fixed number of steps
    from text at that scale, and (G, b) the Gaussian model of :class:`cafe.GDA`. a and g are those of least negative
    log-likelihood on held-out rows of the shots, pulled to a fixed mixture where shots are few. Where less than half of
    the classes have a second row, nothing can be held out: (G, b) is then the cosine with class means, both measured
    from the mean of all, and a and g are fixed. Without text the first part falls away. docs/auto.md argues the design.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    folds : int, default=4
        At most; a class with fewer rows is in as many folds as it has rows.
    steps : int, default=100
        Of the residual's training, in each fold and at the end.
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
        Of the images' part.
    mixture_ : dict of str to float
        ``text_scale`` (s over ``logit_scale``) and ``residual`` (a), where there is text; ``images`` (g).
    evidence_ : dict
        What the choice rested on: number of held-out rows, and their accuracy and loss for the choice and, where there
        is text, for zero-shot.

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
        X, y = problem.X, problem.y
        text = problem.class_embeddings if self.embedding_source_ == "text" else None
        n_classes = len(problem.class_embeddings)
        settings: dict[str, Any] = {
            "steps": self.steps,
            "logit_scale": self.logit_scale,
            "device": self.device,
            "dtype": self.dtype,
            "random_state": seed_of(self) if self.random_state is not None else 0,
        }
        kept = distinct_rows(X, y)
        X, y = X[kept], y[kept]
        scored = np.random.default_rng(settings["random_state"]).permutation(len(y))[:SCORED_ROWS]
        scale = 1.0 if text is None else text_scale(self.logit_scale * (X[scored] @ text.T), y[scored])
        counts = np.bincount(y, minlength=n_classes)
        gaussian = fit_gaussian(X, y, n_classes) if 2 * np.sum(counts > 1) >= np.sum(counts > 0) else None
        if gaussian is None:
            weights, offset = centred_means(X, y, n_classes)
            images = weight_without_evidence(X[scored] @ weights.T + offset, y[scored], text is not None)
            mixture, self.evidence_ = np.array([1.0, images]), {"held_out": 0}
        else:
            weights, offset = gaussian.weights, gaussian.offset
            scores = held_out_scores(X, y, text, scale * self.logit_scale, gaussian, self.folds, settings)
            mixture, self.evidence_ = pick_weights(scores, len(y) / np.sum(counts > 0))
        weights, offset = mixture[-1] * weights, mixture[-1] * offset
        self.mixture_ = {"images": float(mixture[-1])}
        self.kernel_, self.device_, self.dtype_ = "numpy", "cpu", "float64"
        if text is not None:
            residual, self.device_ = fit_residual(X, y, text, scale * self.logit_scale, settings)
            weights = weights + mixture[0] * residual
            self.mixture_ = {"text_scale": scale, "residual": float(mixture[0]), **self.mixture_}
            self.kernel_, self.dtype_ = "torch", str(DTYPES[self.dtype]).removeprefix("torch.")
        self.weights_, self.intercept_ = (v.astype(problem.base.X.dtype) for v in (weights, offset))

    def chosen_on(self) -> str:
        """Return that weights are chosen on held-out rows of the shots, where there are any; see the base class."""
        return "cross-validation" if self.evidence_.get("held_out") else "nothing"

    def row_extras(self) -> dict[str, Any]:
        """Say what was chosen, and by what evidence."""
        return {"auto": {**self.mixture_, **self.evidence_}}

    def _logits(self, X: Array) -> Array:
        logits: Array = X @ self.weights_.astype(X.dtype, copy=False).T + self.intercept_.astype(X.dtype, copy=False)
        return logits
