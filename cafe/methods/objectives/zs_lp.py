"""What the zero-shot-initialised probe trains, and TaskRes and CLAP with it: a residual on every class embedding.

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

from dataclasses import dataclass

import torch
from torch import Tensor

from cafe.training.trainer import Batch, Configuration


@dataclass(frozen=True)
class ClassResidualObjective:
    """The loss above, for the trainer.

    Attributes
    ----------
    start : Tensor of shape (c, d)
        t.
    strength : Tensor of shape (configurations, c) or None
        lambda of every configuration of the run, found by ``hyper["index"]``; None for zeros.
    """

    start: Tensor
    strength: Tensor | None

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Start at the text itself: no random number is drawn."""
        return {"residual": torch.zeros(self.start.shape)}

    def losses_and_gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and the gradient in the residual (g, c, d); formulas in the module's docstring."""
        features, labels, hyper = batch.features, batch.labels, batch.hyper
        x = batch.parameters["residual"]
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
            strength = self.strength[hyper["index"].long()][:, :, None] / len(self.start)  # (g, c, 1)
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
