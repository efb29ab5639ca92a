"""TaskRes: a residual on frozen text embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from numpy.typing import ArrayLike

from cafe.kernels.class_weights_reference import WeightsShape
from cafe.methods.base import Problem
from cafe.methods.inputs.parameters import Constraint, Number
from cafe.methods.objectives.zs_lp import ClassWeightClassifier

METHOD = "task-res"


@dataclass(eq=False, repr=False)
class TaskRes(ClassWeightClassifier):
    """Learn a residual on every class embedding, scaled by alpha; encoders and text frozen.

    ::

        logits = logit_scale * cos(f, t_c + alpha x_c)        x = 0 at the start

    by cross-entropy and Adam with an L2 penalty on x. New classes cannot be added: x has one row per class.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    alpha : float or "auto", default=0.5
        Scale of the residual; the paper has 0.5, and 1 for flowers.
    text_norm : float or None, default=9.0
        Length of t_c; see :class:`cafe.ZeroShotLinearProbe`. The published code has raw text features.
    epochs : float, default=None
        Passes over the training rows; None is the paper's 100 up to 4 shots and 200 above.
    batch_size : int, default=256
        Rows of a step.
    lr : float or "auto", default=2e-3
        Peak rate of Adam; one epoch at 1e-5, then cosine. The paper has 2e-4 for ImageNet.
    weight_decay : float, default=5e-4
        L2 penalty on x, added to the gradient (Adam's, not AdamW's), as the published configuration inherits it.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry; logits are cosines either way.
    device : str, default="auto"
        Where to train.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of training; auto is float32, with products in bfloat16 where they were measured to be faster.
    random_state : int, default=None
        Seed of the batch order and of the folds of ``"auto"``.

    Attributes
    ----------
    weights_ : ndarray of shape (c, d)
        t + alpha x.
    alpha_, lr_ : float
        The values used.

    References
    ----------
    Yu et al., Task Residual for Tuning Vision-Language Models (CVPR 2023); released trainers/taskres.py.
    "Regular base" only: the "enhanced base" is a text projection pre-tuned on the task itself.

    Examples
    --------
    >>> import numpy as np
    >>> text = np.eye(3)
    >>> TaskRes(text, random_state=0).fit(text, [0, 1, 2]).predict([[0.1, 0.9, 0.3]])
    array([1])
    """

    class_embeddings: ArrayLike | None = None
    alpha: float | str = 0.5
    text_norm: float | None = 9.0
    epochs: float | None = None
    batch_size: int = 256
    lr: float | str = 2e-3
    weight_decay: float = 5e-4
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    dtype: str = "auto"
    random_state: int | None = None
    alpha_: float = field(init=False)

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"alpha": (0.1, 0.3, 0.5, 0.7, 1.0), "lr": (2e-3, 2e-4)}
    constraints: ClassVar[dict[str, Constraint]] = {"alpha": Number(0, above=True)}
    _optimizer = "adamw"  # without decay of its own it is Adam

    def _epochs(self, problem: Problem) -> float:
        if self.epochs is None:
            return 100.0 if problem.most_shots <= 4 else 200.0
        return float(self.epochs)

    def _shape(self) -> WeightsShape:
        return WeightsShape(cosines=True, residual=True)

    def _residual_scale(self) -> float:
        return float(self.alpha_)

    def _decay(self) -> float:
        return float(self.weight_decay)
