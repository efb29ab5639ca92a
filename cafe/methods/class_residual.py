"""What TaskRes, the zero-shot-initialised probe and CLAP share: a trained residual on every class embedding.

Letters: g configurations, b rows of a batch, d width, c classes; s logit scale, a residual scale.

    w_c    = t_c + a x_c                                   x = 0 at the start
    z_ic   = s cos(f_i, w_c)
    loss   = mean_i CE(z_i, y_i)  +  (1/c) sum_c lambda_c |w_c - t_c|^2  +  (decay / 2) |x|^2

TaskRes is a = 0.5 with decay; the probe is a = 1 alone (training w from w = t, the same steps); CLAP is a = 1 with
lambda. The length of t decides how far a step of given size turns w: PEER_RESULTS has the same probe at 64.55 with raw
text of length 8.7 and at 53.0 with unit-length text. So it is a parameter, ``text_norm``.

Gradient, with u_c = w_c / |w_c|, unit f and G = (softmax(z) - onehot(y)) / b:

    dCE/du_c = s sum_i G_ic f_i
    dCE/dw_c = (dCE/du_c - u_c (u_c . dCE/du_c)) / |w_c|
    d/dx_c   = a (dCE/dw_c + (2 / c) lambda_c a x_c) + decay x_c
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cafe.methods.base import Array, CheckedArrays, FewShotClassifier, Problem, cosine_logits, unit_length
from cafe.methods.problem import problems_of
from cafe.methods.side_by_side import check_numbers, dassl_steps, fit_side_by_side, resolve_grid
from cafe.methods.training_runs import seed_of
from cafe.training.trainer import Configuration


@dataclass(frozen=True)
class ClassResidualObjective:
    """The loss above, for the trainer.

    Attributes
    ----------
    start : Tensor of shape (c, d)
        t.
    strength : Tensor of shape (configurations, c) or None
        lambda of every configuration of the run, found by ``hyper["place"]``; None for zeros.
    """

    start: Tensor
    strength: Tensor | None

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Start at the text itself: no random number is drawn."""
        return {"residual": torch.zeros(self.start.shape)}

    def losses_and_gradients(
        self,
        shape: Any,
        parameters: dict[str, Tensor],
        hyper: dict[str, Tensor],
        features: Tensor,
        labels: Tensor,
        feature_mean: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and the gradient in the residual (g, c, d); formulas in the module's docstring."""
        x = parameters["residual"]
        a, decay, s = (hyper[k][:, None, None] for k in ("residual_scale", "decay", "logit_scale"))
        w = self.start + a * x  # (g, c, d)
        length = w.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
        u = w / length
        log_p = torch.log_softmax(s * (features @ u.transpose(1, 2)), dim=-1)  # (g, b, c)
        own = labels[:, :, None]
        losses = -log_p.gather(2, own)[:, :, 0].mean(1)
        G = log_p.exp_().scatter_add_(2, own, log_p.new_full(own.shape, -1.0)).div_(labels.shape[1])
        du = (s * G).transpose(1, 2) @ features  # (g, c, d)
        dw = (du - u * (u * du).sum(-1, keepdim=True)) / length
        if self.strength is not None:
            strength = self.strength[hyper["place"].long()][:, :, None] / len(self.start)  # (g, c, 1)
            losses = losses + (strength * (a * x) ** 2).sum((1, 2))
            dw = dw + 2 * strength * a * x
        losses = losses + 0.5 * hyper["decay"] * (x**2).sum((1, 2))
        return losses, {"residual": a * dw + decay * x}

    def activation_bytes(self, configuration: Configuration) -> int:
        """Logits and their gradient, and five copies of the class weights."""
        b, (c, d) = min(configuration.batch_size, len(configuration.rows)), self.start.shape
        return int(self.start.element_size() * (3 * b * c + b * d + 5 * c * d))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Logits forward, class weights backward."""
        b, (c, d) = min(configuration.batch_size, len(configuration.rows)), self.start.shape
        return int(2 * b * c * d)


class ClassResidualClassifier(FewShotClassifier):
    """Base of the three; a subclass says its optimiser, residual scale, decay and strength of the pull to text."""

    text_norm: float | None
    epochs: float | None
    batch_size: int
    lr: float | str
    _optimizer = "sgd"

    @classmethod
    def fit_grid(
        cls, estimators: Sequence[Any], X: ArrayLike, y: ArrayLike, rows: Sequence[NDArray[np.int64]] | None
    ) -> None:
        """Fit several side by side; see the base class."""
        problems = problems_of(estimators, X, y, rows)
        for estimator, problem in zip(estimators, problems, strict=True):
            estimator._prepare()
            resolve_grid(estimator, problem)
        trained = fit_side_by_side(
            estimators,
            problems,
            cls._objective,
            lambda one, problem, place: one._configuration(problem, place),
            lambda one: one.text_norm,
            cosine=True,
        )
        for one, problem, result in zip(estimators, problems, trained, strict=True):
            start = scaled_text(problem.base, one.text_norm)
            one.weights_ = start + np.asarray(one._residual_scale() * result.parameters["residual"], start.dtype)

    @classmethod
    def _objective(
        cls, base: CheckedArrays, estimators: list[Any], problems: list[Problem], to: dict[str, Any]
    ) -> ClassResidualObjective:
        strengths = [one._strength(problem) for one, problem in zip(estimators, problems, strict=True)]
        held = None if strengths[0] is None else torch.as_tensor(np.stack(strengths)).to(**to)
        return ClassResidualObjective(torch.as_tensor(scaled_text(base, estimators[0].text_norm)).to(**to), held)

    def _configuration(self, problem: Problem, place: int) -> Configuration:
        n = len(problem.rows)
        steps, warmup = dassl_steps(self._epochs(problem), n, self.batch_size)
        hyper = {
            "residual_scale": self._residual_scale(),
            "decay": self._decay(),
            "logit_scale": self.logit_scale,
            "place": place,
        }
        lr = float(getattr(self, "lr_", self.lr))
        return Configuration(
            problem.rows,
            seed_of(self),
            "class-residual",
            hyper,
            steps,
            self.batch_size,
            lr,
            0.0,
            self._optimizer,
            warmup,
        )

    def _epochs(self, problem: Problem) -> float:
        return float(self.epochs) if self.epochs is not None else 300.0

    def _residual_scale(self) -> float:
        return 1.0

    def _decay(self) -> float:
        return 0.0

    def _strength(self, problem: Problem) -> Array | None:
        """Return lambda (c,), or None for none."""
        return None

    def _prepare(self) -> None:
        super()._prepare()
        tiny = float(np.finfo(float).tiny)
        check_numbers(self, text_norm=tiny, epochs=tiny, batch_size=1, lr=0)

    def _logits(self, X: Array) -> Array:
        return cosine_logits(X, self.weights_.astype(X.dtype, copy=False), self.logit_scale)


def scaled_text(base: CheckedArrays, text_norm: float | None) -> Array:
    """Return class embeddings (c, d) of the given length; None keeps the lengths they have on entry."""
    if text_norm is None:
        return base.class_embeddings
    scaled: Array = unit_length(base.class_embeddings) * base.class_embeddings.dtype.type(text_norm)
    return scaled


def most_shots(problem: Problem) -> int:
    """Return the number of training rows of the class that has most."""
    return int(np.bincount(problem.y).max())
