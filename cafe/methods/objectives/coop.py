"""The objective with which the trainer trains CoOp's contexts.

    W_j    = text tower( [start] v_1 ... v_M NAME_j . [end] )
    logits = s  f/|f| . W_j/|W_j|
    loss   = mean over the batch of  logsumexp(logits) - logits[label]

Gradients in v go through the frozen tower by autograd. Letters as in learned_prompts/prompts.py, and b rows of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cafe.encoders.text_towers.base import TextTower
from cafe.methods.base import Array
from cafe.methods.learned_prompts.prompts import ContextPrompts, Part, make_prompts, words_as_context
from cafe.training.trainer import MEMORY_BUDGET, Batch, Configuration

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
        """Return the parts of the classes for a number of stacked configurations, and whether parts are recomputed.

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

    def losses_and_gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and the gradient in the contexts; formulas in the module's docstring."""
        features, labels = batch.features, batch.labels
        contexts = batch.parameters["contexts"].detach().requires_grad_()
        classes = normalize(self.class_features(contexts), dim=-1)  # (g, c, d)
        logits = batch.hyper["logit_scale"][:, None, None] * (normalize(features, dim=-1) @ classes.transpose(1, 2))
        losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
        (gradient,) = torch.autograd.grad(losses.sum(), contexts)
        return losses.detach(), {"contexts": gradient}

    def activation_bytes(self, configuration: Configuration) -> int:
        """Estimate the bytes of a step: activations of all prompts, or of the largest part if parts are recomputed."""
        parts, recompute = self.parts_of(1)
        tokens = [part.tokens for part in parts]
        return (max(tokens) if recompute else sum(tokens)) * self.prompts.bytes_per_token

    def multiply_adds(self, configuration: Configuration) -> int:
        """Count the multiply-adds of a step: each weight of the tower, once per token forward and once backward."""
        return 2 * self.prompts.weights * sum(part.tokens for part in self.parts_of(1)[0])

    @classmethod
    def of(cls, estimator: Any, tower: TextTower) -> ContextObjective:
        """Make the objective that an estimator's parameters describe."""
        start = None if estimator.context_init is None else words_as_context(tower, estimator.context_init)
        n_context = estimator.n_context if start is None else len(start)
        prompts = make_prompts(tower, estimator.names(), n_context, estimator.class_token)
        return cls(prompts, start, estimator.class_specific, estimator.class_chunk, estimator.checkpoint)
