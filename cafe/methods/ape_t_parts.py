"""What APE-T trains: its objective for the trainer.

Letters: g configurations, b rows of a batch, n keys, d width, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cafe.training.trainer import Configuration


@dataclass(frozen=True)
class ResidualKeysObjective:
    """Cross-entropy of the logits in :class:`cafe.APET`, for the trainer; gradients by autograd.

    Attributes
    ----------
    text : Tensor of shape (c, d)
        Class embeddings.
    keys : list of Tensor of shape (n, d)
        Shots of every configuration of the run, found by ``hyper["place"]``.
    key_labels : list of Tensor of shape (n,), int64
        Their class rows.
    channels : Tensor of shape (configurations, d)
        One for kept channels, else zero.
    """

    text: Tensor
    keys: list[Tensor]
    key_labels: list[Tensor]
    channels: Tensor

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Start at Tip-Adapter: no residual, values of one; no random number is drawn."""
        return {"residual": torch.zeros(self.text.shape), "values": torch.ones(len(configuration.rows))}

    def losses_and_gradients(
        self,
        shape: Any,
        parameters: dict[str, Tensor],
        hyper: dict[str, Tensor],
        features: Tensor,
        labels: Tensor,
        feature_mean: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and gradients."""
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        places = hyper["place"].long().tolist()
        keys = torch.stack([self.keys[i] for i in places])  # (g, n, d)
        key_labels = torch.stack([self.key_labels[i] for i in places])
        alpha, beta, scale = (hyper[k][:, None, None] for k in ("alpha", "beta", "logit_scale"))
        residual = leaves["residual"] * self.channels[places][:, None, :]  # (g, c, d)
        moved = keys + residual.gather(1, key_labels[:, :, None].expand_as(keys))
        affinity = features @ moved.transpose(1, 2)  # (g, b, n)
        votes = (-beta * (1 - affinity)).exp() * leaves["values"][:, None, :]
        logits = scale * (features @ (self.text + residual).transpose(1, 2))
        logits = logits.scatter_add(2, key_labels[:, None, :].expand_as(votes), alpha * votes)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        losses = losses.view(labels.shape).mean(1)
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
        return losses.detach(), dict(zip(leaves, gradients, strict=True))

    def activation_bytes(self, configuration: Configuration) -> int:
        """Affinities and logits with what autograd keeps of them, keys and residuals."""
        n, (c, d) = len(configuration.rows), self.text.shape
        b = min(configuration.batch_size, n)
        return int(self.text.element_size() * (4 * b * (n + c) + 3 * (n + c) * d))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Affinities and logits, forward once and backward once."""
        n, (c, d) = len(configuration.rows), self.text.shape
        return int(2 * min(configuration.batch_size, n) * d * (n + c))
