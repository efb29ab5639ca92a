"""APE: Tip-Adapter on the channels that tell classes apart; nothing is trained.

How the channels are chosen, here and in APE-T. Letters: d channels, c classes, N_i rows of class i (its shots and
its text).

    J_d = v var_i(t_id) - (1 - v) S_d          the channels of largest J are kept

    S_d = mean over ordered pairs of classes i != j and all their rows m, n of  F_imd F_jnd

The released code has four nested loops for S, 3e8 turns for ImageNet at 16 shots. With row sums s_i = sum_m F_im it is

    S_d = ( (sum_i s_id)^2 - sum_i s_id^2 ) / ( (sum_i N_i)^2 - sum_i N_i^2 )
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.arrays import kernel_name, like, on_device, on_host, sums_by_class
from cafe.methods.base import Array, FewShotClassifier, Problem, softmax, unit_length
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Constraint, Number
from cafe.methods.tip_adapter import KeySearch

METHOD = "ape"


@dataclass(eq=False, repr=False)
class APE(FewShotClassifier):
    """Choose channels by prior knowledge, and add votes of similar shots on these to the zero-shot logits.

    ::

        logits_c = logit_scale * cos(f, t_c)  +  alpha sum_(i of class c) exp( -beta (1 - cos(f', k'_i)) ) r_i
        r_i      = exp( -gamma log2 softmax(cos(k'_i, t'))_(y_i) )

    with f', k' and t' the kept channels, scaled to length one again. r_i weighs a shot by the divergence of its own
    zero-shot prediction from its label. Two habits of the released code are kept, since the published gammas mean
    them: the logarithm is binary, and the softmax has no logit scale. Nothing is trained; cost as Tip-Adapter.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the training features.
    alpha : float or "auto", default=2.0
        Weight of the votes.
    beta : float or "auto", default=1.0
        Sharpness of the affinity.
    gamma : float or "auto", default=0.1
        Strength of r. The defaults are the released initial values for ImageNet.
    share : float, default=0.5
        Share of the channels to keep: 500 of 1,024 on ImageNet, 400 to 800 elsewhere, in the released code.
    variance_weight : float, default=0.3
        Weight of the variance of text over classes against the similarity between classes; 0.3 on ImageNet.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``: where to compute, the scores of new rows too; ``"auto"`` takes
        a GPU where the problem is large enough to gain by it.
    random_state : int, default=None
        Folds of ``"auto"``.

    Attributes
    ----------
    channels_ : ndarray of int64
        Kept channels.
    keys_ : ndarray of shape (n, kept)
        Unit-length shots on these channels, sorted by class.
    weights_ : ndarray of shape (n,)
        r.
    alpha_, beta_, gamma_ : float
        The values used.

    References
    ----------
    Zhu et al., Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement (ICCV 2023),
    training-free variant; released main.py and utils.py, whose formulas these are.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.1, 0.5], [0.1, 1.0, 0.5]])
    >>> APE(np.eye(3)[:2], share=0.7).fit(X, [0, 1]).predict([[0.9, 0.3, 0.1]])
    array([0])
    """

    class_embeddings: ArrayLike | None = None
    alpha: float | str = 2.0
    beta: float | str = 1.0
    gamma: float | str = 0.1
    share: float = 0.5
    variance_weight: float = 0.3
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    random_state: int | None = None

    one_encoder: ClassVar[str] = "channels are chosen by the text of one encoder"
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "alpha": (0.1, 0.5, 1.0, 2.0, 4.0, 7.0),
        "beta": (0.1, 1.0, 2.0, 4.0, 7.0),
        "gamma": (0.0, 0.1, 0.4, 1.0),
    }
    constraints: ClassVar[dict[str, Constraint]] = {
        "alpha": Number(0),
        "beta": Number(0),
        "gamma": Number(0),
        "variance_weight": Number(0),
        "share": Number(0, 1, above=True),
    }

    @classmethod
    def _fit_problems(cls, estimators: Sequence[Any], problems: Sequence[Problem]) -> None:
        """Fit several; those that learn from the same rows share channels and keys."""
        priors: dict[tuple[Any, ...], dict[str, Array]] = {}
        for estimator, problem in zip(estimators, problems, strict=True):
            key = (problem.base, problem.rows.tobytes(), estimator.share, estimator.variance_weight)
            if key not in priors:
                priors[key] = estimator._prior(problem.X, problem.y, problem.class_embeddings)
            for name, value in priors[key].items():
                setattr(estimator, name, value)
            estimator.weights_ = np.exp(estimator.gamma_ * estimator.divergence_)
            estimator.kernel_ = kernel_name(estimator.device_)

    def _prior(self, X: Array, y: NDArray[np.int64], text: Array) -> dict[str, Array]:
        """Return channels, keys, their divergence and their classes; formulas in the class's docstring."""
        channels = chosen_channels(X, y, text, self.share, self.variance_weight)
        order = np.argsort(y, kind="stable")
        keys, labels = unit_length(X[order][:, channels]), y[order]
        device_keys = on_device(keys, self.device_)
        affinity = on_host(softmax(device_keys @ like(unit_length(text[:, channels]), device_keys).T))
        own = affinity[np.arange(len(y)), labels]
        seen, segments = np.unique(labels, return_index=True)
        return {
            "channels_": channels,
            "keys_": keys,
            "divergence_": -np.log2(own),
            "seen_": seen,
            "segments_": segments,
        }

    @classmethod
    def score_grid(cls, fits: Sequence[Any], X: Array, labels: NDArray[np.int64]) -> list[float] | None:
        """Return the accuracies of fits that share keys, with affinities shared; None if some do not."""
        search = KeySearch.of(fits, X, labels)
        if search is None:
            return None
        import torch

        first = search.fit
        scores_of = {}
        for gamma in {float(fit.gamma_) for fit in fits}:
            key_weights = np.exp(gamma * first.divergence_).astype(first.keys_.dtype)
            scores_of[gamma] = search.scores(
                channels=first.channels_, key_weights=torch.from_numpy(key_weights).to(first.device_)
            )
        return [scores_of[float(fit.gamma_)][float(fit.alpha_), float(fit.beta_)] for fit in fits]

    def _logits(self, X: Array) -> Array:
        return scores.ape(self, X)


