"""From rows by one encoder or two to weighted models of the images, beside an expert on the text of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.methods.base import Array, unit_length
from cafe.methods.inputs.cosines import parts_of
from cafe.methods.mixture.experts import SCORED_ROWS, centred_means, distinct_rows, held_out_scores
from cafe.methods.mixture.gaussians import fit_gaussian
from cafe.methods.mixture.weights import pick_weights, text_scale, weight_without_evidence


@dataclass(frozen=True)
class Rows:
    """Training rows by each encoder, copies left out, and text of the first.

    Attributes
    ----------
    encoders : list of ndarray of shape (n, width of the encoder)
        One or two, unit-length rows.
    y : ndarray of shape (n,), int64
        Class rows.
    text : ndarray of shape (c, width of the first encoder) or None
        Unit-length class embeddings.
    logit_scale : float
        Of cosines between rows of the first encoder and text.
    n_classes : int
        c.
    """

    encoders: list[Array]
    y: NDArray[np.int64]
    text: Array | None
    logit_scale: float
    n_classes: int

    @classmethod
    def of(
        cls, X: Array, y: NDArray[np.int64], embeddings: Array, has_text: bool, logit_scale: float, second_width: int
    ) -> Rows:
        """Take a problem's arrays apart.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Features; of two encoders as :meth:`cafe.features.Features.join` puts them beside each other.
        y : ndarray of shape (n,), int64
            Class rows.
        embeddings : ndarray of shape (c, d)
            Class embeddings.
        has_text : bool
            Whether these are text.
        logit_scale : float
            Of cosines in d columns.
        second_width : int
            Columns of the second encoder; 0 for one encoder.
        """
        kept = distinct_rows(X, y)
        X, y = X[kept], y[kept]
        if not second_width:
            return cls([X], y, embeddings if has_text else None, logit_scale, len(embeddings))
        encoders = parts_of(X, second_width)
        text = unit_length(embeddings[:, :-second_width]) if has_text else None
        # Cosines with text are sqrt(2) times as large between rows of the first encoder as between joined ones.
        return cls(encoders, y, text, logit_scale / np.sqrt(2).item(), len(embeddings))

    @property
    def first(self) -> Array:
        """Rows by the encoder that has text, (n, d1)."""
        return self.encoders[0]

    def scored(self, random_state: int) -> NDArray[np.int64]:
        """Return the rows that scales are measured on: some thousands where there are more."""
        return np.random.default_rng(random_state).permutation(len(self.y))[:SCORED_ROWS]

    def text_scale(self, random_state: int) -> float:
        """Return by how much cosines with text are to be multiplied beyond ``logit_scale``; 1 without text."""
        if self.text is None:
            return 1.0
        scored = self.scored(random_state)
        return text_scale(self.logit_scale * (self.first[scored] @ self.text.T), self.y[scored])


@dataclass(frozen=True)
class Mixture:
    """Models of the images, one for each encoder, and how much each counts.

    Attributes
    ----------
    of_text : float
        Weight of the expert on text.
    of_images : list of float
        Weight of each model.
    weights : list of ndarray of shape (c, width of the encoder)
        Of each model, times its weight.
    offset : ndarray of shape (c,)
        Of all models, times their weights.
    evidence : dict
        What the weights rest on; ``held_out`` is 0 where no row could be held out.
    """

    of_text: float
    of_images: list[float]
    weights: list[Array]
    offset: Array
    evidence: dict[str, Any]


def mix_experts(
    rows: Rows,
    encoders: Sequence[Array],
    scale: float,
    folds: int,
    settings: dict[str, Any],
    residual: bool = True,
) -> Mixture:
    """Model the images of each encoder, and weigh these models and the expert on text by rows that are held out.

    Parameters
    ----------
    rows : Rows
        Labels, and what the expert on text sees.
    encoders : sequence of ndarray of shape (n, width)
        Those of ``rows.encoders`` whose images are modelled.
    scale : float
        Of :meth:`Rows.text_scale`.
    folds : int
        At most.
    settings, residual
        As of :func:`~cafe.methods.mixture.experts.held_out_scores`.
    """
    y, n_classes, has_text = rows.y, rows.n_classes, rows.text is not None
    counts = np.bincount(y, minlength=n_classes)
    enough = 2 * np.sum(counts > 1) >= np.sum(counts > 0)
    gaussians = [fit_gaussian(X, y, n_classes, settings["device"]) if enough else None for X in encoders]
    usable = [(X, model) for X, model in zip(encoders, gaussians, strict=True) if model is not None]
    if not usable:
        models = [centred_means(X, y, n_classes) for X in encoders]
        scored = rows.scored(settings["random_state"])
        of_text, evidence = 1.0, {"held_out": 0}
        of_images = [
            weight_without_evidence(X[scored] @ weights.T + offset, y[scored], has_text, len(encoders))
            for X, (weights, offset) in zip(encoders, models, strict=True)
        ]
    else:
        scores = held_out_scores(rows.first, y, rows.text, scale * rows.logit_scale, usable, folds, settings, residual)
        chosen, evidence = pick_weights(scores, len(y) / np.sum(counts > 0))
        of_text, own = float(chosen[0]), iter(chosen[-len(usable) :])
        # Rows of an encoder that do not differ within any class have no covariance; the other encoder's have.
        none = [(np.zeros((n_classes, X.shape[1])), np.zeros(n_classes)) for X in encoders]
        models = [
            empty if model is None else (model.weights, model.offset)
            for empty, model in zip(none, gaussians, strict=True)
        ]
        of_images = [0.0 if model is None else float(next(own)) for model in gaussians]
    weighted = list(zip(of_images, models, strict=True))
    return Mixture(
        of_text,
        of_images,
        [weight * weights for weight, (weights, _) in weighted],
        np.sum([weight * offset for weight, (_, offset) in weighted], axis=0),
        evidence,
    )
