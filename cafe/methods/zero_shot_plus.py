"""Zero-shot of one encoder plus a classifier on the features of another, weighted by evidence in the shots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import ArrayLike

from cafe.arrays import kernel_name
from cafe.methods.base import Problem
from cafe.methods.inputs.parameters import Constraint, Number, Seed, seed_of
from cafe.methods.mixture.mixing import MixtureClassifier, mix_experts

METHOD = "zero-shot-plus"


@dataclass(eq=False, repr=False)
class ZeroShotPlus(MixtureClassifier):
    """Text names the classes through one encoder, and a second one that sees better, but has no text, learns the shots.

    ::

        logits = a s cos(f1, t_c) + g (f2 G_c + b_c)         a, g >= 0

    with f1 and f2 the features of an image by both encoders, s the scale of text t that is likeliest on the shots, and
    (G, b) the Gaussian model of :class:`cafe.GDA` on f2. a and g are those of least negative log-likelihood on held-out
    rows of the shots, pulled to a fixed mixture where shots are few, as :class:`cafe.Auto` stacks its experts; where
    less than half of the classes have a second row, (G, b) is the cosine with centred class means, and a and g are
    fixed. Without text the first part falls away; with one encoder f2 is f1.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class, zeros in the columns of the second encoder; None for class means of the training features.
    folds : int, default=4
        At most; a class with fewer rows is in as many folds as it has rows.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated; of two encoders sqrt(2) times as large.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry.
    random_state : int, default=None
        Seed of folds.
    second_width : int, default=0
        How many columns, the last ones, are a second encoder's features; 0 where there is one encoder.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``: where to compute, the scores of new rows too; ``"auto"`` takes
        a GPU where the problem is large enough to gain by it.

    Attributes
    ----------
    weights_ : ndarray of shape (c, d)
        Everything above, merged: linear in f1 and f2 at unit length.
    intercept_ : ndarray of shape (c,)
        g b.
    mixture_ : dict of str to float
        ``text_scale`` (s over ``logit_scale``) and ``text`` (a), where there is text; ``images`` (g).
    evidence_ : dict
        What the choice rested on, as of :class:`cafe.Auto`.

    References
    ----------
    The idea is that of Tang et al., AMU-Tuning (CVPR 2024, arXiv 2404.08958): zero-shot logits of a CLIP plus those of
    a classifier on features of another encoder. There the classifier is trained by gradients and weighted by the
    kurtosis of CLIP's logits, image by image; here it is in closed form and weighted once, by held-out rows.

    Examples
    --------
    Two columns of an encoder with text, and two of one without:

    >>> import numpy as np
    >>> X = np.array([[1, 0.9, 1, 0.1], [1, 0.8, 1, 0.2], [0.9, 1, 0.1, 1], [0.8, 1, 0.2, 1]])
    >>> text = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    >>> ZeroShotPlus(text, second_width=2, random_state=0).fit(X, [0, 0, 1, 1]).predict([[1, 1, 0.1, 1]])
    array([1])
    """

    class_embeddings: ArrayLike | None = None
    folds: int = 4
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    random_state: int | None = None
    second_width: int = 0
    device: str = "auto"

    constraints: ClassVar[dict[str, Constraint]] = {
        "folds": Number(2, whole=True),
        "random_state": Seed(),
    }

    def _fit_rows(self, problem: Problem) -> None:
        """Fit the model of the images by the last encoder, weigh it and text, and merge both into one linear score."""
        rows = self._rows_by_encoder(problem)
        seed = seed_of(self) if self.random_state is not None else 0
        settings = {"logit_scale": rows.logit_scale, "random_state": seed, "device": self.device_}
        scale = rows.text_scale(seed)
        mixture = mix_experts(rows, rows.encoders[-1:], scale, self.folds, settings, residual=False)
        self.evidence_, text_weights = mixture.evidence, None
        self.mixture_ = {"images": mixture.of_images[0]}
        if rows.text is not None:
            text_weights = mixture.of_text * scale * rows.logit_scale * rows.text
            self.mixture_ = {"text_scale": scale, "text": mixture.of_text, **self.mixture_}
        self._store_merged(problem, mixture.weights[0], mixture.offset, text_weights)
        self.kernel_, self.dtype_ = kernel_name(self.device_), "float64"
