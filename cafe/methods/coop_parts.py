"""How CoOp's contexts are trained: its objective for the trainer.

    W_j    = text tower( [start] v_1 ... v_M NAME_j . [end] )
    logits = s  f/|f| . W_j/|W_j|
    loss   = mean over the batch of  logsumexp(logits) - logits[label]

Gradients in v go through the frozen tower by autograd. Letters as in coop_prompts.py, and b rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cafe.encoders.text_towers.base import TextTower
from cafe.methods.base import Array, Problem
from cafe.methods.coop_cutting import Part
from cafe.methods.coop_prompts import ContextPrompts, make_prompts, words_as_context
from cafe.methods.training_runs import seed_of, shared_runs
from cafe.training.trainer import MEMORY_BUDGET, Configuration, Trained, train_many

INITIAL_STD = 0.02  # of random contexts, as released


@dataclass(frozen=True)
class ContextObjective:
    """Cross-entropy of cached image features against live prompts, trained in the contexts.

    Attributes
    ----------
    prompts : ContextPrompts
        Of all classes.
    start : Tensor of shape (M, w) or None
        Embeddings of words to start from; None draws N(0, 0.02).
    class_specific : bool
        One context for each class instead of one for all.
    class_chunk : int or None
        Classes encoded at a time; None for as many as the memory budget allows.
    checkpoint : bool or None
        Whether chunks are encoded again in the backward pass; None where there is more than one chunk.
    """

    prompts: ContextPrompts
    start: Tensor | None
    class_specific: bool
    class_chunk: int | None
    checkpoint: bool | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the contexts: (M, w), or (c, M, w) where they are class-specific."""
        common = (self.prompts.n_context, self.prompts.tower.width)
        return (self.prompts.n_classes, *common) if self.class_specific else common

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Return contexts of :attr:`shape`."""
        shape = self.shape
        if self.start is not None:
            return {"contexts": self.start.cpu().expand(shape).clone()}
        return {"contexts": INITIAL_STD * torch.randn(shape, generator=generator)}

    def parts_of(self, configurations: int) -> tuple[list[Part], bool]:
        """Return how classes are cut when that many configurations are stacked, and whether parts are recomputed.

        Where everything fits in the trainer's memory budget, parts only sort prompts by length.
        """
        if configurations in self._cuts:
            return self._cuts[configurations]
        prompts, common = self.prompts, not self.class_specific
        most = min(self.class_chunk or prompts.n_classes, prompts.n_classes)
        parts = prompts.parts(common, most, math.inf)
        several = most < prompts.n_classes
        tokens = MEMORY_BUDGET // (configurations * prompts.bytes_per_token)
        if self.class_chunk is None and sum(part.tokens for part in parts) > tokens:
            parts, several = prompts.parts(common, most, tokens), True
        self._cuts[configurations] = parts, several if self.checkpoint is None else self.checkpoint
        return self._cuts[configurations]

    @cached_property
    def _cuts(self) -> dict[int, tuple[list[Part], bool]]:
        return {}

    def class_features(self, contexts: Tensor) -> Tensor:
        """Encode all classes with contexts (g, M, w) or (g, c, M, w): (g, c, d), not normalised."""
        return self.prompts.all_features(contexts, *self.parts_of(len(contexts)))

    def encode(self, contexts: Array) -> Array:
        """Return the class embeddings (c, d) that one configuration's contexts give, not normalised."""
        with torch.no_grad():
            features = self.class_features(torch.as_tensor(contexts).to(self.prompts.embeddings)[None])
        array: Array = features[0].cpu().numpy()
        return array

    def losses_and_gradients(
        self,
        shape: Any,
        parameters: dict[str, Tensor],
        hyper: dict[str, Tensor],
        features: Tensor,
        labels: Tensor,
        feature_mean: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and the gradient in the contexts; formulas in the module's docstring."""
        contexts = parameters["contexts"].detach().requires_grad_()
        classes = normalize(self.class_features(contexts), dim=-1)  # (g, c, d)
        logits = hyper["logit_scale"][:, None, None] * (normalize(features, dim=-1) @ classes.transpose(1, 2))
        losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
        (gradient,) = torch.autograd.grad(losses.sum(), contexts)
        return losses.detach(), {"contexts": gradient}

    def activation_bytes(self, configuration: Configuration) -> int:
        """Activations of all prompts, or of the largest part where parts are recomputed."""
        parts, recompute = self.parts_of(1)
        tokens = [part.tokens for part in parts]
        return (max(tokens) if recompute else sum(tokens)) * self.prompts.bytes_per_token

    def multiply_adds(self, configuration: Configuration) -> int:
        """Each weight of the tower once per token forwards and once backwards, for all classes."""
        return 2 * self.prompts.weights * sum(part.tokens for part in self.parts_of(1)[0])

    @classmethod
    def fit(cls, estimators: Sequence[Any], problems: Sequence[Problem], towers: Sequence[TextTower]) -> None:
        """Train all estimators; those whose prompts are the same in one run."""
        for members, base, device, dtype in shared_runs(estimators, problems):
            X = torch.as_tensor(np.ascontiguousarray(base.X)).to(device=device, dtype=dtype)
            y = torch.as_tensor(base.y).to(device)
            alike: dict[tuple[Any, ...], list[int]] = {}
            for i in members:
                alike.setdefault((id(towers[i]), *_prompting(estimators[i])), []).append(i)
            for same in alike.values():
                objective = cls.of(estimators[same[0]], towers[same[0]].placed(device, dtype))
                configurations = [configuration_of(estimators[i], problems[i], objective) for i in same]
                for i, one, result in zip(
                    same, configurations, train_many(objective, X, y, configurations), strict=True
                ):
                    store(estimators[i], one, result, objective)

    @classmethod
    def of(cls, estimator: Any, tower: TextTower) -> ContextObjective:
        """Make the objective that an estimator's parameters describe."""
        start = None if estimator.context_init is None else words_as_context(tower, estimator.context_init)
        n_context = estimator.n_context if start is None else len(start)
        prompts = make_prompts(tower, estimator.names(), n_context, estimator.class_token)
        return cls(prompts, start, estimator.class_specific, estimator.class_chunk, estimator.checkpoint)


def _prompting(estimator: Any) -> tuple[Any, ...]:
    """Return what estimators must share to share prompts."""
    names = ("n_context", "context_init", "class_token", "class_specific", "class_chunk", "checkpoint")
    return tuple(estimator.names()), *(getattr(estimator, name) for name in names)


def default_epochs(counts: Sequence[int]) -> int:
    """Return the paper's passes over the shots: 50, 100 or 200 for 1, 2 to 4, or more shots; 50 from 1,000 classes on.

    Parameters
    ----------
    counts : sequence of int
        Training rows of each class.

    Examples
    --------
    >>> default_epochs([1] * 10), default_epochs([4] * 10), default_epochs([16] * 10), default_epochs([16] * 1000)
    (50, 100, 200, 50)
    """
    shots = max(counts)
    if shots <= 1 or len(counts) >= 1000:
        return 50
    return 100 if shots <= 4 else 200


def configuration_of(estimator: Any, problem: Problem, objective: ContextObjective) -> Configuration:
    """Translate an estimator's parameters for the trainer."""
    n = len(problem.rows)
    batch = min(estimator.batch_size, n)
    epochs = estimator.epochs
    if epochs is None:
        epochs = default_epochs(np.bincount(problem.y, minlength=objective.prompts.n_classes).tolist())
    per_epoch = max(1, n // batch)  # the released loader drops a short last batch
    return Configuration(
        rows=problem.rows,
        random_state=seed_of(estimator),
        shape=objective.shape,
        hyper={"logit_scale": float(estimator.logit_scale)},
        steps=max(1, math.ceil(epochs * per_epoch)),
        batch_size=estimator.batch_size,
        lr=estimator.lr,
        weight_decay=estimator.weight_decay,
        optimizer="sgd",
        warmup_steps=math.ceil(estimator.warmup_epochs * per_epoch),
    )


def store(estimator: Any, configuration: Configuration, trained: Trained, objective: ContextObjective) -> None:
    """Set the fitted attributes; with them, no tower is needed any more."""
    estimator.contexts_ = trained.parameters["contexts"]
    prompts = objective.prompts
    estimator.text_ = objective.encode(estimator.contexts_)
    estimator.tower_id_ = prompts.tower.id
    estimator.tower_sha256_ = prompts.tower.sha256
    estimator.loss_ = trained.loss
    estimator.n_steps_ = configuration.steps
    estimator.kernel_ = "autograd"
