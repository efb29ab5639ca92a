"""Tip-Adapter without training: zero-shot logits plus a cache of the few shots."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from cafe.errors import InputError
from cafe.methods.base import Array, FewShotClassifier, Problem, cosine_logits, unit_length

METHOD = "tip-adapter"


class TipAdapter(FewShotClassifier):
    """Add votes of similar training images to the zero-shot logits; nothing is trained.

    ::

        logits = s f.W + alpha * sum_i exp( -beta (1 - f.k_i) ) [label_i = class]

    with f, W and the keys k_i of unit length. The sum over keys of one class is a segment sum, since the
    values are one-hot. Cost: one product of queries and keys.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    alpha : float or "auto", default=1.17
        Weight of the cache (the paper's residual ratio); at least 0.
    beta : float or "auto", default=1.0
        Sharpness of the affinity; above 0. The defaults are the released code's initial values for ImageNet.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry; keys and queries are compared as cosines either way.
    random_state : int, default=None
        Folds of ``"auto"``.

    Attributes
    ----------
    keys_ : ndarray of shape (n, d)
        Unit-length training features, sorted by class.
    segments_ : ndarray of shape (number of seen classes,)
        First key of each class that has one.
    seen_ : ndarray of shape (number of seen classes,)
        Rows of the classes that have keys.
    alpha_, beta_ : float
        The values used; as given, or chosen by cross-validation on the training rows where ``"auto"``.

    References
    ----------
    Zhang et al., Tip-Adapter (ECCV 2022), equations 3 to 5; released main.py, utils.py.

    Examples
    --------
    >>> import numpy as np
    >>> text = np.array([[1.0, 0.1], [0.1, 1.0]])
    >>> model = TipAdapter(text, alpha=1.0, beta=5.5).fit(np.eye(2), [0, 1])
    >>> model.predict([[0.9, 0.2]])
    array([0])
    """

    # Logarithmic, and wide enough for the released per-dataset ranges: alpha to 50, beta to 50.
    grid: ClassVar = {
        "alpha": (0.1, 0.3, 0.6, 1.0, 1.17, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0),
        "beta": (0.1, 0.5, 1.0, 2.0, 3.5, 5.5, 8.0, 12.0, 20.0, 50.0),
    }

    def __init__(
        self,
        class_embeddings: ArrayLike | None = None,
        alpha: float | str = 1.17,
        beta: float | str = 1.0,
        logit_scale: float = 100.0,
        classes: ArrayLike | None = None,
        normalize: bool = True,
        random_state: int | None = None,
    ) -> None:
        self.class_embeddings = class_embeddings
        self.alpha = alpha
        self.beta = beta
        self.logit_scale = logit_scale
        self.classes = classes
        self.normalize = normalize
        self.random_state = random_state

    def _prepare(self) -> None:
        super()._prepare()
        for name, low in (("alpha", 0.0), ("beta", np.finfo(float).tiny)):
            value = getattr(self, name)
            if value == "auto":
                continue
            if isinstance(value, str) or not np.isfinite(value) or value < low:
                raise InputError(
                    f"{name} of tip-adapter must be a number not below {low:.0f}, or 'auto', but is {value!r}"
                )

    def _fit_rows(self, problem: Problem) -> None:
        from cafe.protocol.selection import resolve_automatic

        chosen = resolve_automatic(self, problem)
        self.alpha_, self.beta_ = float(chosen.alpha), float(chosen.beta)
        order = np.argsort(problem.y, kind="stable")
        self.keys_ = unit_length(problem.X[order])
        self.seen_, self.segments_ = np.unique(problem.y[order], return_index=True)
        self.kernel_ = "numpy"

    def _logits(self, X: Array) -> Array:
        logits = cosine_logits(X, self._entry_text(X.dtype), self.logit_scale)
        affinity = unit_length(X) @ self.keys_.astype(X.dtype, copy=False).T  # (queries, keys)
        votes = np.add.reduceat(np.exp(-self.beta_ * (1 - affinity)), self.segments_, axis=1)  # (queries, seen)
        logits[:, self.seen_] += self.alpha_ * votes
        return logits
