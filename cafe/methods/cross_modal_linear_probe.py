"""Cross-modal linear probe: class embeddings are training samples too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import ArrayLike

from cafe.methods.base import Array
from cafe.methods.inference import scores
from cafe.methods.objectives.cross_modal_linear_probe import CrossModalClassifier

METHOD = "cross-modal-linear-probe"


@dataclass(eq=False, repr=False)
class CrossModalLinearProbe(CrossModalClassifier):
    """Train a linear head from text on batches that are half images and half class embeddings; encoders frozen.

    ::

        logits = logit_scale * x . w_c        x an image feature or a class embedding; w_c = t_c at the start

    by cross-entropy and AdamW. Weights are not scaled to length one again. Trains c x d numbers.

    The published protocol is a search: 12 runs of up to 12,800 iterations (``lr``, ``weight_decay``, ``batch_size``
    ``"auto"``, ``iterations=12800``), of which the best iterate on validation images is kept. Here
    ``iterations="auto"`` tries lengths, each with its own schedule, instead of looking every 100 iterations.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    iterations : int or "auto", default=500
        Optimiser steps. A default without validation has to stop early: at 12,800 and the higher rate the
        published code overfits (ImageNet, 4 shots: 54.3 against 63.5 at the lower).
    batch_size : int or "auto", default=32
        Rows of a step, half of them text.
    lr : float or "auto", default=1e-4
        Peak rate; 50 steps at 1e-5, then cosine.
    weight_decay : float or "auto", default=0.01
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
        Seed of the batch order and of the folds of ``"auto"``.

    Attributes
    ----------
    parameters_ : dict of str to ndarray
        ``head`` (c, d).

    References
    ----------
    Lin et al., Multimodality Helps Unimodality: Cross-Modal Few-Shot Learning with Multimodal Models (CVPR 2023),
    linear probing; released linear_probe scripts and engine/.

    Examples
    --------
    >>> import numpy as np
    >>> text = np.eye(3)
    >>> CrossModalLinearProbe(text, random_state=0).fit(text, [0, 1, 2]).predict([[0.1, 0.9, 0.3]])
    array([1])
    """

    class_embeddings: ArrayLike | None = None
    iterations: int | str = 500
    batch_size: int | str = 32
    lr: float | str = 1e-4
    weight_decay: float | str = 0.01
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    dtype: str = "auto"
    random_state: int | None = None

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "iterations": (100, 400, 1600, 6400),
        "lr": (1e-3, 1e-4),
        "weight_decay": (0.0, 0.01, 1e-4),
        "batch_size": (8, 32),
    }

    def _logits(self, X: Array) -> Array:
        return scores.cross_modal_linear_probe(self, X)
