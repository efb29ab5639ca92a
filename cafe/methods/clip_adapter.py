"""CLIP-Adapter: a bottleneck on top of frozen features, blended with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.errors import InputError, unknown_name
from cafe.kernels.optimizers import OPTIMIZERS
from cafe.methods.base import Array, FewShotClassifier, Problem, cosine_logits
from cafe.methods.clip_adapter_inference import adapted_text, blend, learned_ratio, trained_ratio
from cafe.methods.clip_adapter_parts import RATIO_MODES, AdapterObjective
from cafe.methods.many import fit_many
from cafe.methods.problem import problems_of
from cafe.protocol.selection import resolve_automatic

METHOD = "clip-adapter"

VARIANTS = ("image", "text", "both")
FORMS = ("paper", "released")


class CLIPAdapter(FewShotClassifier):
    """Train a small residual adapter on image features, text features, or both.

    ::

        A(x)   = ReLU(x W1) W2                 form "paper";  ReLU(ReLU(x W1) W2)  form "released"
        f*     = alpha A_image(f) + (1 - alpha) f
        W*     = beta  A_text(W)  + (1 - beta)  W
        logits = logit_scale  f*/|f*| . W*/|W*|

    trained by cross-entropy; encoders frozen. The blend comes before the L2 norm, as in the released code.
    alpha = 0 (image) and beta = 0 (text) are zero-shot exactly.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    variant : {"image", "text", "both"}, default="image"
        Which side has an adapter; image is the paper's default.
    alpha : float in 0..1 or {"auto", "scalar", "learned"}, default=0.2
        Image residual ratio, the weight of the ADAPTED feature. ``"auto"`` chooses among tenths by
        cross-validation on the training rows (or by a selection policy), ``"scalar"`` trains one number,
        ``"learned"`` trains a hypernetwork that gives every image its own (its design is ours, see docs/methods.md);
        both start at 0.2.
    beta : float in 0..1 or {"auto", "scalar", "learned"}, default=0.2
        Text residual ratio, the same for class embeddings.
    reduction : int, default=4
        Bottleneck width is max(1, d // reduction).
    form : {"paper", "released"}, default="paper"
        One ReLU as in the paper's equation, or a second one at the output as in the released code. The
        paper's is the default since a residual that can only add non-negative numbers cannot undo a feature.
    epochs : float, default=None
        Passes over the training rows; None for the default recipe, which is 313 optimiser steps whatever the
        number of rows, or 125 where classes have at most two rows on average.
    batch_size : int, default=256
        Rows of a step; the published setting is 32.
    lr : float, default=1e-3
        Peak learning rate of a cosine schedule.
    optimizer : {"adamw", "sgd"}, default="adamw"
        SGD has momentum 0.9.
    weight_decay : float, default=None
        As AdamW has it, times the learning rate: it pulls the adapter towards none, that is towards zero-shot. None
        for the default recipe: 0.01, or 10 where classes have at most two rows on average; with SGD the released
        configuration's 5e-4.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated; frozen.
    classes : array-like of shape (c,), default=None
        Label of each row of class_embeddings; None for 0 to c - 1.
    normalize : bool, default=True
        Scale features and class embeddings to length one on entry; False is the released code's behaviour.
    kernel : {"auto", "reference", "cpu", "triton"}, default="auto"
        What computes loss and gradients: plain torch with autograd, analytic gradients for a CPU, or Triton on CUDA.
        ``"auto"`` takes the fastest that is here; ``kernel_`` says what ran.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``: where to train. Inference runs in NumPy.
    dtype : {"auto", "float32", "float64", "bfloat16", "tf32"}, default="auto"
        Precision of training. ``"bfloat16"`` is that of matrix products alone; ``"auto"`` takes it on processors
        that gain by it and problems large enough, else float32. ``"tf32"`` rounds products' inputs on CUDA, kernel
        ``"triton"`` alone. ``dtype_`` says what ran.
    random_state : int, default=None
        Seed of initial weights and batch order; None draws one.

    Attributes
    ----------
    parameters_ : dict of str to ndarray
        ``image_down`` (d, h), ``image_up`` (h, d), ``text_down``, ``text_up``, and those of trained ratios.
    alpha_, beta_ : float
        Ratios used; the starting value where they are ``"learned"``.
    text_ : ndarray of shape (c, d)
        Adapted class embeddings.
    ratio_summary_ : dict of str to float
        Mean, standard deviation, least and greatest of every trained ratio: alpha over the training images, beta
        over the classes. Empty where both are given.
    loss_ : float
        Mean training loss over the last tenth of the steps.
    n_steps_ : int
        Optimiser steps taken.
    weight_decay_ : float
        Weight decay used.

    References
    ----------
    Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters (arXiv 2110.04544), section 3.2;
    released clip_adapter.py.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> text = rng.normal(size=(3, 16))
    >>> y = np.arange(30) % 3
    >>> X = text[y] + rng.normal(size=(30, 16))
    >>> CLIPAdapter(text, alpha=0.2, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    grid: ClassVar = {
        "alpha": tuple(round(0.1 * i, 1) for i in range(1, 10)),
        "beta": tuple(round(0.1 * i, 1) for i in range(1, 10)),
    }

    def __init__(
        self,
        class_embeddings: ArrayLike | None = None,
        variant: str = "image",
        alpha: float | str = 0.2,
        beta: float | str = 0.2,
        reduction: int = 4,
        form: str = "paper",
        epochs: float | None = None,
        batch_size: int = 256,
        lr: float = 1e-3,
        optimizer: str = "adamw",
        weight_decay: float | None = None,
        logit_scale: float = 100.0,
        classes: ArrayLike | None = None,
        normalize: bool = True,
        kernel: str = "auto",
        device: str = "auto",
        dtype: str = "auto",
        random_state: int | None = None,
    ) -> None:
        self.class_embeddings = class_embeddings
        self.variant = variant
        self.alpha = alpha
        self.beta = beta
        self.reduction = reduction
        self.form = form
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.logit_scale = logit_scale
        self.classes = classes
        self.normalize = normalize
        self.kernel = kernel
        self.device = device
        self.dtype = dtype
        self.random_state = random_state

    # ------------------------------------------------------------------ learning

    @classmethod
    def fit_grid(
        cls, estimators: Sequence[Any], X: ArrayLike, y: ArrayLike, rows: Sequence[NDArray[np.int64]] | None
    ) -> None:
        """Fit several side by side; see the base class."""
        problems = problems_of(estimators, X, y, rows)
        for estimator, problem in zip(estimators, problems, strict=True):
            estimator._prepare()
            estimator._resolve_ratios(problem)
        AdapterObjective.fit(estimators, problems)

    def _prepare(self) -> None:
        super()._prepare()
        for name, value, known in (
            ("variant", self.variant, VARIANTS),
            ("form", self.form, FORMS),
            ("optimizer", self.optimizer, OPTIMIZERS),
        ):
            if value not in known:
                raise unknown_name(f"{name} of clip-adapter", str(value), known)
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if value in RATIO_MODES or value == "auto":
                continue
            if isinstance(value, str) or not 0 <= value <= 1:
                raise InputError(
                    f"{name} of clip-adapter is the weight of the adapted feature, a number from 0 to 1, "
                    f"or 'auto', 'scalar' or 'learned', but is {value!r}"
                )
        for name, low in (("reduction", 1), ("batch_size", 1), ("lr", 0), ("weight_decay", 0)):
            given = getattr(self, name)
            if not (given is None and name == "weight_decay") and not given >= low:
                raise InputError(f"{name} of clip-adapter must be at least {low}, but is {given!r}")
        if self.epochs is not None and not self.epochs > 0:
            raise InputError(f"epochs of clip-adapter must be above 0, or None, but is {self.epochs!r}")

    def automatic(self) -> list[str]:
        """Return the ratios to be chosen; a ratio that the variant does not have is none of them."""
        # An unknown variant is refused by `_prepare`, with a sentence.
        used = {"image": ("alpha",), "text": ("beta",)}.get(self.variant, ("alpha", "beta"))
        return [name for name in super().automatic() if name in used]

    def search(self, score: Callable[[list[Any]], list[tuple[float, float]]]) -> Any:
        """Choose the ratios; where both are ``"auto"``, alpha with beta at its default, then beta with that alpha.

        18 candidates in place of 81: a few validation images cannot tell 81 apart, and would fit their noise.
        """
        if len(self.automatic()) < 2:
            return super().search(score)
        from sklearn.base import clone

        half = clone(self).set_params(beta=AdapterObjective.start)
        alpha = super(CLIPAdapter, half).search(score).alpha
        return super(CLIPAdapter, clone(self).set_params(alpha=alpha)).search(score)

    def _resolve_ratios(self, problem: Problem) -> None:
        chosen = resolve_automatic(self, problem, fit_many)
        # A ratio of the side without adapter may be left at "auto"; it is used by nothing.
        self.alpha_mode_, self.beta_mode_ = (
            value if value in RATIO_MODES else "fixed" for value in (chosen.alpha, chosen.beta)
        )
        self.alpha_, self.beta_ = (
            AdapterObjective.start if isinstance(value, str) else float(value) for value in (chosen.alpha, chosen.beta)
        )

    # ------------------------------------------------------------------ inference

    def for_classes(self, class_embeddings: ArrayLike, class_names: Sequence[str] | None = None) -> Self:
        """Return the same adapters over other classes: neither side's weights belong to a class."""
        other = self._with_embeddings(class_embeddings)
        other.text_ = adapted_text(other, other._entry_text(other.class_embeddings_.dtype))
        return other

    def row_extras(self) -> dict[str, Any]:
        """Return ``ratio_summary_``, which a row then holds; see the base class."""
        return dict(self.ratio_summary_)

    def _logits(self, X: Array) -> Array:
        return cosine_logits(self.adapt(X), self.text_.astype(X.dtype, copy=False), self.logit_scale)

    def ratios(self, X: Array) -> Array:
        """Return alpha of every row of checked, normalised features: (n, 1) where learned, else (1, 1)."""
        if self.alpha_mode_ == "learned":
            return learned_ratio(self.parameters_, "alpha", X, self._entry_text(X.dtype).mean(axis=0))
        value = trained_ratio(self.parameters_, "alpha") if self.alpha_mode_ == "scalar" else self.alpha_
        return np.full((1, 1), value, dtype=X.dtype)

    def adapt(self, X: Array) -> Array:
        """Return f* of checked, normalised features, (n, d), before the L2 norm."""
        if self.variant == "text":
            return X
        return blend(X, self.parameters_, "image", self.ratios(X), self.form)
