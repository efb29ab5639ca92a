"""Tip-Adapter-F: Tip-Adapter whose keys are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cafe.kernels.cache_keys import KeysSizes
from cafe.kernels.fastest import choose_precision
from cafe.methods.base import Array, FewShotClassifier, Problem, unit_length
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Constraint, Number, seed_of
from cafe.methods.objectives.base import Placement, Result, TrainedClassifier, TrainingGroup
from cafe.methods.objectives.tip_adapter_f import KeysObjective, KeysShape
from cafe.methods.tip_adapter import TipAdapter
from cafe.training.trainer import Configuration, steps_for

METHOD = "tip-adapter-f"

# The released code's starting values, for alpha and beta, on ImageNet and most other data sets.
START = {"alpha": 1.17, "beta": 1.0}
EPS = 1e-4  # of AdamW, as released


@dataclass(eq=False, repr=False)
class TipAdapterF(TrainedClassifier):
    """Fine-tune the keys of Tip-Adapter: zero-shot logits plus votes of trained copies of the shots.

    ::

        logits = s f.W + alpha * sum_i exp( -beta (1 - f.k_i) ) [label_i = class]

    with f and W of unit length. The keys k_i start as the unit-length shots and are trained by cross-entropy;
    they are not scaled again. The values (one-hot labels) are frozen, for training them collapses (the paper's
    ablation). The result is that of the last epoch: the released code picks the best epoch on the test split.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    alpha : float or "auto", default=1.17
        Weight of the cache (the paper's residual ratio); at least 0. ``"auto"`` is searched after training, on
        rows that were not trained on.
    beta : float or "auto", default=1.0
        Sharpness of the affinity; above 0. ``"auto"`` as for alpha. Defaults are the released initial values.
    train_alpha : float, default=None
        alpha while the keys are trained; None for alpha itself, or 1.17 where that is ``"auto"``. The released
        code has one per data set: Caltech 3, DTD 2, EuroSAT 2, FGVC 5, Flowers 10, Cars 3, UCF 3, others 1.17.
    train_beta : float, default=None
        beta while the keys are trained; None for beta itself, or 1.0 where that is ``"auto"``.
    epochs : float, default=20
        Passes over the training rows; the released code has 100 for EuroSAT.
    batch_size : int, default=256
        Rows of a step.
    lr : float, default=1e-3
        Peak learning rate of a cosine schedule, of AdamW with eps 1e-4.
    weight_decay : float, default=0.01
        AdamW's default, which the released code inherits.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated; frozen.
    classes : array-like of shape (c,), default=None
        Label of each row of class_embeddings; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry; keys start, and queries are compared, at unit length either way.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``: where to train. Inference runs in NumPy.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of training; auto is float32, with products in bfloat16 where they were measured to be faster.
    random_state : int, default=None
        Seed of the batch order and of the folds of ``"auto"``; None draws one.

    Attributes
    ----------
    keys_ : ndarray of shape (n, d)
        Trained keys, sorted by class.
    segments_, seen_ : ndarray of shape (number of seen classes,)
        First key of each class that has one, and the rows of those classes.
    alpha_, beta_ : float
        The values used; as given, or chosen where ``"auto"``.
    loss_ : float
        Mean training loss over the last tenth of the steps.
    n_steps_ : int
        Optimiser steps taken.

    References
    ----------
    Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification (ECCV 2022), section 3.2;
    released main.py, run_tip_adapter_F.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> text = rng.normal(size=(3, 16))
    >>> y = np.arange(30) % 3
    >>> X = text[y] + rng.normal(size=(30, 16))
    >>> TipAdapterF(text, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    class_embeddings: ArrayLike | None = None
    alpha: float | str = 1.17
    beta: float | str = 1.0
    train_alpha: float | None = None
    train_beta: float | None = None
    epochs: float = 20
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.01
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    dtype: str = "auto"
    random_state: int | None = None
    alpha_: float = field(init=False)
    beta_: float = field(init=False)

    grid: ClassVar = TipAdapter.grid
    constraints: ClassVar[dict[str, Constraint]] = {
        "alpha": Number(0),
        "beta": Number(0, above=True),
        "train_alpha": Number(0, none=True),
        "train_beta": Number(0, above=True, none=True),
    }
    _trains_on_cosines = True

    # ------------------------------------------------------------------ learning

    def training_ratios(self) -> dict[str, float]:
        """Return the alpha and beta that the keys are trained with."""
        ratios = {}
        for name, start in START.items():
            final, own = getattr(self, name), getattr(self, f"train_{name}")
            ratios[name] = float(own if own is not None else start if isinstance(final, str) else final)
        return ratios

    def search(self, score: Callable[[list[Any]], list[float]]) -> Any:
        """Choose alpha and beta for keys that are trained with :meth:`training_ratios`; see the base class."""
        held = {f"train_{name}": value for name, value in self.training_ratios().items()}
        return FewShotClassifier.search(self.varied(**held), score)

    def _choose(self, problem: Problem) -> None:
        super()._choose(problem)
        self.alpha_, self.beta_ = float(self.alpha_), float(self.beta_)

    def _placement(self, problem: Problem) -> Placement:
        placement = super()._placement(problem)
        c, d = problem.class_embeddings.shape
        sizes = KeysSizes(min(self.batch_size, len(problem.rows)), d, c, len(problem.rows))
        return replace(placement, products=getattr(torch, choose_precision(self.dtype, placement.device, sizes)))

    @classmethod
    def _objective(cls, group: TrainingGroup) -> KeysObjective:
        """Return Tip-Adapter's loss as a function of its keys."""
        text = group.tensor(unit_length(group.base.class_embeddings))
        return KeysObjective(text, group.X, group.base.y, group.X.to(group.placement.products))

    def _configuration(self, problem: Problem, index: int) -> Configuration:
        """Return how the keys are trained; see the base class."""
        counts = np.bincount(problem.y, minlength=len(problem.class_embeddings))
        return Configuration(
            rows=problem.rows,
            random_state=seed_of(self),
            shape=KeysShape(tuple(counts.tolist())),
            hyper={**self.training_ratios(), "logit_scale": float(self.logit_scale)},
            steps=steps_for(self.epochs, len(problem.rows), self.batch_size),
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            optimizer="adamw",
            eps=EPS,
        )

    def _store(self, result: Result) -> None:
        """Keep the trained keys, and which class each belongs to."""
        self.keys_ = result.parameters["keys"]
        self.seen_, self.segments_ = np.unique(np.sort(result.problem.y), return_index=True)

    @classmethod
    def score_grid(cls, fits: Sequence[Any], X: Array, labels: NDArray[np.int64]) -> list[float] | None:
        """Return the accuracies of fits whose keys were trained once, with affinities computed once; None for others.

        Scores are Tip-Adapter's.
        """
        return TipAdapter.score_grid(fits, X, labels)

    # ------------------------------------------------------------------ inference

    def _logits(self, X: Array) -> Array:
        return scores.tip_adapter(self, X)
