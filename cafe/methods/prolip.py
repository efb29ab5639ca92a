"""ProLIP: train the encoder's last linear map, held to where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cafe.errors import InputError
from cafe.kernels.fastest import choose_precision
from cafe.kernels.projection import ProjectionSizes
from cafe.methods.base import Array, Problem
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Constraint, Number, seed_of
from cafe.methods.inputs.problem import CheckedArrays, problems_of
from cafe.methods.objectives.base import Placement, Result, TrainedClassifier, TrainingGroup
from cafe.methods.objectives.prolip import ProjectionObjective
from cafe.training.trainer import Configuration

METHOD = "prolip"

# The paper's rules for the strength of the pull without validation: the power of the number of shots to divide by.
STRENGTHS = {"1/n": 1.0, "1/n2": 2.0}


@dataclass(eq=False, repr=False)
class ProLIP(TrainedClassifier):
    """Train the visual projection W by cross-entropy, with a pull to its pretrained value W0; the rest is frozen.

    ::

        logits = logit_scale * cos(x W, t)          x features before the projection, W = W0 at the start
        loss   = mean CE + strength * |W - W0|^2

    Full batch, Adam, cosine. Trains as many numbers as the projection has.

    With ``projection`` given, ``X`` are features before the projection (``Split.projection_features`` of a cache
    that holds them) and are not scaled to length estimator. Without it ``X`` are image features and W0 is the identity:
    the regularised linear adapter of the authors' repository, which every cache can have.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the projected training features.
    projection : array-like of shape (width of X, d), default=None
        W0; None for the identity.
    bias : array-like of shape (d,), default=None
        Added after the projection and frozen (ResNets have one); None for zero.
    strength : float, "1/n", "1/n2" or "auto", default="1/n"
        Of the pull; by default one over the number of shots, the paper's rule without validation.
    lr : float or "auto", default=1e-5
        Peak rate; the paper's without validation.
    steps : int, default=300
        Full-batch steps, as published; the published code shows another augmented view at each.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale class embeddings to length one on entry, and X where there is no ``projection``.
    device : str, default="auto"
        Where to train.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of training; auto is float32, with products in bfloat16 where they were measured to be faster.
    random_state : int, default=None
        Folds of ``"auto"``; a fit draws nothing.

    Attributes
    ----------
    projection_ : ndarray of shape (width of X, d)
        W.
    strength_, lr_ : float
        The values used.

    References
    ----------
    Fahes et al., Fine-Tuning CLIP's Last Visual Projector: A Few-Shot Cornucopia (arXiv 2410.05270);
    released methods/ProLIP.py and RegLinearAdapter.py.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.1], [0.1, 1.0]])
    >>> ProLIP(np.eye(3)[:2], projection=np.eye(3)[:2]).fit(X, [0, 1]).predict([[0.9, 0.3]])
    array([0])
    """

    class_embeddings: ArrayLike | None = None
    projection: ArrayLike | None = None
    bias: ArrayLike | None = None
    strength: float | str = "1/n"
    lr: float | str = 1e-5
    steps: int = 300
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    dtype: str = "auto"
    random_state: int | None = None
    strength_: float = field(init=False)
    lr_: float = field(init=False)

    one_encoder: ClassVar[str] = "it trains the projection of one image tower"
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "lr": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8),
        "strength": (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 0.0),
    }
    constraints: ClassVar[dict[str, Constraint]] = {
        "strength": Number(0, words=tuple(STRENGTHS)),
        "steps": Number(1, whole=True),
    }

    def row_extras(self) -> dict[str, Any]:
        """Return which map was trained: the visual projection, or an identity on image features."""
        return {"trained_map": "identity on image features" if self.projection is None else "visual projection"}

    # ------------------------------------------------------------------ learning

    @classmethod
    def fit_grid(
        cls, estimators: Sequence[Any], X: ArrayLike, y: ArrayLike, rows: Sequence[NDArray[np.int64]] | None
    ) -> None:
        """Fit several estimators; those with the same projection are trained side by side."""
        groups: dict[Any, list[int]] = {}
        for i, estimator in enumerate(estimators):
            estimator._check_parameters()
            start = (estimator.projection, estimator.bias)
            groups.setdefault(tuple(None if v is None else np.asarray(v).tobytes() for v in start), []).append(i)
        for members in groups.values():
            chosen = None if rows is None else [rows[i] for i in members]
            cls._fit_same_start([estimators[i] for i in members], X, y, chosen)

    @classmethod
    def _fit_same_start(
        cls, estimators: list[Any], X: ArrayLike, y: ArrayLike, rows: list[NDArray[np.int64]] | None
    ) -> None:
        """Fit estimators with the same projection and bias side by side."""
        problems = problems_of(estimators, estimators[0]._project(X), y, rows)
        if estimators[0].projection is not None:
            problems = _before_projection(problems, estimators, np.asarray(X), rows)
        for estimator, problem in zip(estimators, problems, strict=True):
            estimator.n_features_in_ = problem.base.X.shape[1]
            estimator._choose_device(problem)
            estimator._choose(problem)
        cls._fit_where_chosen(estimators, problems)

    def _choose(self, problem: Problem) -> None:
        """Choose lr and strength, and turn a strength such as ``"1/n"`` into a number."""
        super()._choose(problem)
        power = STRENGTHS.get(str(self.strength_))
        self.strength_ = float(self.strength_) if power is None else float(problem.most_shots**-power)
        self.lr_ = float(self.lr_)

    def _placement(self, problem: Problem) -> Placement:
        placement = super()._placement(problem)
        sizes = ProjectionSizes(len(problem.rows), problem.base.X.shape[1], *problem.class_embeddings.shape[::-1])
        products = choose_precision(self.dtype, placement.device, sizes)
        return replace(placement, products=getattr(torch, products))

    @classmethod
    def _objective(cls, group: TrainingGroup) -> ProjectionObjective:
        """Return the loss of a projection that starts at W0 and is pulled back to it."""
        first, text = group.estimators[0], group.base.class_embeddings
        W0 = np.eye(text.shape[1]) if first.projection is None else np.asarray(first.projection)
        b = np.zeros(text.shape[1]) if first.bias is None else np.asarray(first.bias)
        start, bias, embeddings = (group.tensor(np.array(v)) for v in (W0, b, text))
        return ProjectionObjective(start, bias, embeddings, group.placement.products)

    def _configuration(self, problem: Problem, index: int) -> Configuration:
        """Return how the projection is trained; see the base class."""
        return Configuration(
            rows=problem.rows,
            random_state=seed_of(self),
            shape="prolip",
            hyper={"strength": self.strength_, "logit_scale": self.logit_scale},
            steps=int(self.steps),
            batch_size=len(problem.rows),
            lr=self.lr_,
            weight_decay=0.0,
            optimizer="adamw",
            eps=1e-4,
        )

    def _store(self, result: Result) -> None:
        """Keep the trained projection and its bias."""
        change = result.parameters["change"].astype(result.problem.base.X.dtype)
        start = np.eye(len(change)) if self.projection is None else np.asarray(self.projection)
        self.projection_ = change + start.astype(change.dtype)
        self.bias_ = (
            np.zeros(change.shape[1], change.dtype) if self.bias is None else np.asarray(self.bias, change.dtype)
        )

    def _project(self, X: ArrayLike) -> ArrayLike:
        """Return X W0 + b where X are features before the projection; X itself without estimator."""
        if self.projection is None:
            return X
        W0, features = np.asarray(self.projection), np.asarray(X)
        if features.ndim != 2 or features.shape[1] != len(W0):
            raise InputError(
                f"projection of ProLIP takes features of width {len(W0)}, but X has shape {features.shape}; "
                "pass features before the projection (a cache has them where it was extracted with them)"
            )
        projected: Array = features.astype(np.result_type(features.dtype, np.float32)) @ W0
        return projected if self.bias is None else projected + np.asarray(self.bias)

    def _check_parameters(self) -> None:
        """Check shapes of projection and bias beside what the base class checks. Raises InputError."""
        super()._check_parameters()
        if self.projection is not None and np.ndim(self.projection) != 2:
            raise InputError(f"projection of ProLIP must be (width of X, d), but has shape {np.shape(self.projection)}")
        d = None if self.projection is None else np.shape(self.projection)[1]
        if self.bias is not None and np.shape(self.bias) != (d,):
            raise InputError(f"bias of ProLIP must be ({d},), as wide as the projection, but is {np.shape(self.bias)}")

    # ------------------------------------------------------------------ inference

    def _scales_rows(self) -> bool:
        return self.normalize and self.projection is None

    def _logits(self, X: Array) -> Array:
        return scores.prolip(self, X)


def _before_projection(
    problems: list[Problem], estimators: list[Any], X: Array, rows: list[NDArray[np.int64]] | None
) -> list[Problem]:
    """Return the problems, checked with projected features, with the features before the projection in their place."""
    bases: dict[CheckedArrays, CheckedArrays] = {}
    for i, (estimator, problem) in enumerate(zip(estimators, problems, strict=True)):
        own = X if estimator.class_embeddings is not None or rows is None else X[rows[i]]
        if problem.base not in bases:
            bases[problem.base] = replace(problem.base, X=own.astype(problem.base.X.dtype))
    return [Problem(bases[problem.base], problem.rows) for problem in problems]
