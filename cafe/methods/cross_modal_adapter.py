"""Cross-modal adapter: an adapter shared by images and text, and a linear head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import ArrayLike

from cafe.methods.base import Array, Problem
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Constraint, Number
from cafe.methods.objectives.cross_modal_linear_probe import CrossModalClassifier

METHOD = "cross-modal-adapter"


@dataclass(eq=False, repr=False)
class CrossModalAdapter(CrossModalClassifier):
    """Train CLIP-Adapter's bottleneck on image features and class embeddings alike, with a head that starts at text.

    ::

        A(x)   = alpha ReLU(ReLU(x W1) W2) + (1 - alpha) x
        logits = logit_scale * A(x) . w_c     x an image feature or a class embedding; w_c = t_c at the start

    by cross-entropy and AdamW on batches that are half images and half class embeddings; encoders frozen. Nothing
    is scaled to length one after entry. Trains 2 d (d / reduction) + c d numbers.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    alpha : float in 0..1, default=0.2
        Residual ratio, as published.
    reduction : int, default=4
        Bottleneck width is max(1, d // reduction).
    iterations : int or "auto", default=500
        Optimiser steps; the published search keeps the best of up to 12,800 on validation images.
    batch_size : int, default=8
        Rows of a step, half of them text.
    lr : float or "auto", default=1e-4
        Peak rate; 50 steps at 1e-5, then cosine.
    weight_decay : float or "auto", default=1e-3
        AdamW's.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry, as published.
    device : str, default="auto"
        Where to train.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of training; auto is float32.
    random_state : int, default=None
        Seed of initial weights, of the batch order and of the folds of ``"auto"``.

    Attributes
    ----------
    parameters_ : dict of str to ndarray
        ``down`` (d, h), ``up`` (h, d), ``head`` (c, d).

    References
    ----------
    Lin et al. (CVPR 2023), cross-modal adapter; released engine/model/head.py and logit.py.

    Examples
    --------
    >>> import numpy as np
    >>> text = np.eye(3)
    >>> CrossModalAdapter(text, random_state=0).fit(text, [0, 1, 2]).predict([[0.1, 0.9, 0.3]])
    array([1])
    """

    class_embeddings: ArrayLike | None = None
    alpha: float = 0.2
    reduction: int = 4
    iterations: int | str = 500
    batch_size: int = 8
    lr: float | str = 1e-4
    weight_decay: float | str = 1e-3
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    dtype: str = "auto"
    random_state: int | None = None

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "iterations": (100, 400, 1600, 6400),
        "lr": (1e-4, 1e-5, 1e-6, 1e-7),
        "weight_decay": (0.0, 1e-3, 1e-5),
    }
    constraints: ClassVar[dict[str, Constraint]] = {"alpha": Number(0, 1), "reduction": Number(1, whole=True)}

    def _bottleneck(self, problem: Problem) -> int:
        return int(max(1, problem.base.X.shape[1] // self.reduction))

    def _logits(self, X: Array) -> Array:
        return scores.cross_modal_adapter(self, X)
