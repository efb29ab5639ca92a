"""How Tip-Adapter-F's keys are trained: its objective for the trainer, with the gradient by hand.

Letters: g configurations, b rows of a batch, d width, c classes, K keys; G is the gradient in the logits.

    A_ri      = exp( -beta (1 - f_r.k_i) )                                 affinity of row r with key i
    logits_rj = s f_r.W_j + alpha sum_{i in class j} A_ri
    G_rj      = ( softmax(logits_r)_j - [j = label_r] ) / b
    dL/dk_i   = alpha beta sum_r G_{r, class(i)} A_ri f_r

The affinities are kept with keys first, (g, K, b), since keys are sorted by class: a class is then a block of
whole rows, and neither the sum over it nor its gradient needs a product with the one-hot values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.methods.base import Problem, unit_length
from cafe.methods.training_runs import seed_of, shared_runs
from cafe.training.trainer import Configuration, Trained, steps_for, train_many

EPS = 1e-4  # of AdamW, as released


@dataclass(frozen=True)
class KeysShape:
    """What configurations must share to be trained side by side.

    Attributes
    ----------
    counts : tuple of int
        Keys of each class, c of them; the keys are sorted by class.
    """

    counts: tuple[int, ...]


@dataclass(frozen=True)
class KeysObjective:
    """Cross-entropy of Tip-Adapter's logits, trained in the keys.

    Attributes
    ----------
    text : Tensor of shape (c, d)
        Unit-length class embeddings that every configuration shares.
    X : Tensor of shape (n, d)
        Unit-length features, of which the keys start as copies.
    y : ndarray of shape (n,), int64
        Class rows.
    """

    text: Tensor
    X: Tensor
    y: NDArray[np.int64]

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the configuration's rows sorted by class, (K, d); nothing is drawn."""
        return {"keys": self.X[torch.as_tensor(sorted_rows(configuration.rows, self.y), device=self.X.device)].cpu()}

    def losses_and_gradients(
        self,
        shape: Any,
        parameters: dict[str, Tensor],
        hyper: dict[str, Tensor],
        features: Tensor,
        labels: Tensor,
        feature_mean: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and the gradient in the keys; formulas in the module's docstring."""
        g, b, _ = features.shape
        alpha, beta, scale = (hyper[k][:, None, None] for k in ("alpha", "beta", "logit_scale"))
        counts = torch.tensor(shape.counts, device=features.device)
        owner = torch.repeat_interleave(torch.arange(len(counts), device=features.device), counts)  # (K,)
        columns = features.transpose(1, 2)  # (g, d, b)
        affinity = torch.exp(beta * (parameters["keys"] @ columns - 1))  # (g, K, b)
        logits = (scale * (self.text @ columns)).index_add_(1, owner, alpha * affinity)  # (g, c, b)
        log_p = torch.log_softmax(logits, dim=1)
        true = labels[:, None, :]  # (g, 1, b)
        losses = -log_p.gather(1, true).mean(dim=(1, 2))
        error = log_p.exp_()
        error.scatter_add_(1, true, error.new_full((), -1.0).expand(g, 1, b))
        weight = affinity.mul_(error.index_select(1, owner))  # G A, (g, K, b)
        return losses, {"keys": (alpha * beta / b) * (weight @ features)}

    def activation_bytes(self, configuration: Configuration) -> int:
        """Three arrays of the size of affinities, and three of the size of logits."""
        b = min(configuration.batch_size, len(configuration.rows))
        return 3 * self.text.element_size() * b * (len(self.text) + len(configuration.rows))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Logits, affinities, and the gradient's product."""
        b = min(configuration.batch_size, len(configuration.rows))
        return b * self.text.shape[1] * (len(self.text) + 2 * len(configuration.rows))

    @classmethod
    def fit(cls, estimators: Sequence[Any], problems: Sequence[Problem]) -> None:
        """Train all estimators, and those that differ only after training once."""
        for members, base, device, dtype in shared_runs(estimators, problems):
            # Tip-Adapter compares cosines, whatever `normalize` says.
            X = torch.as_tensor(unit_length(np.asarray(base.X))).to(device=device, dtype=dtype)
            text = torch.as_tensor(unit_length(base.class_embeddings)).to(device=device, dtype=dtype)
            objective = cls(text, X, base.y)
            distinct: dict[tuple[Any, ...], list[int]] = {}
            configurations = {}
            for i in members:
                one = configuration_of(estimators[i], problems[i])
                # Without a seed every estimator drew its own, and is alone.
                key = (one.rows.tobytes(), one.random_state, tuple(one.hyper.items()), *_recipe(one))
                distinct.setdefault(key, []).append(i)
                configurations[i] = one
            groups = list(distinct.values())
            trained = train_many(
                objective, X, torch.as_tensor(base.y).to(device), [configurations[m[0]] for m in groups]
            )
            for same, result in zip(groups, trained, strict=True):
                for i in same:
                    store(estimators[i], problems[i], configurations[i], result)


def _recipe(one: Configuration) -> tuple[Any, ...]:
    return one.steps, one.batch_size, one.lr, one.weight_decay


def sorted_rows(rows: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows in order of their class, and of themselves within a class."""
    ordered: NDArray[np.int64] = rows[np.argsort(y[rows], kind="stable")]
    return ordered


def configuration_of(estimator: Any, problem: Problem) -> Configuration:
    """Translate an estimator's parameters for the trainer."""
    counts = np.bincount(problem.y, minlength=len(problem.class_embeddings))
    return Configuration(
        rows=problem.rows,
        random_state=seed_of(estimator),
        shape=KeysShape(tuple(counts.tolist())),
        hyper={**estimator.training_ratios(), "logit_scale": float(estimator.logit_scale)},
        steps=steps_for(estimator.epochs, len(problem.rows), estimator.batch_size),
        batch_size=estimator.batch_size,
        lr=estimator.lr,
        weight_decay=estimator.weight_decay,
        optimizer="adamw",
        eps=EPS,
    )


def store(estimator: Any, problem: Problem, configuration: Configuration, trained: Trained) -> None:
    """Set the fitted attributes."""
    estimator.keys_ = trained.parameters["keys"]
    ordered = problem.y[np.argsort(problem.y, kind="stable")]
    estimator.seen_, estimator.segments_ = np.unique(ordered, return_index=True)
    estimator.loss_ = trained.loss
    estimator.n_steps_ = configuration.steps
    estimator.kernel_ = "reference"
