"""CLAP: the zero-shot-initialised probe, held to the text where zero-shot is right."""

from __future__ import annotations

import numpy as np

from cafe.methods.base import Array, Problem, cosine_logits, softmax
from cafe.methods.zs_lp import ZeroShotLinearProbe

METHOD = "clap"


class CLAP(ZeroShotLinearProbe):
    """Train class weights from text, each pulled to its text as strongly as zero-shot is right about the class.

    ::

        loss     = mean_i CE(logit_scale * cos(f_i, w), y_i) + (1/c) sum_c lambda_c |w_c - t_c|^2
        lambda_c = mean over the shots i of class c of  softmax(logit_scale * cos(f_i, t))_c

    with t_c of length ``text_norm``. lambda is fixed before training, so nothing is validated. A class without a
    shot has lambda 1: text is all that is known about it (the published code divides by zero there).

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    text_norm : float or None, default=9.0
        Length of t; see :class:`cafe.ZeroShotLinearProbe`. It sets the strength of the pull too.
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
        Precision of training; auto is float32, with products in bfloat16 where they were measured to be faster.
    random_state : int, default=None
        Seed of the batch order and of the folds of ``"auto"``.

    Attributes
    ----------
    weights_ : ndarray of shape (c, d)
        Trained class weights.
    strength_ : ndarray of shape (c,)
        lambda.

    References
    ----------
    Silva-Rodriguez et al., A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models (CVPR 2024),
    class-adaptive linear probe with fixed multipliers; released trainers/adapters.py, constraint "l2".

    Examples
    --------
    >>> import numpy as np
    >>> text = np.eye(3)
    >>> CLAP(text, random_state=0).fit(text, [0, 1, 2]).predict([[0.1, 0.9, 0.3]])
    array([1])
    """

    def _pull(self, problem: Problem) -> Array:
        n_classes = len(problem.class_embeddings)
        y = problem.y
        zero_shot = softmax(cosine_logits(problem.X, problem.class_embeddings, self.logit_scale))
        sums = np.bincount(y, weights=zero_shot[np.arange(len(y)), y], minlength=n_classes)
        counts = np.bincount(y, minlength=n_classes)
        strength = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
        self.strength_ = strength.astype(problem.base.X.dtype)
        return self.strength_
