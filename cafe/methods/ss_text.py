"""SS-Text: text plus the weighted shots, in closed form; with unlabelled images, their labels by optimal transport."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils.validation import check_array, column_or_1d

from cafe.arrays import double, functions, kernel_name, like, on_device, on_host, sums_by_class
from cafe.errors import InputError
from cafe.methods.base import Array, FewShotClassifier, Problem, cosine_logits, unit_length
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Constraint, Number
from cafe.methods.inputs.problem import widen

METHOD = "ss-text"

# The released defaults: turns of labelling and weighting, and Sinkhorn iterations in each.
TURNS, SINKHORN = 3, 10
# A class without a labelled row is taken to be a quarter as frequent as the rarest that has one, as released.
UNSEEN_SHARE = 4.0


@dataclass(eq=False, repr=False)
class SSText(FewShotClassifier):
    """Add the shots to the text of their class; unlabelled images join them with labels that are transported.

    ::

        w_c    = L_c + n_c / (2 N tau) sum_(shots i of c) f_i  +  1 / (M tau) sum_(unlabelled j) q_jc f_j
        logits = logit_scale cos(f, w)                        tau = 1 / logit_scale
        q      = argmax_q  sum_jc q_jc logits_jc + H(q)       rows sum to 1, columns to M times the shots' frequencies

    with n_c of the N shots in class c, M unlabelled images, L_c the text of the class with a length (below), H the
    entropy. Nothing is trained or chosen. Without unlabelled images this is one sum; with them, q (Sinkhorn, 10
    iterations, starting from the text) and w take turns, three times.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class; None for class means of the labelled rows.
    unlabelled : int or str, default=None
        The label in ``y`` that means "unlabelled", such as -1; None: every label is one.
    text_images : float or None, default=20.0
        How many images of its class the text of a class counts as. None takes the text as it was given, whatever
        its length, which is the published formula.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry. The public code does not, and gives text unscaled too (``text_images=None``).
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``: where to compute, the scores of new rows too; ``"auto"`` takes
        a GPU where the problem is large enough to gain by it.

    Attributes
    ----------
    weights_ : ndarray of shape (c, d)
        w; cosines do not see its length.
    n_unlabelled_ : int
        M.
    class_shares_ : ndarray of shape (c,)
        The frequencies that unlabelled images are given to classes by.

    Raises
    ------
    InputError
        Beside what every method refuses, if every row is unlabelled.

    Notes
    -----
    **The length of the text decides.** With K shots in each of C classes, the sum over the shots of a class is
    K / (2 C tau) times their mean: text as long as an image counts as 2 C tau images. On 1,000 classes that is 20
    images, on 69 it is 1.4, on 8 it is 0.16, where a single shot outweighs it (docs/methods.md has what comes of it).
    Text and images of one encoder have about one length (8.7 and 10 on ViT-B/32), so scaling neither changes nothing;
    unscaled images beside text of length one are worth ten times more again. Here the text has the length
    L = text_images / (2 C tau) times that of an image, so that it counts as ``text_images`` images whatever C, tau and
    the encoder are, and nothing else of the formula changes; at 1,000 classes and scale 100, 20 is the published
    formula on rows of length one.

    All unlabelled images together count as two labelled images of each class, however many they are, as published.

    References
    ----------
    Silva-Rodríguez and Konukoglu, Semi-Supervised Few-Shot Adaptation of Vision-Language Models (arXiv 2603.02959),
    and the released solver; the closed form is Silva-Rodríguez et al., Few-Shot, Now for Real (arXiv 2506.17500).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.1], [0.1, 1.0], [0.9, 0.2]])
    >>> model = SSText(np.eye(2), unlabelled=-1).fit(X, [0, 1, -1])
    >>> model.predict([[0.9, 0.2]]), model.n_unlabelled_
    (array([0]), 1)
    """

    class_embeddings: ArrayLike | None = None
    unlabelled: int | str | None = None
    text_images: float | None = 20.0
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    device: str = "auto"
    n_unlabelled_: int = field(init=False)

    constraints: ClassVar[dict[str, Constraint]] = {"text_images": Number(0, above=True, none=True)}

    @classmethod
    def fit_grid(
        cls, estimators: Sequence[Any], X: ArrayLike, y: ArrayLike, rows: Sequence[NDArray[np.int64]] | None
    ) -> None:
        """Fit several; rows whose label means "unlabelled" are set apart before labels are checked."""
        plain = [i for i, estimator in enumerate(estimators) if estimator.unlabelled is None]
        if plain:
            own = None if rows is None else [rows[i] for i in plain]
            super().fit_grid([estimators[i] for i in plain], X, y, own)
        for i, estimator in enumerate(estimators):
            if estimator.unlabelled is not None:
                estimator._fit_with_unlabelled(X, y, None if rows is None else rows[i])

    def _fit_with_unlabelled(self, X: ArrayLike, y: ArrayLike, rows: NDArray[np.int64] | None) -> None:
        """Fit a copy, which holds the unlabelled rows, on the labelled ones; take its attributes over."""
        self._check_parameters()
        labels = column_or_1d(y, warn=True)
        if issparse(X) or np.shape(X)[:1] != labels.shape:
            super().fit_grid([self], X, y, None)  # the ordinary checks say what is wrong with X
            return
        if self.classes is not None and self.unlabelled in np.asarray(self.classes).tolist():
            raise InputError(
                f"unlabelled of ss-text is {self.unlabelled!r}, which is also the name of a class; take another label"
            )
        chosen = np.arange(len(labels)) if rows is None else np.asarray(rows)
        # By value and kind: comparing text with a number is False, never an error.
        unlabelled = np.array([label == self.unlabelled for label in labels[chosen].tolist()], dtype=bool)
        if unlabelled.all():
            raise InputError(
                f"every training row has the label {self.unlabelled!r}, which means unlabelled; "
                "ss-text needs at least one labelled row, and zero-shot none"
            )
        unlabelled_rows = check_array(
            widen(np.asarray(X)[chosen[unlabelled]]), dtype=[np.float32, np.float64], ensure_min_samples=0
        )
        helper = copy(self)
        helper.unlabelled = None
        helper._unlabelled_rows = unlabelled_rows
        kept = labels[chosen[~unlabelled]].tolist() if labels.dtype == object else labels[chosen[~unlabelled]]
        super().fit_grid([helper], np.asarray(X)[chosen[~unlabelled]], kept, None)
        for name, value in vars(helper).items():
            if name.endswith("_"):
                setattr(self, name, value)

    def _fit_rows(self, problem: Problem) -> None:
        """Add the labelled rows to the text, then the unlabelled rows with transported labels."""
        text = self._text_with_length(problem.X)
        X, counts = on_device(problem.X, self.device_), np.bincount(problem.y, minlength=len(text))
        sums = on_host(sums_by_class(double(X), problem.y, len(text)))
        labelled = text + (self.logit_scale * counts / (2 * counts.sum()))[:, None] * sums  # (c, d)
        unlabelled_rows = getattr(self, "_unlabelled_rows", np.empty((0, text.shape[1])))
        self.n_unlabelled_ = len(unlabelled_rows)
        self.class_shares_ = class_shares(counts)
        weights = labelled
        if len(unlabelled_rows):
            rows = on_device(
                (unit_length(unlabelled_rows) if self.normalize else unlabelled_rows).astype(np.float64), self.device_
            )
            labelled, weights = like(labelled, rows), like(text, rows)
            for _ in range(TURNS):
                q = transported_labels(cosine_logits(rows, weights, self.logit_scale), self.class_shares_, SINKHORN)
                weights = labelled + self.logit_scale / len(rows) * (q.T @ rows)
        # Cosines do not see the length; unit rows keep huge and tiny text within float32.
        self.weights_ = on_host(unit_length(weights)).astype(problem.base.X.dtype)
        self.kernel_ = kernel_name(self.device_)

    def _text_with_length(self, X: Array) -> Array:
        """Return the text of each class with its length L, (c, d), float64; formula in the class's notes."""
        text: Array = self.class_embeddings_.astype(np.float64)
        if self.text_images is None:
            return text
        size = 1.0 if self.normalize else float(np.linalg.norm(X.astype(np.float64), axis=1).mean())  # of an image
        return float(self.text_images) * size * self.logit_scale / (2 * len(text)) * unit_length(text)

    def chosen_on(self) -> str:
        """Return whether unlabelled images were learned from; see the base class."""
        return "unlabelled rows" if self.n_unlabelled_ else "nothing"

    def row_extras(self) -> dict[str, Any]:
        """Return how many unlabelled images were learned from; nothing if none."""
        return {"n_unlabelled": self.n_unlabelled_} if self.n_unlabelled_ else {}

    def _logits(self, X: Array) -> Array:
        return scores.weight_cosines(self, X)