def similarity_between_classes(X: Array, y: NDArray[np.int64], text: Array) -> Array:
    """Return S (d,), in float64; formula above.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [0.0, 1.0]]); text = np.array([[1.0, 1.0], [1.0, 1.0]])
    >>> similarity_between_classes(X, np.array([0, 1]), text).tolist()
    [0.5, 0.5]
    """
    sums = text.astype(np.float64) + sums_by_class(X.astype(np.float64), y, len(text))
    rows = 1.0 + np.bincount(y, minlength=len(text))
    pairs = rows.sum() ** 2 - np.square(rows).sum()
    similarity: Array = (np.square(sums.sum(axis=0)) - np.square(sums).sum(axis=0)) / pairs
    return similarity


def chosen_channels(
    X: Array, y: NDArray[np.int64], text: Array, share: float, variance_weight: float
) -> NDArray[np.int64]:
    """Return the channels of largest J, the best first.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Shots.
    y : ndarray of shape (n,), int64
        Class rows.
    text : ndarray of shape (c, d)
        Class embeddings.
    share : float
        Of the d channels to keep, rounded up.
    variance_weight : float
        v.
    """
    criterion = variance_weight * text.astype(np.float64).var(axis=0, ddof=1)
    criterion -= (1 - variance_weight) * similarity_between_classes(X, y, text)
    kept = int(np.ceil(share * X.shape[1]))
    return np.argsort(-criterion, kind="stable")[:kept]
