"""StatA: classify a batch by its own clusters, each anchored to its text, so that few classes do no harm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from numpy.typing import ArrayLike

from cafe.arrays import double, in_dtype_of, kernel_name
from cafe.methods.base import Array, Problem, TransductiveClassifier, cosine_logits, unit_length
from cafe.methods.inputs.parameters import Constraint, Number
from cafe.solvers.anchored_mixture import solve_anchored

METHOD = "stat-a"


@dataclass(eq=False, repr=False)
class StatA(TransductiveClassifier):
    """Fit a Gaussian mixture, anchored to text, to the rows to be classified; TRANSDUCTIVE, for batches of any classes.

    ::

        mu_c = beta_c m_c + (1 - beta_c) t_c        beta_c = n_c / (n_c + alpha)

    and the like for variances: m_c is the mean of the n_c rows that look like class c, t_c its text. A class that is
    not in the batch stays at its text, where ``trans-clip`` moves it onto rows of other classes (all equations in
    solvers/anchored_mixture.py). With text, ``fit`` learns only which labels there are; every call of ``predict``
    solves anew for the rows that it is given. Its accuracy is not comparable with that of methods that classify one
    image at a time.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    alpha : float, default=1.0
        How many rows of a class weigh as much as its text; 1 in all experiments of the paper.
    neighbors : int, default=3
        Nearest rows of the batch that pull on each row.
    iterations : int, default=10
        Turns of means and variances.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry; they are compared as cosines either way.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``: where to compute, the scores of new rows too; ``"auto"`` takes
        a GPU where the problem is large enough to gain by it.

    Notes
    -----
    Written from the paper's equations, without its code. Those leave open how a likelihood of d dimensions is scaled
    against the text; here it is 1/50, as in TransCLIP, on whose mixture StatA stands.

    References
    ----------
    Zanella et al., Realistic Test-Time Adaptation of Vision-Language Models (CVPR 2025, arXiv 2501.03729), section on
    the statistical anchor: its penalty and its closed-form means and covariances.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    >>> StatA(np.eye(2)).fit(X, [0, 0, 1, 1]).predict(X[:2])
    array([0, 0])
    """

    class_embeddings: ArrayLike | None = None
    alpha: float = 1.0
    neighbors: int = 3
    iterations: int = 10
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"

    one_encoder: ClassVar[str] = "every class is anchored at its text, and the second encoder's features have none"
    constraints: ClassVar[dict[str, Constraint]] = {
        "alpha": Number(0, above=True),
        "neighbors": Number(1, whole=True),
        "iterations": Number(1, whole=True),
    }

    def learns_from_images(self, has_text: bool) -> bool:
        """Return whether training images change a prediction: only where class means stand in for text."""
        return not has_text

    def _fit_rows(self, problem: Problem) -> None:
        self.kernel_ = f"{kernel_name(self.device_)}, transductive"

    def for_classes(self, class_embeddings: ArrayLike, class_names: Sequence[str] | None = None) -> Self:
        """Return StatA over other classes; see the base class."""
        return self._with_embeddings(class_embeddings)

    def _logits(self, X: Array) -> Array:
        """Solve the anchored mixture for the batch X; return the logarithms of its assignments."""
        text = self._text_like(X)
        log_z = solve_anchored(
            unit_length(double(X)),
            unit_length(double(text)),
            double(cosine_logits(X, text, self.logit_scale)),
            float(self.alpha),
            self.neighbors,
            self.iterations,
        )
        logits: Array = in_dtype_of(log_z, X)
        return logits
