"""APE-T: a trained residual per class, on the channels that tell classes apart, for text and keys at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from cafe.methods.ape import chosen_channels
from cafe.methods.base import Array, Problem
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Constraint, Number, seed_of
from cafe.methods.objectives.ape_t import KeyedRows, ResidualKeysObjective
from cafe.methods.objectives.base import Result, TrainedClassifier, TrainingGroup
from cafe.training.trainer import Configuration, steps_for

METHOD = "ape-t"


@dataclass(eq=False, repr=False)
class APET(TrainedClassifier):
    """Train one residual per class, added to its text and to its keys, and a value per key; encoders frozen.

    ::

        logits_c = logit_scale f . (t_c + m x_c)  +  alpha sum_(i of class c) exp( -beta (1 - f . (k_i + m x_c)) ) v_i

    with x = 0 and v = 1 at the start and m one on the kept channels (see :class:`cafe.APE`), zero elsewhere; text
    and keys are not scaled to length one again. By cross-entropy and AdamW. Trains c x kept + n numbers.
    The rows trained on are the keys themselves, so a row always finds itself; the published code trains on other
    augmentations of them.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    alpha : float or "auto", default=2.0
        Weight of the votes.
    beta : float or "auto", default=1.0
        Sharpness of the affinity.
    share : float, default=0.5
        Share of the channels that the residual has: 500 to 900 of 1,024 in the released code.
    variance_weight : float, default=0.8
        As in APE; 0.8 for training in the released code.
    epochs : float, default=20
        Passes over the training rows: 20 on ImageNet, up to 200 elsewhere, in the released code.
    batch_size : int, default=256
        Rows of a step.
    lr : float or "auto", default=1e-3
        Peak rate of a cosine schedule; the released code has 1e-4 on ImageNet.
    eps : float, default=1e-3
        AdamW's, as released.
    weight_decay : float, default=0.1
        AdamW's.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry.
    device : str, default="auto"
        Where to train.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of training; auto is float32.
    random_state : int, default=None
        Seed of the batch order and of the folds of ``"auto"``.

    Attributes
    ----------
    text_ : ndarray of shape (c, d)
        t + m x.
    keys_ : ndarray of shape (n, d)
        k + m x, sorted by class.
    values_ : ndarray of shape (n,)
        v.

    References
    ----------
    Zhu et al. (ICCV 2023), trained variant; released main.py, APE_Training in utils.py.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.1, 0.5], [0.1, 1.0, 0.5]])
    >>> APET(np.eye(3)[:2], random_state=0).fit(X, [0, 1]).predict([[0.9, 0.3, 0.1]])
    array([0])
    """

    class_embeddings: ArrayLike | None = None
    alpha: float | str = 2.0
    beta: float | str = 1.0
    share: float = 0.5
    variance_weight: float = 0.8
    epochs: float = 20
    batch_size: int = 256
    lr: float | str = 1e-3
    eps: float = 1e-3
    weight_decay: float = 0.1
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    dtype: str = "auto"
    random_state: int | None = None
    alpha_: float = field(init=False)
    beta_: float = field(init=False)
    lr_: float = field(init=False)

    one_encoder: ClassVar[str] = "channels are chosen by the text of one encoder"
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "alpha": (0.1, 0.5, 1.0, 2.0, 4.0, 7.0),
        "beta": (0.1, 1.0, 2.0, 4.0, 7.0),
        "lr": (1e-3, 1e-4),
    }
    constraints: ClassVar[dict[str, Constraint]] = {
        "alpha": Number(0),
        "beta": Number(0),
        "eps": Number(0, above=True),
        "variance_weight": Number(0),
        "share": Number(0, 1, above=True),
    }

    # ------------------------------------------------------------------ learning

    def _choose(self, problem: Problem) -> None:
        super()._choose(problem)
        self.channels_ = chosen_channels(
            problem.X, problem.y, problem.class_embeddings, self.share, self.variance_weight
        )

    @classmethod
    def _objective(cls, group: TrainingGroup) -> ResidualKeysObjective:
        shots = [
            KeyedRows.of(group.tensor(problem.X), group.labels(problem.y), group.labels(np.sort(estimator.channels_)))
            for estimator, problem in zip(group.estimators, group.problems, strict=True)
        ]
        return ResidualKeysObjective(group.tensor(group.base.class_embeddings), shots)

    def _configuration(self, problem: Problem, index: int) -> Configuration:
        n = len(problem.rows)
        return Configuration(
            rows=problem.rows,
            random_state=seed_of(self),
            shape=(n, len(self.channels_)),
            hyper={"alpha": self.alpha_, "beta": self.beta_, "logit_scale": self.logit_scale, "index": index},
            steps=steps_for(self.epochs, n, self.batch_size),
            batch_size=self.batch_size,
            lr=float(self.lr_),
            weight_decay=self.weight_decay,
            optimizer="adamw",
            eps=self.eps,
        )

    def _store(self, result: Result) -> None:
        problem, parameters = result.problem, result.parameters
        order = np.argsort(problem.y, kind="stable")
        labels = problem.y[order]
        residual = np.zeros_like(problem.class_embeddings)
        residual[:, np.sort(self.channels_)] = parameters["residual"]
        self.text_ = problem.class_embeddings + residual
        self.keys_ = problem.X[order] + residual[labels]
        self.values_ = parameters["values"][order].astype(residual.dtype)
        self.seen_, self.segments_ = np.unique(labels, return_index=True)

    # ------------------------------------------------------------------ inference

    def _logits(self, X: Array) -> Array:
        return scores.ape_t(self, X)
