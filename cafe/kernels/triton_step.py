"""A stack's losses and gradients on Triton kernels: what needs (n, n_classes), and the bottleneck, are fused.

Forward of each side is one launch (triton_bottleneck.py), the loss and its gradients in both sides three at most
(triton_cross_entropy.py); the rest, gradients of the two weight matrices and of ratios, is kernels/cpu_side.py's
``Side.gradients``: small matrix products, which the vendor's library does best. Never run on a GPU so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cafe.kernels.cpu import CpuAdapterStep
from cafe.kernels.cpu_ratios import Ratio, ratio_forward
from cafe.kernels.cpu_side import Side, Workspace, invert
from cafe.kernels.reference import Parameters
from cafe.kernels.triton_bottleneck import bottleneck
from cafe.kernels.triton_cross_entropy import cross_entropy


class TritonSide(Side):
    """One side of a stack with its forward pass in one launch."""

    def __init__(
        self,
        name: str,
        x: Tensor,
        weights: tuple[Tensor, Tensor],
        ratio: Ratio,
        form: str,
        room: Workspace,
        precision: str,
    ) -> None:
        self.name, self.weights, self.form, self.room = name, weights, form, room
        self.ratio, self.share, self.multiply = ratio, ratio.values, torch.bmm
        self.x = x.expand(len(weights[0]), *x.shape[1:])
        self.hidden, self.adapted, self.q, r = bottleneck(x, *weights, ratio.values, form, precision)
        self.r = r[..., None]

    def norm_gradient(self, u: Tensor) -> Tensor:
        """Return dq from u, which is r times the gradient in q/|q| in float32, in the dtype of the products."""
        dot = (self.q * u).sum(-1, keepdim=True)  # (k, rows, 1)
        return self.through_norm(u, dot * self.r * self.r).to(self.q.dtype)


class TritonAdapterStep(CpuAdapterStep):
    """As :class:`~cafe.kernels.cpu.CpuAdapterStep`, on a GPU, with logits never stored.

    Features may be float32, bfloat16 or float16; parameters are float32. All configurations of the stack go in one
    launch. Nothing here waits for the device, so a step can be captured in a graph (graph_capture.py).

    Parameters
    ----------
    *arguments
        As for the CPU kernel.
    precision : {"ieee", "tf32"}, default="ieee"
        How float32 operands enter a product; sums are float32 either way.
    """

    def __init__(self, *arguments: Any, precision: str = "ieee") -> None:
        super().__init__(*arguments)
        self.precision = precision

    def __call__(
        self, parameters: Parameters, index: Tensor, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,) and gradients; see the CPU kernel."""
        with _library_products(self.precision):
            return self._run(parameters, index)

    def _run(self, parameters: Parameters, index: Tensor) -> tuple[Tensor, Parameters]:
        products = self._prepared(parameters)
        shape, whole = self.shape, slice(0, len(index))
        text, classes = None, self.unit_text[None]
        if shape.adapts_text:
            beta = ratio_forward("beta", shape.beta_mode, self.hyper["beta"], parameters, self.full, self.feature_mean)
            text = self._forward("text", self.text, products, beta)
            classes = (text.q * text.r).to(text.q.dtype)  # (g, c, d)
        x = self.features[index]  # (g, b, d)
        image, q = None, x
        if shape.adapts_image:
            alpha = ratio_forward("alpha", shape.alpha_mode, self.hyper["alpha"], parameters, x, self.text_mean)
            image = self._forward("image", x, products, alpha)
            q, r = image.q, image.r[..., 0]
        else:
            r = invert(torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32))
        losses, u, e = cross_entropy(
            q,
            r,
            classes,
            self.labels[index],
            self.hyper["logit_scale"],
            image is not None,
            text is not None,
            self.precision,
        )
        if image is not None and u is not None:
            self._store(parameters, image, image.gradients(image.norm_gradient(u)), whole, True)
        if text is not None and e is not None:
            self._store(parameters, text, text.gradients(text.norm_gradient(e * text.r)), whole, True)
        return losses, self.gradients

    def _forward(self, name: str, x: Tensor, products: Parameters, ratio: Ratio) -> TritonSide:
        weights = products[f"{name}_down"], products[f"{name}_up"]
        return TritonSide(name, x, weights, ratio, self.shape.form, self.room, self.precision)


@contextmanager
def _library_products(precision: str) -> Iterator[None]:
    """Let the vendor's products round float32 operands to tf32 where that was asked for, and only inside."""
    if precision != "tf32":
        yield
        return
    flags = torch.backends.cuda.matmul
    before = flags.allow_tf32
    flags.allow_tf32 = True
    try:
        yield
    finally:
        flags.allow_tf32 = before
