"""A least-squares map from the features of one encoder to the text of another, beside zero-shot of that other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.arrays import functions, kernel_name, on_device, on_host
from cafe.compute import threads_for
from cafe.methods.base import Array, Problem
from cafe.methods.inputs.parameters import Constraint, Number
from cafe.methods.mixture.experts import HeldOutLogits
from cafe.methods.mixture.gaussians import CHUNK, class_means
from cafe.methods.mixture.mixing import MixtureClassifier, TrainingRows
from cafe.methods.mixture.weights import pick_weights, weight_without_evidence

METHOD = "linear-map"
# Tried, per row of unit length; the middle one where no row can be left out.
PENALTIES: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
PENALTY_WITHOUT_EVIDENCE: Final = 0.3


@dataclass(eq=False, repr=False)
class LinearMap(MixtureClassifier):
    """Map the second encoder's features to where the first one's text of their class lies, and compare them there.

    ::

        W      = argmin_W  sum_i | (f2_i - m) W - (t_(y_i) - u) |^2 + lam |W|^2
        logits = a s cos(f1, t_c) + g (f2 - m) W . (t_c - u)         a, g >= 0

    with f1 and f2 the features of an image by both encoders, t the text of the first, m and u the means of f2_i and of
    t_(y_i), and s the scale of text that is likeliest on the shots. W is in closed form, and so is what each row would
    have been mapped to by the others, which lam, a and g are chosen by: lam by squared error, a and g by likelihood, as
    :class:`cafe.Auto` stacks its experts. Where less than half of the classes have a second row, all three are fixed.
    Without text, class means of f1 are mapped to, and the first part falls away; with one encoder f2 is f1.

    Parameters
    ----------
    class_embeddings : array-like of shape (c, d), default=None
        One row per class, zeros in the columns of the second encoder; None for class means of the training features.
    penalty : float or None, default=None
        lam; None is chosen as above.
    logit_scale : float, default=100.0
        The encoder's learned scale, exponentiated; of two encoders sqrt(2) times as large.
    classes : array-like of shape (c,), default=None
        Label of each row; None for 0 to c - 1.
    normalize : bool, default=True
        Scale rows to length one on entry.
    second_width : int, default=0
        How many columns, the last ones, are a second encoder's features; 0 where there is one encoder.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``: where to compute, the scores of new rows too; ``"auto"`` takes
        a GPU where the problem is large enough to gain by it.

    Attributes
    ----------
    map_ : ndarray of shape (d2, d1)
        W.
    penalty_ : float
        lam.
    weights_, intercept_ : ndarray of shape (c, d), ndarray of shape (c,)
        Everything above, merged: linear in f1 and f2 at unit length.
    mixture_, evidence_ : dict
        As of :class:`cafe.ZeroShotPlus`.

    References
    ----------
    Ouali et al., Black Box Few-Shot Adaptation for Vision-Language Models (LFA, ICCV 2023, arXiv 2304.01752): features
    are mapped to the class prototypes of text by least squares. There the map begins at an orthogonal one (Procrustes)
    and is refined by gradients, within one encoder; here it is a ridge regression, from a second one.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1, 0.9, 1, 0.1], [1, 0.8, 1, 0.2], [0.9, 1, 0.1, 1], [0.8, 1, 0.2, 1]])
    >>> text = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    >>> model = LinearMap(text, second_width=2).fit(X, [0, 0, 1, 1])
    >>> model.map_.shape, model.predict([[1, 1, 0.1, 1]])
    ((2, 2), array([1]))
    """

    class_embeddings: ArrayLike | None = None
    penalty: float | None = None
    logit_scale: float = 100.0
    classes: ArrayLike | None = None
    normalize: bool = True
    second_width: int = 0
    device: str = "auto"

    constraints: ClassVar[dict[str, Constraint]] = {"penalty": Number(0, above=True, none=True)}

    def _fit_rows(self, problem: Problem) -> None:
        """Fit the map and its penalty, weigh it and zero-shot, and merge both into one linear score."""
        rows = self._rows_by_encoder(problem)
        means = class_means(rows.first, rows.y, rows.n_classes) if rows.text is None else rows.text
        prototypes = np.asarray(means, np.float64)  # (c, d1)
        X, y = rows.encoders[-1], rows.y  # (n, d2)
        left_out = _rows_to_leave_out(rows)
        ridge = _Ridge(X, y, prototypes, self.device_)
        if self.penalty is not None or not len(left_out):
            self.penalty_ = PENALTY_WITHOUT_EVIDENCE if self.penalty is None else float(self.penalty)
        else:
            errors = {penalty: float(np.square(ridge.left_out(left_out, penalty)[1]).sum()) for penalty in PENALTIES}
            self.penalty_ = min(errors, key=lambda penalty: errors[penalty])
        map_ = ridge.map(self.penalty_)  # (d2, d1)
        weights = (prototypes - ridge.target_mean) @ map_.T  # (c, d2): logits of the map are (f2 - m) times these
        scale = rows.text_scale(0)
        if len(left_out):
            mapped = ridge.left_out(left_out, self.penalty_)[0] - ridge.target_mean  # (k, d1)
            map_logits = mapped @ (prototypes - ridge.target_mean).T
            of_text, of_map, self.evidence_ = _weigh_text_and_map(rows, left_out, map_logits, scale)
        else:
            of_text, self.evidence_ = 1.0, {"held_out": 0}
            of_map = weight_without_evidence(X @ weights.T, y, rows.text is not None)
        self.mixture_, text_weights = {"images": of_map}, None
        if rows.text is not None:
            text_weights = of_text * scale * rows.logit_scale * rows.text
            self.mixture_ = {"text_scale": scale, "text": of_text, **self.mixture_}
        self.map_ = map_.astype(problem.base.X.dtype)
        self._store_merged(problem, of_map * weights, -of_map * weights @ ridge.mean, text_weights)
        self.kernel_, self.dtype_ = kernel_name(self.device_), "float64"

    def row_extras(self) -> dict[str, Any]:
        """Return the weights and the penalty that were chosen, and the evidence for them."""
        return {"mixture": {**self.mixture_, "penalty": self.penalty_, **self.evidence_}}


def _rows_to_leave_out(rows: TrainingRows) -> NDArray[np.int64]:
    """Return the rows that are predicted without themselves: of classes with a second row, at most some thousands.

    None where too few classes have a second row.
    """
    if not rows.enough_to_hold_out:
        return np.empty(0, np.int64)
    sample = rows.scored(0)
    return sample[np.bincount(rows.y)[rows.y[sample]] > 1]


def _weigh_text_and_map(
    rows: TrainingRows, left_out: NDArray[np.int64], map_logits: Array, scale: float
) -> tuple[float, float, dict[str, Any]]:
    """Return the weights of text and of the map, and the evidence for them.

    Parameters
    ----------
    rows : TrainingRows
        All rows.
    left_out : ndarray of shape (k,), int64
        The rows that are scored.
    map_logits : ndarray of shape (k, c)
        Their logits by maps that were fitted without them.
    scale : float
        Of :meth:`TrainingRows.text_scale`.
    """
    counts, y = np.bincount(rows.y), rows.y[left_out]
    experts, text_logits = [map_logits], None
    if rows.text is not None:
        text_logits = rows.logit_scale * (rows.first[left_out] @ rows.text.T)  # (k, c)
        experts = [scale * text_logits, map_logits]
    shots = float(counts[y].mean())
    held_out = HeldOutLogits(np.stack(experts), text_logits, y, shots, shots - 1)
    weights, evidence = pick_weights(held_out, len(rows.y) / np.sum(counts > 0))
    return float(weights[0]), float(weights[-1]), evidence


class _Ridge:
    """Ridge regression of the prototypes of rows' classes on rows X (n, d2), both centred, for any penalty.

    With X - m = U S V^T of rank r and R = U^T (T - u), T (n, d1) the prototypes of the rows' classes:

        W    = V diag(s / (s^2 + lam)) R                fitted = u + U diag(h) R        h = s^2 / (s^2 + lam)
        H_ii = 1 / n + sum_j U_ij^2 h_j                 error of row i when it is left out: 1 / (1 - H_ii) times its
                                                        error when it is fitted (Allen's PRESS, 1974)

    V and S come from the smaller of the two products of X with itself, rows of U as they are asked for, and S R =
    V^T (X - m)^T (T - u) from sums over classes; so nothing here is as large as X but X.
    """

    def __init__(self, X: Array, y: NDArray[np.int64], prototypes: NDArray[np.float64], device: str = "cpu") -> None:
        self._X, self._targets, self._y = X, prototypes, y
        n, counts = len(y), np.bincount(y, minlength=len(prototypes))
        self.mean = X.mean(axis=0, dtype=np.float64)
        self.target_mean = counts @ prototypes / n
        with threads_for(n * X.shape[1] * min(X.shape)):
            if n > X.shape[1]:
                blocks = (on_device(self._centred(block), device) for block in _blocks(n))
                scatter: Any = sum(rows.T @ rows for rows in blocks)
                squares, self._v = map(on_host, functions(scatter).linalg.eigh(scatter))
                self._s = np.sqrt(np.maximum(squares, 0))
            else:
                centred = on_device(self._centred(slice(None)), device)
                _, self._s, vt = map(on_host, functions(centred).linalg.svd(centred, full_matrices=False))
                self._v = vt.T
        kept = self._s > np.finfo(np.float32).eps * self._s.max(initial=0.0)
        self._s, self._v = self._s[kept], self._v[:, kept]
        sums = class_means(X, y, len(prototypes)) * counts[:, None] - counts[:, None] * self.mean  # (c, d2), centred
        self._r = (self._v.T @ sums.T @ (prototypes - self.target_mean)) / self._s[:, None]  # (r, d1)

    def _centred(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        """Return rows of X minus the mean of all, in float64."""
        centred: NDArray[np.float64] = np.asarray(self._X[rows], np.float64) - self.mean
        return centred

    def map(self, penalty: float) -> NDArray[np.float64]:
        """Return W, (d2, d1)."""
        mapped: NDArray[np.float64] = self._v @ ((self._s / (self._s**2 + penalty))[:, None] * self._r)
        return mapped

    def left_out(self, rows: NDArray[np.int64], penalty: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what each row is mapped to by a fit without it, and the error of that, both (k, d1)."""
        h = self._s**2 / (self._s**2 + penalty)
        u = self._centred(rows) @ self._v / self._s  # (k, r)
        targets = self._targets[self._y[rows]]
        leverage = 1 / len(self._y) + np.square(u) @ h  # H_ii
        error: NDArray[np.float64] = targets - self.target_mean - u @ (h[:, None] * self._r)
        error /= np.maximum(1 - leverage, np.finfo(np.float64).eps)[:, None]
        mapped: NDArray[np.float64] = targets - error
        return mapped, error


def _blocks(n: int) -> list[slice]:
    """Cut n rows into slices of at most CHUNK rows."""
    return [slice(start, start + CHUNK) for start in range(0, n, CHUNK)]