def class_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimate the frequency of each class, (c,), from the number of its labelled rows.

    Examples
    --------
    >>> class_shares(np.array([4, 1, 0])).round(3).tolist()
    [0.762, 0.19, 0.048]
    """
    shares = counts / counts.sum()
    shares[counts == 0] = shares[counts > 0].min() / UNSEEN_SHARE
    normalised: NDArray[np.float64] = shares / shares.sum()
    return normalised


def transported_labels(logits: Array, shares: NDArray[np.float64], iterations: int) -> NDArray[np.float64]:
    """Assign rows to classes softly so that each class gets its share: Sinkhorn's iterations, in logarithms.

    Parameters
    ----------
    logits : ndarray of shape (m, c)
        Gain of assigning a row to a class.
    shares : ndarray of shape (c,)
        Positive, of sum 1.
    iterations : int
        Of scaling columns, then rows.

    Returns
    -------
    ndarray of shape (m, c)
        Rows of sum 1; columns of sum m times the shares, up to what the last scaling of rows moved.

    Examples
    --------
    >>> q = transported_labels(np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([0.5, 0.5]), 50)
    >>> q.sum(axis=0).round(6).tolist(), q.argmax(axis=1).tolist()
    ([1.0, 1.0], [1, 0])
    """
    log_q: NDArray[np.float64] = double(logits)
    log_column_sums = like(np.log(len(log_q) * shares), log_q)
    for _ in range(iterations):
        log_q = log_q + log_column_sums - _log_sum(log_q, 0)
        log_q = log_q - _log_sum(log_q, 1)
    q: NDArray[np.float64] = functions(log_q).exp(log_q)
    return q


def _log_sum(scores: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return the logarithm of the sum of exponentials along an axis, which is kept with length 1."""
    library = functions(scores)
    top = library.amax(scores, axis=axis, keepdims=True)
    total: NDArray[np.float64] = top + library.log(library.exp(scores - top).sum(axis=axis, keepdims=True))
    return total
