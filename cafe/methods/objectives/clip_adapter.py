"""The objective with which the trainer trains CLIP-Adapter's weights, by one of the kernels.

Letters as in kernels/reference.py: g configurations, b rows, d width, c classes, h bottleneck, q ratio width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cafe.kernels.choose import CPU_FORMS
from cafe.kernels.cpu_forms import adapter_step
from cafe.kernels.cpu_projected import FrozenLogits
from cafe.kernels.cpu_sides import in_order_of_step
from cafe.kernels.fastest import StepSizes, choose_cpu_threads
from cafe.kernels.reference import adapter_losses_and_gradients
from cafe.training.trainer import Batch, Configuration, Step

# Width of the hypernetwork that gives learned ratios: small against d, so that one shot cannot fit it alone.
RATIO_WIDTH = 16


@dataclass(frozen=True)
class AdapterObjective:
    """Cross-entropy of the adapted logits against fixed class embeddings, for the trainer.

    Attributes
    ----------
    text : Tensor of shape (1, c, d)
        Class embeddings that every configuration shares.
    kernel : str, default="reference"
        ``"reference"``, ``"triton"``, or one of ``CPU_FORMS``.
    features : Tensor of shape (n, d), default=None
        The trainer's X in the dtype of matrix products; None for X itself.
    precision : {"ieee", "tf32"}, default="ieee"
        How the triton kernel's float32 operands enter a product.
    frozen : FrozenLogits
        Logits of all rows without an adapter, which the cpu kernel shares among configurations where that pays.
    """

    text: Tensor
    kernel: str = "reference"
    features: Tensor | None = None
    precision: str = "ieee"
    frozen: FrozenLogits = field(default_factory=FrozenLogits)

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw weights as torch.nn.Linear does, U(-1/sqrt(fan in), 1/sqrt(fan in)), image before text."""
        shape: Any = configuration.shape
        d, h = self.text.shape[-1], shape.bottleneck

        def uniform(rows: int, columns: int) -> Tensor:
            bound = 1 / math.sqrt(rows)
            return (2 * torch.rand(rows, columns, generator=generator) - 1) * bound

        parameters: dict[str, Tensor] = {}
        for side, used in (("image", shape.adapts_image), ("text", shape.adapts_text)):
            if used:
                parameters[f"{side}_down"] = uniform(d, h)
                parameters[f"{side}_up"] = uniform(h, d)
        for ratio, mode, used in (
            ("alpha", shape.alpha_mode, shape.adapts_image),
            ("beta", shape.beta_mode, shape.adapts_text),
        ):
            if not used or mode == "fixed":
                continue
            parameters[f"{ratio}_bias"] = torch.tensor(0.0)
            if mode == "learned":
                parameters[f"{ratio}_own"] = uniform(d, RATIO_WIDTH)
                parameters[f"{ratio}_other"] = uniform(d, RATIO_WIDTH)
                parameters[f"{ratio}_out"] = torch.zeros(RATIO_WIDTH)
        return parameters

    def losses_and_gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and gradients by the reference kernel."""
        return adapter_losses_and_gradients(
            batch.shape, batch.parameters, batch.hyper, batch.features, batch.labels, self.text, batch.feature_mean
        )

    def stepper(self, shape: Any, hyper: dict[str, Tensor], X: Tensor, y: Tensor, feature_mean: Tensor) -> Step | None:
        """Return the step function of the chosen kernel; None for the reference."""
        features = X if self.features is None else self.features
        if self.kernel in CPU_FORMS:
            return adapter_step(self.kernel, shape, hyper, features, y, self.text, feature_mean, self.frozen)
        if self.kernel == "triton":
            from cafe.kernels.cuda.adapter import TritonAdapterStep

            return TritonAdapterStep(shape, hyper, features, y, self.text, feature_mean, precision=self.precision)
        return None

    def in_order_of_step(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters (g, ...) in the order in memory that the step reads fastest."""
        return in_order_of_step(parameters) if self.kernel in CPU_FORMS else parameters

    def uses_feature_mean(self, shape: Any) -> bool:
        """Return whether a shape uses the mean training feature, as learned ratios of the text side do."""
        return bool(shape.adapts_text and shape.beta_mode == "learned")

    @property
    def on_device(self) -> bool:
        """Whether a step never waits for its device, so that the trainer may record it."""
        return self.kernel == "triton"

    @property
    def stacks_large_steps(self) -> bool:
        """Whether large steps gain by a stack on a CPU too: in bfloat16 calls weigh more beside the products."""
        return self.features is not None and self.features.dtype == torch.bfloat16

    def activation_bytes(self, configuration: Configuration) -> int:
        """Estimate the bytes of a step: four copies of logits and of both sides' features, which autograd keeps."""
        b = min(configuration.batch_size, len(configuration.rows))
        c, d = self.text.shape[1:]
        shape: Any = configuration.shape
        rows = b + (c if shape.adapts_text else 0)
        return int(4 * self.text.element_size() * (b * c + rows * (d + shape.bottleneck)))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Return what a step costs; see :attr:`cafe.kernels.fastest.StepSizes.multiply_adds`."""
        return self.sizes(configuration).multiply_adds

    def threads(self, configuration: Configuration) -> int | None:
        """Return the number of threads on which a single step runs fastest; None where that is not measured."""
        if self.kernel not in CPU_FORMS:
            return None
        dtype = (self.text if self.features is None else self.features).dtype
        return choose_cpu_threads(self.kernel, str(dtype).removeprefix("torch."), self.sizes(configuration))

    def sizes(self, configuration: Configuration) -> StepSizes:
        """Return the sizes of a step of one configuration."""
        b = min(configuration.batch_size, len(configuration.rows))
        c, d = self.text.shape[1:]
        shape: Any = configuration.shape
        return StepSizes(shape, b, d, c)
