"""ProLIP: train the encoder's last linear map, held to where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cafe.errors import InputError
from cafe.methods.base import Array, FewShotClassifier, Problem, cosine_logits
from cafe.methods.class_residual import most_shots
from cafe.methods.problem import problems_of
from cafe.methods.prolip_parts import ProjectionObjective
from cafe.methods.side_by_side import check_numbers, fit_side_by_side, resolve_grid
from cafe.methods.training_runs import seed_of
from cafe.training.trainer import Configuration

METHOD = "prolip"

STRENGTHS = ("1/n", "1/n2")


class ProLIP(FewShotClassifier):
    """Train the visual projection W by cross-entropy, with a pull to its pretrained value W0; the rest is frozen.

    ::

        logits = logit_scale * cos(x W, t)          x features before the projection, W = W0 at the start
        loss   = mean CE + strength * |W - W0|^2

    Full batch, Adam, cosine. Trains as many numbers as the projection has.

    With ``projection`` given, ``X`` are features before the projection (``Split.projection_features`` of a cache
    that holds them) and are not scaled to length one. Without it ``X`` are image features and W0 is the identity:
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
        Precision of training; auto is float32.
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

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "lr": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8),
        "strength": (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 0.0),
    }

    def __init__(
        self,
        class_embeddings: ArrayLike | None = None,
        projection: ArrayLike | None = None,
        bias: ArrayLike | None = None,
        strength: float | str = "1/n",
        lr: float | str = 1e-5,
        steps: int = 300,
        logit_scale: float = 100.0,
        classes: ArrayLike | None = None,
        normalize: bool = True,
        device: str = "auto",
        dtype: str = "auto",
        random_state: int | None = None,
    ) -> None:
        self.class_embeddings = class_embeddings
        self.projection = projection
        self.bias = bias
        self.strength = strength
        self.lr = lr
        self.steps = steps
        self.logit_scale = logit_scale
        self.classes = classes
        self.normalize = normalize
        self.device = device
        self.dtype = dtype
        self.random_state = random_state

    def row_extras(self) -> dict[str, Any]:
        """Say which map was trained."""
        return {"trained_map": "identity on image features" if self.projection is None else "visual projection"}

    # ------------------------------------------------------------------ learning

    @classmethod
    def fit_grid(
        cls, estimators: Sequence[Any], X: ArrayLike, y: ArrayLike, rows: Sequence[NDArray[np.int64]] | None
    ) -> None:
        """Fit several; those with the same projection side by side."""
        groups: dict[Any, list[int]] = {}
        for i, one in enumerate(estimators):
            one._prepare()
            groups.setdefault(tuple(None if v is None else np.asarray(v).tobytes() for v in one._start()), []).append(i)
        for members in groups.values():
            chosen = None if rows is None else [rows[i] for i in members]
            cls._fit_same_start([estimators[i] for i in members], X, y, chosen)

    @classmethod
    def _fit_same_start(
        cls, estimators: list[Any], X: ArrayLike, y: ArrayLike, rows: list[NDArray[np.int64]] | None
    ) -> None:
        first = estimators[0]
        problems = problems_of(estimators, first._project(X), y, rows)
        if first.projection is not None:
            problems = _before_projection(problems, estimators, np.asarray(X), rows)
        for one, problem in zip(estimators, problems, strict=True):
            one.n_features_in_ = problem.base.X.shape[1]
            resolve_grid(one, problem)
            rule = {"1/n": 1.0, "1/n2": 2.0}.get(str(one.strength_))
            one.strength_ = float(one.strength_) if rule is None else float(most_shots(problem) ** -rule)
            one.lr_ = float(one.lr_)

        def objective_of(base: Any, members: list[Any], theirs: list[Problem], to: dict[str, Any]) -> Any:
            start = first._start()[0]
            d = base.class_embeddings.shape[1]
            W0 = np.eye(d) if start is None else np.asarray(start)
            b = np.zeros(d) if first.bias is None else np.asarray(first.bias)
            return ProjectionObjective(*(torch.as_tensor(np.array(v)).to(**to) for v in (W0, b, base.class_embeddings)))

        trained = fit_side_by_side(estimators, problems, objective_of, lambda one, p, place: one._configuration(p))
        for one, problem, result in zip(estimators, problems, trained, strict=True):
            change = result.parameters["change"].astype(problem.base.X.dtype)
            start = one._start()[0]
            one.projection_ = change + (np.eye(len(change)) if start is None else np.asarray(start)).astype(
                change.dtype
            )
            one.bias_ = (
                np.zeros(change.shape[1], change.dtype) if one.bias is None else np.asarray(one.bias, change.dtype)
            )

    def _configuration(self, problem: Problem) -> Configuration:
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

    def _start(self) -> tuple[ArrayLike | None, ArrayLike | None]:
        return self.projection, self.bias

    def _project(self, X: ArrayLike) -> ArrayLike:
        """Return X W0 + b where X are features before the projection; X itself without one."""
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

    def _prepare(self) -> None:
        super()._prepare()
        check_numbers(self, lr=0, steps=1)
        if self.strength not in STRENGTHS:
            check_numbers(self, strength=0)
        if self.projection is not None and np.ndim(self.projection) != 2:
            raise InputError(f"projection of ProLIP must be (width of X, d), but has shape {np.shape(self.projection)}")
        d = None if self.projection is None else np.shape(self.projection)[1]
        if self.bias is not None and np.shape(self.bias) != (d,):
            raise InputError(f"bias of ProLIP must be ({d},), as wide as the projection, but is {np.shape(self.bias)}")

    # ------------------------------------------------------------------ inference

    def logits(self, X: ArrayLike) -> Array:
        """Return the score of every class for every row; see the base class. X as in ``fit``."""
        normalize, self.normalize = self.normalize, self.normalize and self.projection is None
        try:
            return super().logits(X)
        finally:
            self.normalize = normalize

    def _logits(self, X: Array) -> Array:
        W, b = (v.astype(X.dtype, copy=False) for v in (self.projection_, self.bias_))
        return cosine_logits(X @ W + b, self.class_embeddings_.astype(X.dtype, copy=False), self.logit_scale)


def _before_projection(
    problems: list[Problem], estimators: list[Any], X: Array, rows: list[NDArray[np.int64]] | None
) -> list[Problem]:
    """Put the features before the projection in the place of the projected ones, which were checked."""
    bases: dict[int, Any] = {}
    for i, (one, problem) in enumerate(zip(estimators, problems, strict=True)):
        own = X if one.class_embeddings is not None or rows is None else X[rows[i]]
        if id(problem.base) not in bases:
            bases[id(problem.base)] = replace(problem.base, X=own.astype(problem.base.X.dtype))
    return [Problem(bases[id(problem.base)], problem.rows) for problem in problems]
