"""What the methods on class weights train: the zero-shot-initialised probe, TaskRes, CLAP and the cross-modal probe.

The loss stands in kernels/class_weights_reference.py. Of its choices

    the zero-shot-initialised probe   has cosines, and trains w from w = t
    CLAP                              has a pull to the text besides
    TaskRes                           trains a residual x, from x = 0, with decay
    the cross-modal probe             has plain products, and text among its rows

The length of t decides how far a step of given size turns w. On ImageNet at 4 shots the released code's probe scores
64.55 with raw text, whose length is 8.7, and 53.0 with text of length one. So the length is a parameter,
``text_norm``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cafe.kernels.class_weights import ClassWeightStep
from cafe.kernels.class_weights_reference import class_weight_losses_and_gradients
from cafe.training.trainer import Batch, Configuration, Step


@dataclass(frozen=True)
class ClassWeightObjective:
    """The loss on class weights, for the trainer.

    Attributes
    ----------
    start : Tensor of shape (c, d)
        t, where class weights start.
    features : Tensor of shape (n, d), default=None
        The trainer's X in the dtype of the products; None for X itself.
    pull : Tensor of shape (configurations, c), default=None
        Strength by which each class of each configuration of the run is held to t, by ``hyper["index"]``; None for
        zeros.
    kernel : str, default="torch"
        ``"triton"`` on a GPU that has it.
    precision : {"ieee", "tf32"}, default="ieee"
        How Triton's float32 operands enter a product.
    held : bool, default=True
        Whether any configuration has a decay or a pull.
    """

    start: Tensor
    features: Tensor | None = None
    pull: Tensor | None = None
    kernel: str = "torch"
    precision: str = "ieee"
    held: bool = True

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Start at the text itself: no random number is drawn."""
        shape: Any = configuration.shape
        return {"weights": torch.zeros(self.start.shape) if shape.residual else self.start.cpu()}

    def _pulls(self, hyper: dict[str, Tensor]) -> Tensor | None:
        return None if self.pull is None else self.pull[hyper["index"].long()]

    def losses_and_gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and gradients by the reference kernel."""
        return class_weight_losses_and_gradients(
            batch.shape,
            batch.parameters,
            batch.hyper,
            batch.features,
            batch.labels,
            self.start,
            self._pulls(batch.hyper),
        )

    def stepper(self, shape: Any, hyper: dict[str, Tensor], X: Tensor, y: Tensor, feature_mean: Tensor) -> Step:
        """Return the kernel's step function."""
        features = X if self.features is None else self.features
        if self.kernel == "triton":
            from cafe.kernels.cuda.class_weights import TritonClassWeightStep

            return TritonClassWeightStep(
                shape, hyper, features, y, self.start, self.pull, held=self.held, precision=self.precision
            )
        return ClassWeightStep(shape, hyper, features, y, self.start, self._pulls(hyper))

    @property
    def on_device(self) -> bool:
        """Whether a step never waits for its device, so that the trainer may record it."""
        return self.kernel == "triton"

    def uses_feature_mean(self, shape: Any) -> bool:
        """Whether the mean training feature is used: never."""
        return False

    def activation_bytes(self, configuration: Configuration) -> int:
        """Logits and their gradient, rows, and three copies of the class weights."""
        b, (c, d) = min(configuration.batch_size, len(configuration.rows)), self.start.shape
        return int(self.start.element_size() * (3 * b * c + b * d + 3 * c * d))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Logits forward, class weights backward."""
        b, (c, d) = min(configuration.batch_size, len(configuration.rows)), self.start.shape
        return int(2 * b * c * d)
