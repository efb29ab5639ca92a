"""ZS-LP: a linear probe that starts at the text, on cosines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import ArrayLike

from cafe.methods.base import Problem
from cafe.methods.objectives.zs_lp import ClassWeightClassifier

METHOD = "zs-lp"


@dataclass(eq=False, repr=False)
class ZeroShotLinearProbe(ClassWeightClassifier):
    """Train class weights from their text embeddings by cross-entropy; encoders frozen.

    ::

        logits = logit_scale * cos(f, w_c)        w_c = text_norm * t_c / |t_c| at the start

    Trains c x d numbers. Cost of a step: two products of the batch with the class weights. CLAP and TaskRes train the
    same weights, CLAP with a pull to the text, TaskRes as a residual with decay.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    text_norm : float or None, default=9.0
        Length of the class weights at the start. The published code starts at raw text features, whose length is
        about 9 for OpenAI's ViT-B/32 and which is the clock of training: the angle that a step turns a weight by
        falls with its length. None keeps the length that class embeddings have on entry (1 where ``normalize``).
    epochs : float, default=300
        Passes over the training rows, the published number.
    batch_size : int, default=256
        Rows of a step.
    lr : float or "auto", default=0.1
        Peak rate of SGD with momentum 0.9; one epoch at 1e-5, then cosine.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry; logits are cosines either way.
    device : str, default="auto"
        Where to train.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of training; auto is float32, with products in bfloat16 where they were measured to be faster, and on
        CUDA where the GPU has matrix units for it.
    random_state : int, default=None
        Seed of the batch order and of the folds of ``"auto"``.

    Attributes
    ----------
    weights_ : ndarray of shape (c, d)
        Trained class weights.
    lr_ : float
        The rate used.

    References
    ----------
    Silva-Rodriguez et al., A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models (CVPR 2024),
    zero-shot-initialised linear probe; released trainers/adapters.py.

    Examples
    --------
    >>> import numpy as np
    >>> text = np.eye(3)
    >>> ZeroShotLinearProbe(text, random_state=0).fit(text, [0, 1, 2]).predict([[0.1, 0.9, 0.3]])
    array([1])
    """

    class_embeddings: ArrayLike | None = None
    text_norm: float | None = 9.0
    epochs: float = 300
    batch_size: int = 256
    lr: float | str = 0.1
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    dtype: str = "auto"
    random_state: int | None = None

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"lr": (0.1, 0.01, 0.001)}

    def _epochs(self, problem: Problem) -> float:
        return 300.0 if self.epochs is None else float(self.epochs)
