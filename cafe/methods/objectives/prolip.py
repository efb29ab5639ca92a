"""The objective with which the trainer trains ProLIP's projection.

Letters: g configurations, b rows of a batch, p width before the projection, d after it, c classes; s logit scale.

    v = x (W0 + D) + bias        u = v / |v|        z_c = s u . t_c        loss = mean CE(z) + strength |D|^2

With G = (softmax(z) - onehot) / b:   du = s G t,   dv = (du - u (u . du)) / |v|,   dD = x^T dv + 2 strength D
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cafe.kernels.projection import ProjectionStep
from cafe.training.trainer import Batch, Configuration, Step


@dataclass(frozen=True)
class ProjectionObjective:
    """Cross-entropy after the projection plus the pull to its start; formula in the module's docstring.

    Attributes
    ----------
    start : Tensor of shape (p, d)
        W0.
    bias : Tensor of shape (d,)
        Frozen.
    text : Tensor of shape (c, d)
        Class embeddings, unit length.
    products : torch.dtype, default=None
        Dtype of the products on a CPU; None for the trainer's X's.
    """

    start: Tensor
    bias: Tensor
    text: Tensor
    products: torch.dtype | None = None

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Start at the pretrained projection: no random number is drawn."""
        return {"change": torch.zeros(self.start.shape)}

    def losses_and_gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and the gradient in the change of the projection."""
        features, labels = batch.features, batch.labels
        change = batch.parameters["change"]  # (g, p, d)
        s, strength = (batch.hyper[k][:, None, None] for k in ("logit_scale", "strength"))
        v = features @ (self.start + change) + self.bias  # (g, b, d)
        length = v.norm(dim=-1, keepdim=True).clamp_min(1e-12)  # 1 / tiny would overflow for a row of zeros
        u = v / length
        t = torch.nn.functional.normalize(self.text, dim=-1)
        log_p = torch.log_softmax(s * (u @ t.T), dim=-1)
        own = labels[:, :, None]
        losses = -log_p.gather(2, own)[:, :, 0].mean(1) + (strength * change.square()).sum((1, 2))
        G = log_p.exp_().scatter_add_(2, own, log_p.new_full(own.shape, -1.0)).div_(labels.shape[1])
        du = s * (G @ t)
        dv = (du - u * (u * du).sum(-1, keepdim=True)) / length
        return losses, {"change": features.transpose(1, 2) @ dv + 2 * strength * change}

    def stepper(self, shape: Any, hyper: dict[str, Tensor], X: Tensor, y: Tensor, feature_mean: Tensor) -> Step | None:
        """Return the step in blocks of rows on a CPU; None elsewhere."""
        if X.device.type != "cpu":
            return None
        return ProjectionStep(hyper, X, y, self.start, self.bias, self.text, self.products)

    def uses_feature_mean(self, shape: Any) -> bool:
        """Whether the mean training feature is used: never."""
        return False

    def activation_bytes(self, configuration: Configuration) -> int:
        """Estimate the bytes of a step: logits, projected rows, and three copies of the projection."""
        b, (c, d) = min(configuration.batch_size, len(configuration.rows)), self.text.shape
        return int(self.start.element_size() * (3 * b * c + 6 * b * d + 3 * self.start.numel()))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Count the multiply-adds of a step: projection and logits, forward once and backward once."""
        b, (c, d) = min(configuration.batch_size, len(configuration.rows)), self.text.shape
        return int(2 * b * (self.start.numel() + c * d))
