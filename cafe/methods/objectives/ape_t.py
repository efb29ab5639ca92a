"""What APE-T trains: its objective for the trainer.

Letters: g configurations, b rows of a batch, n keys, d width, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cafe.training.trainer import Batch, Configuration


@dataclass(frozen=True)
class ResidualKeysObjective:
    """Cross-entropy of the logits in :class:`cafe.APET`, for the trainer; gradients by autograd.

    Attributes
    ----------
    text : Tensor of shape (c, d)
        Class embeddings.
    keys : list of Tensor of shape (n, d)
        Shots of every configuration of the run, found by ``hyper["index"]``.
    key_labels : list of Tensor of shape (n,), int64
        Their class rows.
    channels : Tensor of shape (configurations, d)
        One for kept channels, else zero.
    """

    text: Tensor
    keys: list[Tensor]
    key_labels: list[Tensor]
    channels: Tensor
    stacked: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def _of_stack(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys (g, n, d), their labels (g, n) and channels (g, 1, d) of a stack; made once for each."""
        # The same tensor at every step of a stack; to read it each time would be to wait for the device.
        key = id(index)
        if self.stacked.get(key, (None,))[0] is not index:
            indices = index.long().tolist()
            keys = torch.stack([self.keys[i] for i in indices])
            labels = torch.stack([self.key_labels[i] for i in indices])
            self.stacked[key] = (index, keys, labels, torch.stack([self.channels[i] for i in indices])[:, None, :])
        return self.stacked[key][1:]

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Start at Tip-Adapter: no residual, values of one; no random number is drawn."""
        return {"residual": torch.zeros(self.text.shape), "values": torch.ones(len(configuration.rows))}

    def losses_and_gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and gradients."""
        features, labels = batch.features, batch.labels
        leaves = {name: value.detach().requires_grad_() for name, value in batch.parameters.items()}
        keys, key_labels, channels = self._of_stack(batch.hyper["index"])
        alpha, beta, scale = (batch.hyper[k][:, None, None] for k in ("alpha", "beta", "logit_scale"))
        residual = leaves["residual"] * channels  # (g, c, d)
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
