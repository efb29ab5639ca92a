"""Zero-shot CLIP: the class whose prompt is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from numpy.typing import ArrayLike

from cafe.arrays import kernel_name
from cafe.methods.base import Array, FewShotClassifier, Problem
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Constraint
from cafe.methods.inputs.template_weights import TEMPLATE_CONSTRAINTS, embeddings_for

METHOD = "zero-shot"


@dataclass(eq=False, repr=False)
class ZeroShot(FewShotClassifier):
    """Score every class by the cosine of image feature and class embedding; nothing is trained.

    ``fit`` learns which labels there are, and no more (unless it is to weigh templates). Without ``class_embeddings``
    the class means of the training features take the place of text, and the method is a nearest-class-mean
    classifier: rows made so say ``class-means``.

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
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``: where to compute, the scores of new rows too; ``"auto"`` takes
        a GPU where the problem is large enough to gain by it.

    References
    ----------
    Radford et al., Learning Transferable Visual Models From Natural Language Supervision
    (arXiv 2103.00020), section 3.1.2.

    Li et al., Text and Image Are Mutually Beneficial (TIMO, AAAI 2025, arXiv 2412.11375): ``template_weights``.

    Examples
    --------
    >>> import numpy as np
    >>> text = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> ZeroShot(text, classes=["cat", "dog"]).fit(text, ["cat", "dog"]).predict([[0.9, 0.1]])
    array(['cat'], dtype='<U3')
    """

    class_embeddings: ArrayLike | None = None
    classes: ArrayLike | None = None
    logit_scale: float = 100.0
    normalize: bool = True
    template_weights: str = "uniform"
    text_features: ArrayLike | None = None
    prompt_classes: ArrayLike | None = None
    template_gamma: float = 50.0
    device: str = "auto"

    constraints: ClassVar[dict[str, Constraint]] = {**TEMPLATE_CONSTRAINTS}

    def learns_from_images(self, has_text: bool) -> bool:
        """Return whether training images change a prediction: by class means, or by the weights of templates."""
        return not has_text or self.template_weights == "timo"

    def _fit_rows(self, problem: Problem) -> None:
        """Weigh templates by the training images if that was asked for; nothing else is learned."""
        if self.template_weights == "timo":
            self.class_embeddings_ = embeddings_for(self, problem.X, problem.y)
        self.kernel_ = kernel_name(self.device_)

    def for_classes(self, class_embeddings: ArrayLike, class_names: Sequence[str] | None = None) -> Self:
        """Return zero-shot over other classes; see the base class."""
        return self._with_embeddings(class_embeddings)

    def _logits(self, X: Array) -> Array:
        return scores.text_cosines(self, X)
