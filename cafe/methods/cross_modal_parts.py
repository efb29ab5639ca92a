"""What the two cross-modal methods share: batches that are half images and half text, and a trained linear head.

Letters: g configurations, b rows of a batch, d width, c classes, h bottleneck.

    logits = logit_scale  A(x) . w_c          x an image feature or a class embedding, w = class embeddings at the start
    A(x)   = x                                                                    linear probe
    A(x)   = ratio ReLU(ReLU(x W1) W2) + (1 - ratio) x                            adapter
    loss   = mean CE over the half batch of images and the half batch of text

Neither A(x) nor w is scaled to length one after the start. The text half are the class embeddings of the classes of
the other half's rows: where every class has as many shots, classes are drawn as often as the paper draws them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import relu

from cafe.methods.base import FewShotClassifier, Problem
from cafe.methods.problem import problems_of
from cafe.methods.side_by_side import check_numbers, fit_side_by_side, resolve_grid
from cafe.methods.training_runs import seed_of
from cafe.training.trainer import Configuration

# Steps at 1e-5 before the cosine; the published warm-up rises linearly from there over as many.
WARMUP_STEPS = 50


@dataclass(frozen=True)
class CrossModalObjective:
    """The loss above, for the trainer.

    Attributes
    ----------
    text : Tensor of shape (c, d)
        Class embeddings.
    """

    text: Tensor

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """The head is the text; an adapter is drawn as torch.nn.Linear is."""
        parameters = {"head": self.text.detach().float().cpu().clone()}
        shape: Any = configuration.shape
        if shape:
            d = self.text.shape[1]
            for name, rows, columns in (("down", d, shape), ("up", shape, d)):
                draw = torch.rand(rows, columns, generator=generator)
                parameters[name] = (2 * draw - 1) / math.sqrt(rows)
        return parameters

    def losses_and_gradients(
        self,
        shape: Any,
        parameters: dict[str, Tensor],
        hyper: dict[str, Tensor],
        features: Tensor,
        labels: Tensor,
        feature_mean: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and gradients.

        With G = (softmax(logits) - onehot) / b and y = A(x):  dw = s G^T y,  dy = s G w,  and through A by the chain
        rule, each ReLU passing what it passed forward.
        """
        half = (labels.shape[1] + 1) // 2
        x = torch.cat([features[:, :half], self.text[labels[:, -half:]]], dim=1)  # (g, 2 half, d)
        y = torch.cat([labels[:, :half], labels[:, -half:]], dim=1)
        s = hyper["logit_scale"][:, None, None]
        head = parameters["head"]
        if shape:
            ratio = hyper["ratio"][:, None, None]
            hidden = relu(x @ parameters["down"])  # (g, rows, h)
            adapted = relu(hidden @ parameters["up"])  # (g, rows, d)
            seen = ratio * adapted + (1 - ratio) * x
        else:
            seen = x
        log_p = torch.log_softmax(s * (seen @ head.transpose(1, 2)), dim=-1)
        own = y[:, :, None]
        losses = -log_p.gather(2, own)[:, :, 0].mean(1)
        G = s * log_p.exp_().scatter_add_(2, own, log_p.new_full(own.shape, -1.0)).div_(y.shape[1])
        gradients = {"head": G.transpose(1, 2) @ seen}
        if shape:
            d_adapted = ratio * (G @ head) * (adapted > 0)
            gradients["up"] = hidden.transpose(1, 2) @ d_adapted
            d_hidden = (d_adapted @ parameters["up"].transpose(1, 2)) * (hidden > 0)
            gradients["down"] = x.transpose(1, 2) @ d_hidden
        return losses, gradients

    def activation_bytes(self, configuration: Configuration) -> int:
        """Logits, rows, and three copies of the head."""
        b, (c, d) = min(configuration.batch_size, len(configuration.rows)), self.text.shape
        return int(self.text.element_size() * (3 * b * c + 6 * b * d + 3 * c * d))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Forward once, backward once or twice."""
        b, (c, d) = min(configuration.batch_size, len(configuration.rows)), self.text.shape
        bottleneck: Any = configuration.shape
        return int(2 * b * d * c + 6 * b * d * bottleneck)


class CrossModalClassifier(FewShotClassifier):
    """Base of the two; a subclass says its bottleneck and stores its adapter."""

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {}
    batch_size: int | str
    iterations: int | str
    lr: float | str
    weight_decay: float | str

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
            lambda base, members, theirs, to: CrossModalObjective(torch.as_tensor(base.class_embeddings).to(**to)),
            lambda one, problem, place: one._configuration(problem),
        )
        for one, result in zip(estimators, trained, strict=True):
            one.parameters_ = result.parameters

    def _configuration(self, problem: Problem) -> Configuration:
        iterations = int(getattr(self, "iterations_", self.iterations))
        return Configuration(
            rows=problem.rows,
            random_state=seed_of(self),
            shape=self._bottleneck(problem),
            hyper={"logit_scale": self.logit_scale, "ratio": getattr(self, "alpha", 0.0)},
            steps=iterations,
            batch_size=int(getattr(self, "batch_size_", self.batch_size)),
            lr=float(getattr(self, "lr_", self.lr)),
            weight_decay=float(getattr(self, "weight_decay_", self.weight_decay)),
            optimizer="adamw",
            warmup_steps=min(WARMUP_STEPS, iterations // 2),
        )

    def _bottleneck(self, problem: Problem) -> int:
        """Width of the adapter; 0 for none."""
        return 0

    def _prepare(self) -> None:
        super()._prepare()
        check_numbers(self, batch_size=1, iterations=1, lr=0, weight_decay=0)
