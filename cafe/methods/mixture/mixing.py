"""What ``auto``, ``zero-shot-plus`` and ``linear-map`` share: rows by one encoder or two, and the mixture of experts.

One expert reads the text of the first encoder, and one for each encoder models the images. All scores are linear in the
features, so a fit keeps one weight matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cafe.methods.base import Array, FewShotClassifier, Problem, unit_length
from cafe.methods.inference import scores
from cafe.methods.inputs.cosines import split_encoders
from cafe.methods.inputs.parameters import Constraint, Number
from cafe.methods.mixture.experts import SCORED_ROWS, centred_means, distinct_rows, held_out_expert_logits
from cafe.methods.mixture.gaussians import fit_gaussian
from cafe.methods.mixture.weights import likeliest_scale, pick_weights, weight_without_evidence


@dataclass(frozen=True)
class TrainingRows:
    """Training rows by each encoder without duplicates, and the text of the first encoder.

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
    def of(cls, problem: Problem, has_text: bool, logit_scale: float, second_width: int) -> TrainingRows:
        """Split the arrays of a problem by encoder, and leave duplicate rows of a class out.

        Parameters
        ----------
        problem : Problem
            Of two encoders, its features are as :meth:`cafe.features.Features.join` puts them beside each other.
        has_text : bool
            Whether the problem's class embeddings are text.
        logit_scale : float
            Factor of cosines in d columns.
        second_width : int
            Columns of the second encoder; 0 for one encoder.
        """
        X, y, embeddings = problem.X, problem.y, problem.class_embeddings
        kept = distinct_rows(X, y)
        X, y = X[kept], y[kept]
        if not second_width:
            return cls([X], y, embeddings if has_text else None, logit_scale, len(embeddings))
        encoders = split_encoders(X, second_width)
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
        """Return the likeliest factor of cosines with text beyond ``logit_scale``; 1 without text."""
        if self.text is None:
            return 1.0
        scored = self.scored(random_state)
        return likeliest_scale(self.logit_scale * (self.first[scored] @ self.text.T), self.y[scored])

    @property
    def enough_to_hold_out(self) -> bool:
        """Whether at least half of the classes with a row have a second one, so that rows can be held out."""
        counts = np.bincount(self.y, minlength=self.n_classes)
        return bool(2 * np.sum(counts > 1) >= np.sum(counts > 0))


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
    rows: TrainingRows,
    encoders: Sequence[Array],
    scale: float,
    folds: int,
    settings: dict[str, Any],
    residual: bool = True,
) -> Mixture:
    """Fit a model of the images by each encoder, and weigh these models and the expert on text on held-out rows.

    Parameters
    ----------
    rows : TrainingRows
        Labels, and what the expert on text sees.
    encoders : sequence of ndarray of shape (n, width)
        Those of ``rows.encoders`` whose images are modelled.
    scale : float
        Of :meth:`TrainingRows.text_scale`.
    folds : int
        At most.
    settings, residual
        As of :func:`~cafe.methods.mixture.experts.held_out_expert_logits`.
    """
    y, n_classes, has_text = rows.y, rows.n_classes, rows.text is not None
    enough = rows.enough_to_hold_out
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
        held_out = held_out_expert_logits(
            rows.first, y, rows.text, scale * rows.logit_scale, usable, folds, settings, residual
        )
        chosen, evidence = pick_weights(held_out, len(y) / len(np.unique(y)))
        of_text, own = float(chosen[0]), iter(chosen[-len(usable) :])
        # An encoder whose rows do not differ within any class has no covariance, and so no model.
        models = [
            (np.zeros((n_classes, X.shape[1])), np.zeros(n_classes)) if model is None else (model.weights, model.offset)
            for X, model in zip(encoders, gaussians, strict=True)
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


class MixtureClassifier(FewShotClassifier):
    """Base of the methods whose fit is one linear score of the features: text of the first encoder, beside images.

    Attributes
    ----------
    weights_, intercept_ : ndarray of shape (c, d), ndarray of shape (c,)
        The whole mixture, merged.
    mixture_, evidence_ : dict
        The weights of the experts, and what the choice of them rested on.
    """

    constraints: ClassVar[dict[str, Constraint]] = {"second_width": Number(0, whole=True)}
    second_width: int
    weights_: Array
    intercept_: Array
    mixture_: dict[str, float]
    evidence_: dict[str, Any]

    def _rows_by_encoder(self, problem: Problem) -> TrainingRows:
        """Return the training rows of a problem by encoder."""
        return TrainingRows.of(problem, self.embedding_source_ == "text", self.logit_scale, self.second_width)

    def _store_merged(
        self, problem: Problem, images: Array, intercept: Array, text: Array | None, *, centred: bool = False
    ) -> None:
        """Set ``weights_`` and ``intercept_``.

        Parameters
        ----------
        problem : Problem
            What was learned from.
        images : ndarray of shape (c, k)
            Weights of the models of the images, for the last k columns of the features.
        intercept : ndarray of shape (c,)
            Of the same models.
        text : ndarray of shape (c, d1) or None
            Weights of the expert on text, for the first d1 columns; None without text.
        centred : bool, default=False
            Whether to subtract the mean over all classes. What all classes share changes no probability; where features
            lie close together it is some ten times what tells classes apart, and float32 would round by as much.
        """
        weights = np.zeros((len(images), problem.base.X.shape[1]))
        weights[:, -images.shape[1] :] = images
        if text is not None:
            weights[:, : text.shape[1]] += text
        self.weights_, self.intercept_ = (
            (v - v.mean(axis=0) if centred else v).astype(problem.base.X.dtype) for v in (weights, intercept)
        )

    def chosen_on(self) -> str:
        """Return that weights are chosen on held-out rows of the shots, where there are any; see the base class."""
        return "cross-validation" if self.evidence_.get("held_out") else "nothing"

    def row_extras(self) -> dict[str, Any]:
        """Return the weights that were chosen, and the evidence for them."""
        return {"mixture": {**self.mixture_, **self.evidence_}}

    def _logits(self, X: Array) -> Array:
        return scores.linear_of_parts(self, X)
