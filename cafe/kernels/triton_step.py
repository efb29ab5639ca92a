"""A stack's losses and gradients on Triton kernels: what needs (n, n_classes), and the bottleneck, are fused.

Forward of each side is one launch (triton_bottleneck.py), the loss and its gradients in both sides three at most
(triton_cross_entropy.py); the rest, gradients of the two weight matrices and of ratios, is kernels/cpu.py's
``Side.gradients``: small matrix products, which the vendor's library does best.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cafe.kernels.cpu import CpuAdapterStep, Side, Workspace
from cafe.kernels.cpu_ratios import Ratio, ratio_forward
from cafe.kernels.reference import Parameters
from cafe.kernels.triton_bottleneck import bottleneck
from cafe.kernels.triton_cross_entropy import cross_entropy


class TritonSide(Side):
    """One side with its forward pass in one launch."""

    def __init__(
        self, name: str, x: Tensor, weights: tuple[Tensor, Tensor], ratio: Ratio, form: str, room: Workspace
    ) -> None:
        self.name, self.weights, self.ratio, self.form, self.room = name, weights, ratio, form, room
        self.x = x.expand(len(weights[0]), *x.shape[1:])
        self.hidden, self.adapted, self.q, r = bottleneck(x, *weights, ratio.values, form)
        self.r = r[..., None]


class TritonAdapterStep(CpuAdapterStep):
    """As :class:`~cafe.kernels.cpu.CpuAdapterStep`, on a GPU, with logits never stored.

    Features may be float32 or bfloat16; parameters are float32. All configurations of the stack go in one launch.
    """

    def __call__(
        self, parameters: Parameters, index: Tensor, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,) and gradients; see the CPU kernel."""
        products = self._prepared(parameters)
        shape, g = self.shape, len(index)
        text, classes = None, self.unit_text[None]
        if shape.adapts_text:
            beta = ratio_forward("beta", shape.beta, self.hyper["beta"], parameters, self.full, self.feature_mean)
            weights = products["text_down"], products["text_up"]
            text = TritonSide("text", self.text, weights, beta, shape.form, self.room)
            classes = text.q * text.r.to(text.q.dtype)  # (g, c, d)
        x = self.features[index]  # (g, b, d)
        image, q = None, x
        if shape.adapts_image:
            alpha = ratio_forward("alpha", shape.alpha, self.hyper["alpha"], parameters, x, self.text_mean)
            weights = products["image_down"], products["image_up"]
            image = TritonSide("image", x, weights, alpha, shape.form, self.room)
            q, r = image.q, image.r[..., 0]
        else:
            length = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)
            r = torch.where(length > 0, 1 / length, 0)
        losses, u, e = cross_entropy(
            q, r, classes, self.labels[index], self.hyper["logit_scale"], image is not None, text is not None
        )
        whole = slice(0, g)
        if image is not None and u is not None:
            self._store("image", parameters, image, u.to(q.dtype), whole, True)
        if text is not None and e is not None:
            self._store("text", parameters, text, (e * text.r).to(q.dtype), whole, True)
        return losses, self.gradients
