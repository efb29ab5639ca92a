"""CLIP-Adapter: a bottleneck on top of frozen features, blended with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cafe.compute import TRAINING_DTYPES, choose_training_dtypes
from cafe.kernels.choose import KERNELS, choose_kernel, triton_products
from cafe.kernels.fastest import choose_cpu_step
from cafe.kernels.optimizers import OPTIMIZERS
from cafe.kernels.reference import START_RATIO, AdapterShape
from cafe.methods.base import Array, Problem, cosine_logits
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Choice, Constraint, Number, seed_of
from cafe.methods.inputs.problem import CheckedArrays
from cafe.methods.inputs.stored_rows import StoredRows, row_blocks
from cafe.methods.inputs.streamed import Streamed, mean_of
from cafe.methods.objectives.base import Placement, Result, TrainedClassifier, TrainingGroup
from cafe.methods.objectives.clip_adapter import AdapterObjective
from cafe.training.trainer import Configuration, Objective, steps_for

METHOD = "clip-adapter"

VARIANTS = ("image", "text", "both")
FORMS = ("paper", "released")
# Ratios that are trained.
RATIO_MODES = ("scalar", "learned")
# The default recipe: so many optimiser steps (Tip-Adapter-F's 20 epochs of batch 256 at 4,000 rows, ECCV 2022, section
# 4.1, counted in steps, since 20 epochs are 20 steps for 160 rows), and a weight decay that follows what the shots say
# of the text; chosen by benchmarks/studies/recipe_study.py, rule and data in README.md beside it.
STEPS = 313
DECAY, MOST_DECAY = 10.0, 100.0
# With ratios computed from the features, whose map the decay would shrink to a constant: the study had given ratios.
LEARNED_DECAY = 0.01
# Rows on which zero-shot is tested for the weight decay; more change nothing.
TESTED_ROWS = 2048
# Of the released configuration, whose optimiser is SGD; there it is an L2 penalty, and 10 would leave nothing.
SGD_DECAY = 5e-4


@dataclass(eq=False, repr=False)
class CLIPAdapter(TrainedClassifier):
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
        number of rows.
    batch_size : int, default=256
        Rows of a step; the published setting is 32.
    lr : float, default=1e-3
        Peak learning rate of a cosine schedule.
    optimizer : {"adamw", "sgd"}, default="adamw"
        SGD has momentum 0.9.
    weight_decay : float, default=None
        As AdamW has it, times the learning rate: it pulls the adapter towards none, that is towards zero-shot. None
        for the default recipe: 10 (h + 1) / (m + 1) / k, with h and m the training rows that the text alone gets right
        and wrong, k the rows of a class on average, and at most 100; 10 / k without text; 0.01 with a ratio
        ``"learned"``; with SGD the released configuration's 5e-4.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated; frozen.
    classes : array-like of shape (c,), default=None
        Label of each row of class_embeddings; None for 0 to c - 1.
    normalize : bool, default=True
        Scale features and class embeddings to length one on entry; False is the released code's behaviour.
    kernel : {"auto", "reference", "cpu", "cpu-direct", "cpu-folded", "cpu-projected", "cpu-compiled", "triton"}, \
            default="auto"
        What computes loss and gradients: plain torch with autograd, analytic gradients for a CPU, or Triton on CUDA.
        ``"auto"`` takes the fastest that is here, ``"cpu"`` the CPU's form that was timed to be fastest on this
        machine (``cafe/kernels/fastest.py``); ``kernel_`` says what ran. ``"cpu-compiled"`` needs passes that an
        installation builds where a C compiler is at hand. ``"cpu-folded"`` in bfloat16, which is never chosen for
        learned ratios, lets those of text drift by its rounding, if asked for.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``: where to train. Inference runs in NumPy.
    dtype : {"auto", "float32", "float64", "bfloat16", "tf32"}, default="auto"
        Precision of training. ``"bfloat16"`` is that of matrix products alone; ``"auto"`` takes it where a step of
        this size was timed to be faster with it on this machine, and on CUDA where the GPU has matrix units for it,
        else float32. ``"tf32"`` rounds products' inputs on CUDA, kernel ``"triton"`` alone. ``dtype_`` says what ran.
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

    class_embeddings: ArrayLike | None = None
    variant: str = "image"
    alpha: float | str = 0.2
    beta: float | str = 0.2
    reduction: int = 4
    form: str = "paper"
    epochs: float | None = None
    batch_size: int = 256
    lr: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float | None = None
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    kernel: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    random_state: int | None = None

    grid: ClassVar = {
        "alpha": tuple(round(0.1 * i, 1) for i in range(1, 10)),
        "beta": tuple(round(0.1 * i, 1) for i in range(1, 10)),
    }
    constraints: ClassVar[dict[str, Constraint]] = {
        "variant": Choice(VARIANTS),
        "alpha": Number(0, 1, words=RATIO_MODES, why="it is the weight of the adapted feature"),
        "beta": Number(0, 1, words=RATIO_MODES, why="it is the weight of the adapted feature"),
        "reduction": Number(1, whole=True),
        "form": Choice(FORMS),
        "epochs": Number(0, above=True, none=True),
        "optimizer": Choice(tuple(OPTIMIZERS)),
        "weight_decay": Number(0, none=True),
        "kernel": Choice(KERNELS),
        "dtype": Choice(TRAINING_DTYPES),
    }

    # ------------------------------------------------------------------ learning

    def automatic(self) -> list[str]:
        """Return the names of the ratios that are to be chosen and that the variant has."""
        # An unknown variant is refused by `fit`, with a sentence.
        used = {"image": ("alpha",), "text": ("beta",)}.get(self.variant, ("alpha", "beta"))
        return [name for name in super().automatic() if name in used]

    def search(self, score: Callable[[list[Any]], list[float]]) -> Any:
        """Choose the ratios; where both are ``"auto"``, alpha with beta at its default, then beta with that alpha.

        18 candidates in place of 81: a few validation images cannot tell 81 apart, and would fit their noise.
        """
        if len(self.automatic()) < 2:
            return super().search(score)
        from sklearn.base import clone

        with_default_beta = clone(self).set_params(beta=START_RATIO)
        alpha = super(CLIPAdapter, with_default_beta).search(score).alpha
        return super(CLIPAdapter, clone(self).set_params(alpha=alpha)).search(score)

    def _choose(self, problem: Problem) -> None:
        """Choose the ratios that are ``"auto"``, and set the mode of each: fixed, scalar or learned."""
        super()._choose(problem)
        for name in ("alpha", "beta"):
            value = getattr(self, f"{name}_")
            # A ratio of the side without adapter may be left at "auto"; it is used by nothing.
            setattr(self, f"{name}_mode_", value if value in RATIO_MODES else "fixed")
            setattr(self, f"{name}_", START_RATIO if isinstance(value, str) else float(value))

    def _configuration(self, problem: Problem, index: int = 0) -> Configuration:
        """Return how the adapters are trained, with the default recipe where nothing is given."""
        n, d = len(problem.rows), problem.base.X.shape[1]
        steps = STEPS if self.epochs is None else steps_for(self.epochs, n, self.batch_size)
        decay = self.weight_decay
        if decay is None and self.optimizer == "sgd":
            decay = SGD_DECAY
        elif decay is None and "learned" in (self.alpha_mode_, self.beta_mode_):
            decay = LEARNED_DECAY
        elif decay is None:
            decay = default_decay(problem.y, self._text_is_right(problem))
        return Configuration(
            rows=problem.rows,
            random_state=seed_of(self),
            shape=AdapterShape(self.variant, self.form, max(1, d // self.reduction), self.alpha_mode_, self.beta_mode_),
            hyper={"alpha": self.alpha_, "beta": self.beta_, "logit_scale": self.logit_scale},
            steps=steps,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=decay,
            optimizer=self.optimizer,
        )

    def _text_is_right(self, problem: Problem) -> NDArray[np.bool_] | None:
        """Return whether zero-shot classifies each training row (a sample of many) right; None without text."""
        if self.embedding_source_ != "text":
            return None
        rows = problem.rows
        if len(rows) > TESTED_ROWS:
            rows = rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:TESTED_ROWS])]
        # Candidates of a search differ in what is trained, not in what text says of their rows.
        key, shared = ("right by text", rows.tobytes()), problem.base.shared
        if key not in shared:
            X, W = problem.base.X, problem.class_embeddings
            # In blocks, because rows on disk are never read as a whole.
            best = [cosine_logits(X[rows[part]], W, 1.0).argmax(axis=1) for part in row_blocks(X, len(rows))]
            shared[key] = np.concatenate(best) == problem.base.y[rows]
        right: NDArray[np.bool_] = shared[key]
        return right

    def _multiply_adds(self, n: int, d: int, c: int) -> float:
        """Return an estimate of what training costs; see the base class."""
        h, b = max(1, d // self.reduction), min(n, self.batch_size)
        rows = b * STEPS if self.epochs is None else n * self.epochs
        in_text = c * rows / b if self.variant != "image" else 0
        return float(3.0 * d * (rows * c + 2 * h * (rows + in_text)))

    def _placement(self, problem: Problem) -> Placement:
        """Choose kernel and precision for the problem on its device."""
        device = self.device_
        kernel = choose_kernel(self.kernel, device)
        sizes = AdapterObjective(torch.empty(1, *problem.base.class_embeddings.shape, device="meta"))
        wanted = triton_products(self.dtype, device) if kernel == "triton" else self.dtype
        dtype, products = choose_training_dtypes(wanted, kernel)
        if kernel.startswith("cpu"):
            step = sizes.sizes(self._configuration(problem))
            n, in_memory = len(problem.base.y), not isinstance(problem.base.X, StoredRows)
            kernel, precision = choose_cpu_step(kernel, self.dtype, step, n, in_memory=in_memory)
            products = getattr(torch, precision)
        return Placement(device, dtype, kernel, products, "tf32" if self.dtype == "tf32" else "ieee")

    @classmethod
    def _features(cls, base: CheckedArrays, placement: Placement) -> Tensor:
        """Return the rows that the trainer gets; none where they stay on disk and each step reads its own."""
        if stays_on_disk(base, placement):
            return torch.empty((0, base.X.shape[1]), dtype=placement.dtype, device=placement.device)
        return super()._features(base, placement)

    @classmethod
    def _objective(cls, group: TrainingGroup) -> Objective:
        """Return the adapters' loss; where features stay on disk, one that reads each batch from there."""
        stored, placement = group.base.X, group.placement
        products = placement.dtype if placement.products is None else placement.products
        objective = AdapterObjective(
            group.tensor(group.base.class_embeddings)[None],
            placement.kernel,
            group.X.to(products),
            placement.precision,
        )
        if stays_on_disk(group.base, placement) and isinstance(stored, StoredRows):
            return Streamed(objective, stored, products)
        return objective

    def _store(self, result: Result) -> None:
        """Keep the trained adapters, the adapted text and a summary of trained ratios."""
        self.parameters_ = result.parameters
        self.weight_decay_ = result.configuration.weight_decay
        for name in ("alpha", "beta"):
            if getattr(self, f"{name}_mode_") == "scalar" and f"{name}_bias" in self.parameters_:
                setattr(self, f"{name}_", float(scores.trained_ratio(self.parameters_, name)))
        rows, text = result.problem.selected, result.problem.class_embeddings
        # In blocks where features are on disk, up to rounding the same.
        mean = mean_of(rows).astype(rows.dtype) if isinstance(rows, StoredRows) else rows.mean(axis=0)
        self.feature_mean_ = mean
        self.text_ = self._adapted_text(text)
        self.ratio_summary_ = self._ratio_summary(rows, text)

    # ------------------------------------------------------------------ inference

    def for_classes(self, class_embeddings: ArrayLike, class_names: Sequence[str] | None = None) -> Self:
        """Return the same adapters over other classes: neither side's weights belong to a class."""
        other = self._with_embeddings(class_embeddings)
        other.text_ = other._adapted_text(other._entry_text(other.class_embeddings_.dtype))
        return other

    def row_extras(self) -> dict[str, Any]:
        """Return ``ratio_summary_``, which a row then holds; see the base class."""
        return dict(self.ratio_summary_)

    def _logits(self, X: Array) -> Array:
        return scores.clip_adapter(self, X)

    def ratios(self, X: Array) -> Array:
        """Return alpha of every row of checked, normalised features: (n, 1) where learned, else (1, 1)."""
        return scores.image_ratios(self, X)

    def adapt(self, X: Array) -> Array:
        """Return f* of checked, normalised features, (n, d), before the L2 norm."""
        return scores.adapted_rows(self, X)

    def _adapted_text(self, text: Array) -> Array:
        """Return W* of class embeddings as they enter the method, (c, d), before the L2 norm."""
        if self.variant == "image":
            return text
        return scores.blend(text, self.parameters_, "text", self._text_ratios(text), self.form)

    def _text_ratios(self, text: Array) -> Array:
        """Return beta of every class embedding: (c, 1) where learned, else (1, 1)."""
        if self.beta_mode_ == "learned":
            return scores.learned_ratio(
                self.parameters_, "beta", text, self.feature_mean_.astype(text.dtype, copy=False)
            )
        return np.full((1, 1), self.beta_, dtype=text.dtype)

    def _ratio_summary(self, rows: Array | StoredRows, text: Array) -> dict[str, float]:
        """Return mean and spread of every trained ratio: alpha over training images, beta over classes.

        Keys ``alpha_mean``, ``alpha_std``, ``alpha_min``, ``alpha_max``, and the same of beta; none for given ratios.
        """
        values: dict[str, Array] = {}
        if self.variant != "text" and self.alpha_mode_ != "fixed":
            values["alpha"] = np.concatenate([self.ratios(rows[part]) for part in row_blocks(rows)])
        if self.variant != "image" and self.beta_mode_ != "fixed":
            values["beta"] = self._text_ratios(text)
        kinds: dict[str, Callable[[Array], Any]] = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
        return {f"{name}_{kind}": float(of(v)) for name, v in values.items() for kind, of in kinds.items()}


def stays_on_disk(base: CheckedArrays, placement: Placement) -> bool:
    """Return whether each training step reads its rows from where they are stored: on a CPU, but not on a GPU."""
    return isinstance(base.X, StoredRows) and not placement.device.startswith("cuda")


def default_decay(y: NDArray[np.int64], right: NDArray[np.bool_] | None) -> float:
    """Return the default recipe's weight decay: 10 / k times the odds of text on the training rows, at most 100.

    Text never saw the rows, so how many of them it gets right is honest evidence of how much there is to gain; the
    more rows a class has, k on average, the more they may say against it. Above 100 the adapter is none already.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Labels.
    right : ndarray of bool or None
        Whether text is right about a row, for all or some of them; None without text: class means that stand in for it
        did see the rows, and get even odds.

    Examples
    --------
    >>> y = np.repeat([0, 1], 4)
    >>> default_decay(y, None), default_decay(y, np.arange(8) > 0), default_decay(y, np.arange(8) > 8)
    (2.5, 10.0, 0.2777777777777778)
    """
    odds = 1.0 if right is None else (np.sum(right) + 1) / (np.sum(~right) + 1)
    return float(min(DECAY * odds * len(np.unique(y)) / len(y), MOST_DECAY))
