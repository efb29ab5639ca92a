"""What the methods on class weights train: the zero-shot-initialised probe, TaskRes, CLAP and the cross-modal probe.

The loss stands in kernels/class_weights_reference.py. Of the choices that it leaves

    the zero-shot-initialised probe   has cosines, and trains w from w = t
    CLAP                              has a pull to the text besides
    TaskRes                           trains a residual x, from x = 0, with decay
    the cross-modal probe             has plain products, and text among its rows

The length of t decides how far a step of given size turns w. On ImageNet at 4 shots the released code's probe scores
64.55 with raw text, whose length is 8.7, and 53.0 with text of length one. So the length is a parameter,
``text_norm``.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cafe.kernels.choose import choose_kernel, triton_products
from cafe.kernels.class_weights import ClassWeightStep, WeightSizes
from cafe.kernels.class_weights_reference import WeightsShape, class_weight_losses_and_gradients
from cafe.kernels.fastest import choose_precision
from cafe.methods.base import Array, Problem, unit_length
from cafe.methods.inference import scores
from cafe.methods.inputs.parameters import Constraint, Number, seed_of
from cafe.methods.inputs.problem import CheckedArrays
from cafe.methods.objectives.base import Placement, Result, TrainedClassifier, TrainingGroup, steps_with_warmup
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
        lambda, the strength with which each class is held to t. A configuration's row is its ``hyper["index"]``; None
        for zeros.
    kernel : str, default="torch"
        ``"torch"``, or ``"triton"`` on a GPU that can run it.
    precision : {"ieee", "tf32"}, default="ieee"
        How Triton's float32 operands enter a product.
    held : bool, default=True
        Whether any configuration is held to t, by a decay or a pull.
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
        """Return lambda of the configurations of a stack, (g, c); None for zeros."""
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


class ClassWeightClassifier(TrainedClassifier):
    """Base of the methods that train class weights on cosines: the zero-shot-initialised probe, CLAP and TaskRes.

    A subclass overrides what it has besides: number of epochs, residual, decay, pull to the text.

    Attributes
    ----------
    weights_ : ndarray of shape (c, d)
        Trained class weights.
    lr_ : float
        The learning rate used.
    """

    constraints: ClassVar[dict[str, Constraint]] = {
        "text_norm": Number(0, above=True, none=True),
        "epochs": Number(0, above=True, none=True),
    }
    text_norm: float | None
    batch_size: int
    lr_: float
    _trains_on_cosines = True
    _optimizer = "sgd"

    def _alike(self) -> Hashable:
        return self.text_norm

    def _placement(self, problem: Problem) -> Placement:
        placement = super()._placement(problem)
        c, d = problem.class_embeddings.shape
        sizes = WeightSizes(self._shape().cosines, min(self.batch_size, len(problem.rows)), d, c)
        products, kernel = choose_precision(self.dtype, placement.device, sizes), placement.kernel
        # Triton's kernels sum in float32.
        has_kernel = placement.device.startswith("cuda") and self.dtype != "float64"
        if has_kernel and choose_kernel("auto", placement.device) == "triton":
            products, kernel = triton_products(self.dtype, placement.device), "triton"
        return replace(placement, products=getattr(torch, products), kernel=kernel)

    @classmethod
    def _objective(cls, group: TrainingGroup) -> ClassWeightObjective:
        pulls = [estimator._pull(problem) for estimator, problem in zip(group.estimators, group.problems, strict=True)]
        pull = None if pulls[0] is None else group.tensor(np.stack(pulls))
        text = group.tensor(_scaled_text(group.base, group.estimators[0].text_norm))
        held = pull is not None or any(estimator._decay() for estimator in group.estimators)
        placement = group.placement
        return ClassWeightObjective(
            text, group.X.to(placement.products), pull, placement.kernel, placement.precision, held
        )

    def _configuration(self, problem: Problem, index: int) -> Configuration:
        steps, warmup_steps = steps_with_warmup(self._epochs(problem), len(problem.rows), self.batch_size)
        return Configuration(
            rows=problem.rows,
            random_state=seed_of(self),
            shape=self._shape(),
            hyper={
                "residual_scale": self._residual_scale(),
                "decay": self._decay(),
                "logit_scale": self.logit_scale,
                "index": index,
            },
            steps=steps,
            batch_size=self.batch_size,
            lr=float(self.lr_),
            weight_decay=0.0,
            optimizer=self._optimizer,
            warmup_steps=warmup_steps,
        )

    def _store(self, result: Result) -> None:
        text = _scaled_text(result.problem.base, self.text_norm)
        trained = result.parameters["weights"]
        if self._shape().residual:
            trained = text + np.asarray(self._residual_scale() * trained, text.dtype)
        self.weights_ = trained.astype(text.dtype, copy=False)

    def _shape(self) -> WeightsShape:
        """Return which choices of the loss in kernels/class_weights_reference.py the method makes."""
        return WeightsShape(cosines=True)

    def _epochs(self, problem: Problem) -> float:
        """Return the number of passes over the training rows."""
        raise TypeError(f"{type(self).__name__} must say how many epochs it trains")

    def _residual_scale(self) -> float:
        """Return the factor of the residual where one is trained."""
        return 1.0

    def _decay(self) -> float:
        """Return the strength of the L2 penalty on the residual."""
        return 0.0

    def _pull(self, problem: Problem) -> Array | None:
        """Return the strength of the pull to the text, lambda (c,), or None for none."""
        return None

    def _logits(self, X: Array) -> Array:
        return scores.weight_cosines(self, X)


def _scaled_text(base: CheckedArrays, text_norm: float | None) -> Array:
    """Return class embeddings (c, d) of the given length; None keeps the lengths they have on entry."""
    if text_norm is None:
        return base.class_embeddings
    scaled: Array = unit_length(base.class_embeddings) * base.class_embeddings.dtype.type(text_norm)
    return scaled
