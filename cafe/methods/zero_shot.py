"""Zero-shot CLIP: the class whose prompt is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from numpy.typing import ArrayLike

from cafe.methods.base import Array, FewShotClassifier, Problem, cosine_logits

METHOD = "zero-shot"


class ZeroShot(FewShotClassifier):
    """Score every class by the cosine of image feature and class embedding; nothing is trained.

    ``fit`` only learns which labels there are. Without ``class_embeddings`` the class means of the training
    features take the place of text, and the method is a nearest-class-mean classifier: rows made so say
    ``class-means``.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; see DESIGN "The Python face".
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    normalize : bool, default=True
        Scale rows to length one on entry; changes nothing here, since the logits are cosines.

    References
    ----------
    Radford et al., Learning Transferable Visual Models From Natural Language Supervision
    (arXiv 2103.00020), section 3.1.2.

    Examples
    --------
    >>> import numpy as np
    >>> text = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> ZeroShot(text, classes=["cat", "dog"]).fit(text, ["cat", "dog"]).predict([[0.9, 0.1]])
    array(['cat'], dtype='<U3')
    """

    def __init__(
        self,
        class_embeddings: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        logit_scale: float = 100.0,
        normalize: bool = True,
    ) -> None:
        self.class_embeddings = class_embeddings
        self.classes = classes
        self.logit_scale = logit_scale
        self.normalize = normalize

    def _fit_rows(self, problem: Problem) -> None:
        self.kernel_ = "numpy"

    def for_classes(self, class_embeddings: ArrayLike, class_names: Sequence[str] | None = None) -> Self:
        """Return zero-shot over other classes; see the base class."""
        return self._with_embeddings(class_embeddings)

    def _logits(self, X: Array) -> Array:
        return cosine_logits(X, self._entry_text(X.dtype), self.logit_scale)
