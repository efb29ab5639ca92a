"""auto: a trained residual on text and a Gaussian model of the images, mixed as the shots themselves say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from cafe.arrays import kernel_name
from cafe.methods.base import Problem
from cafe.methods.inputs.parameters import Choice, Constraint, Number, Seed, seed_of
from cafe.methods.mixture.experts import fit_residual
from cafe.methods.mixture.mixing import MixtureClassifier, mix_experts
from cafe.methods.objectives.base import DTYPES

METHOD = "auto"


@dataclass(eq=False, repr=False)
class Auto(MixtureClassifier):
    """The method to take when there is no reason for another: it chooses everything itself, on the shots alone.

    ::

        logits = a s cos(f, w_c) + g (f G_c + b_c)         a, g >= 0

    with s the scale of text that is likeliest on the shots, w TaskRes's class weights after a fixed number of steps
    from text at that scale, and (G, b) the Gaussian model of :class:`cafe.GDA`. a and g are those of least negative
    log-likelihood on held-out rows of the shots, pulled to a fixed mixture where shots are few. Where less than half of
    the classes have a second row, nothing can be held out: (G, b) is then the cosine with class means, both measured
    from the mean of all, and a and g are fixed. Without text the first part falls away. docs/auto.md argues the design.

    Where a second encoder has seen the images too (:meth:`cafe.features.Features.join`), its Gaussian model is a third
    part with a weight of its own, and text and residual are the first's.

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
    second_width : int, default=0
        How many columns, the last ones, are a second encoder's features; 0 where there is one encoder.

    Attributes
    ----------
    weights_ : ndarray of shape (c, d)
        Everything above, merged: the mixture is linear in f, of two encoders in both parts of f at unit length. Less
        the mean of all classes, as ``intercept_`` is.
    intercept_ : ndarray of shape (c,)
        Of the images' part.
    mixture_ : dict of str to float
        ``text_scale`` (s over ``logit_scale``) and ``residual`` (a), where there is text; ``images`` (g), and
        ``second_images`` of a second encoder.
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

    class_embeddings: ArrayLike | None = None
    folds: int = 4
    steps: int = 100
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    dtype: str = "auto"
    random_state: int | None = None
    second_width: int = 0

    constraints: ClassVar[dict[str, Constraint]] = {
        "folds": Number(2, whole=True),
        "steps": Number(1, whole=True),
        "dtype": Choice(tuple(DTYPES)),
        "random_state": Seed(),
    }

    def _multiply_adds(self, n: int, d: int, c: int) -> float:
        # The residual in every fold and in the end, and the shared covariance with its inverse.
        return float(2 * (self.folds + 1) * self.steps * min(256, n) * d * c + (n + d) * d * d)

    def _fit_rows(self, problem: Problem) -> None:
        """Fit the experts, weigh them on held-out rows, and merge them into one linear score."""
        rows = self._rows_by_encoder(problem)
        settings: dict[str, Any] = {
            "steps": self.steps,
            "logit_scale": rows.logit_scale,
            "device": self.device_,
            "dtype": self.dtype,
            "random_state": seed_of(self) if self.random_state is not None else 0,
        }
        scale = rows.text_scale(settings["random_state"])
        mixture = mix_experts(rows, rows.encoders, scale, self.folds, settings)
        self.evidence_, text_weights = mixture.evidence, None
        self.mixture_ = dict(zip(("images", "second_images"), mixture.of_images, strict=False))
        self.kernel_, self.dtype_ = kernel_name(self.device_), "float64"
        if rows.text is not None:
            residual = fit_residual(rows.first, rows.y, rows.text, scale * rows.logit_scale, settings)
            text_weights = mixture.of_text * residual
            self.mixture_ = {"text_scale": scale, "residual": mixture.of_text, **self.mixture_}
            self.kernel_, self.dtype_ = "torch", str(DTYPES[self.dtype]).removeprefix("torch.")
        self._store_merged(problem, np.concatenate(mixture.weights, axis=1), mixture.offset, text_weights, centred=True)

    def row_extras(self) -> dict[str, Any]:
        """Return the weights that were chosen, and the evidence for them."""
        return {"auto": super().row_extras()["mixture"]}
