"""How CLIPAdapter is trained: its objective for the trainer, and its default recipe.

Letters as in kernels/reference.py: g configurations, b rows, d width, c classes, h bottleneck, q ratio width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.compute import choose_device, choose_training_dtypes
from cafe.errors import InputError
from cafe.kernels.choose import choose_kernel
from cafe.kernels.cpu import FrozenLogits
from cafe.kernels.reference import START_RATIO, AdapterShape, adapter_losses_and_gradients
from cafe.methods.base import Problem
from cafe.methods.clip_adapter_inference import adapted_text, ratio_summary, trained_ratio
from cafe.methods.stored_rows import StoredRows
from cafe.methods.streamed import Streamed, mean_of
from cafe.training.trainer import Configuration, Objective, Step, Trained, steps_for, train_many

RATIO_MODES = ("scalar", "learned")
# Width of the hypernetwork that gives learned ratios: small against d, so that one shot cannot fit it alone.
RATIO_WIDTH = 16
# The default recipe, (optimiser steps, weight decay), by training rows a class: up to FEW, and above. The second is
# Tip-Adapter-F's (ECCV 2022, section 4.1: AdamW, 1e-3, batch 256, cosine, 20 epochs; PyTorch's own decay) at 4,000
# rows, in steps, since 20 epochs are 20 steps for 160 rows. One or two images a class are learned by heart in that
# time; the first, found by cross-validation (benchmarks/studies/recipe_study.py), stays closer to zero-shot. On val
# rows of digits, Caltech and Flowers each is the better one on its side (recipe_published.py beside it).
FEW = 2
FEW_RECIPE = (125, 10.0)
RECIPE = (313, 0.01)
# Of the released configuration, whose optimiser is SGD; there it is an L2 penalty, and 10 would leave nothing.
SGD_DECAY = 5e-4


@dataclass(frozen=True)
class AdapterObjective:
    """Cross-entropy of the adapted logits against fixed class embeddings, for the trainer.

    Attributes
    ----------
    text : Tensor of shape (1, c, d)
        Class embeddings that every configuration shares.
    kernel : str, default="reference"
        ``"reference"``, ``"cpu"`` or ``"triton"``.
    features : Tensor of shape (n, d), default=None
        The trainer's X in the dtype of matrix products; None for X itself.
    precision : {"ieee", "tf32"}, default="ieee"
        How the triton kernel's float32 operands enter a product.
    frozen : FrozenLogits
        Logits of all rows without an adapter, which the cpu kernel shares among configurations where that pays.
    streamed : bool, default=False
        Whether every step brings its own rows (streamed.py), so that nothing is made for all of them.
    """

    text: Tensor
    kernel: str = "reference"
    features: Tensor | None = None
    precision: str = "ieee"
    frozen: FrozenLogits = field(default_factory=FrozenLogits)
    streamed: bool = False
    start: ClassVar[float] = START_RATIO

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

    def losses_and_gradients(
        self,
        shape: Any,
        parameters: dict[str, Tensor],
        hyper: dict[str, Tensor],
        features: Tensor,
        labels: Tensor,
        feature_mean: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and gradients by the reference kernel."""
        return adapter_losses_and_gradients(shape, parameters, hyper, features, labels, self.text, feature_mean)

    def stepper(self, shape: Any, hyper: dict[str, Tensor], X: Tensor, y: Tensor, feature_mean: Tensor) -> Step | None:
        """Return the step function of the chosen kernel; None for the reference."""
        features = X if self.features is None else self.features
        if self.kernel == "cpu" and self.streamed:
            from cafe.kernels.cpu import CpuAdapterStep

            return CpuAdapterStep(shape, hyper, features, y, self.text, feature_mean)
        if self.kernel == "cpu":
            from cafe.kernels.cpu import CpuCheapestStep

            return CpuCheapestStep(shape, hyper, features, y, self.text, feature_mean, self.frozen)
        if self.kernel == "triton":
            from cafe.kernels.triton import TritonAdapterStep

            return TritonAdapterStep(shape, hyper, features, y, self.text, feature_mean, precision=self.precision)
        return None

    @property
    def on_device(self) -> bool:
        """Whether a step never waits for its device, so that the trainer may record it."""
        return self.kernel == "triton"

    def activation_bytes(self, configuration: Configuration) -> int:
        """Four copies of logits and of both sides' features, which autograd keeps."""
        b = min(configuration.batch_size, len(configuration.rows))
        c, d = self.text.shape[1:]
        shape: Any = configuration.shape
        rows = b + (c if shape.adapts_text else 0)
        return int(4 * self.text.element_size() * (b * c + rows * (d + shape.bottleneck)))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Forward once and backward twice: logits, and the two maps of each side that has an adapter."""
        b = min(configuration.batch_size, len(configuration.rows))
        c, d = self.text.shape[1:]
        shape: Any = configuration.shape
        rows = b * shape.adapts_image + c * shape.adapts_text
        return int(3 * d * (b * c + 2 * rows * shape.bottleneck))

    @classmethod
    def fit(cls, estimators: Sequence[Any], problems: Sequence[Problem]) -> None:
        """Train all estimators; those that share checked arrays, device, kernel and dtype in one run."""
        runs: dict[tuple[Any, ...], list[int]] = {}
        configurations = [configuration_of(*pair) for pair in zip(estimators, problems, strict=True)]
        for i, (one, problem) in enumerate(zip(estimators, problems, strict=True)):
            device = choose_device(one.device)
            kernel = choose_kernel(one.kernel, device)
            sizes = cls(torch.empty(1, *problem.base.class_embeddings.shape, device="meta"))
            dtypes = choose_training_dtypes(one.dtype, kernel, sizes.multiply_adds(configurations[i]))
            precision = "tf32" if one.dtype == "tf32" else "ieee"
            runs.setdefault((id(problem.base), device, kernel, *dtypes, precision), []).append(i)
        for (_, device, kernel, dtype, products, precision), members in runs.items():
            base = problems[members[0]].base
            to = {"device": device, "dtype": dtype}
            stored = base.X if isinstance(base.X, StoredRows) else None
            own = np.empty((0, base.X.shape[1]), np.float32) if stored is not None else np.ascontiguousarray(base.X)
            X = torch.as_tensor(own).to(**to)
            text = torch.as_tensor(base.class_embeddings).to(**to)[None]
            objective: Objective = cls(text, kernel, X.to(products), precision, streamed=stored is not None)
            if stored is not None:
                objective = Streamed(objective, stored, products)
            y = torch.as_tensor(base.y).to(device)
            trained = train_many(objective, X, y, [configurations[i] for i in members])
            for i, result in zip(members, trained, strict=True):
                store(estimators[i], problems[i], configurations[i], result)
                estimators[i].kernel_ = kernel
                ran = "tf32" if precision == "tf32" else str(products).removeprefix("torch.")
                estimators[i].device_, estimators[i].dtype_ = device, ran


def default_recipe(y: NDArray[np.int64]) -> tuple[int, float]:
    """Return optimiser steps and weight decay for training labels (n,), by the rows that a class has on average.

    Examples
    --------
    >>> default_recipe(np.array([0, 1, 2])), default_recipe(np.repeat([0, 1, 2], 16))
    ((125, 10.0), (313, 0.01))
    """
    return FEW_RECIPE if len(y) <= FEW * len(np.unique(y)) else RECIPE


def configuration_of(estimator: Any, problem: Problem) -> Configuration:
    """Translate an estimator's parameters for the trainer."""
    seed = estimator.random_state
    if seed is None:
        seed = int(np.random.default_rng().integers(2**31))
    elif not isinstance(seed, (int, np.integer)):
        raise InputError(f"random_state of clip-adapter must be an integer or None, but is {seed!r}")
    n, d = len(problem.rows), problem.base.X.shape[1]
    steps, decay = default_recipe(problem.y)
    if estimator.optimizer == "sgd":
        decay = SGD_DECAY
    if estimator.epochs is not None:
        steps = steps_for(estimator.epochs, n, estimator.batch_size)
    return Configuration(
        rows=problem.rows,
        random_state=int(seed),
        shape=AdapterShape(
            estimator.variant,
            estimator.form,
            max(1, d // estimator.reduction),
            estimator.alpha_mode_,
            estimator.beta_mode_,
        ),
        hyper={"alpha": estimator.alpha_, "beta": estimator.beta_, "logit_scale": estimator.logit_scale},
        steps=steps,
        batch_size=estimator.batch_size,
        lr=estimator.lr,
        weight_decay=decay if estimator.weight_decay is None else estimator.weight_decay,
        optimizer=estimator.optimizer,
    )


def store(estimator: Any, problem: Problem, configuration: Configuration, trained: Trained) -> None:
    """Set the fitted attributes."""
    estimator.parameters_ = trained.parameters
    estimator.loss_ = trained.loss
    estimator.n_steps_, estimator.weight_decay_ = configuration.steps, configuration.weight_decay
    for name in ("alpha", "beta"):
        if getattr(estimator, f"{name}_mode_") == "scalar" and f"{name}_bias" in trained.parameters:
            setattr(estimator, f"{name}_", float(trained_ratio(trained.parameters, name)))
    rows = problem.selected
    # In blocks where features are on disk, up to rounding the same.
    mean = mean_of(rows).astype(rows.dtype) if isinstance(rows, StoredRows) else rows.mean(axis=0)
    estimator.feature_mean_ = mean
    estimator.text_ = adapted_text(estimator, problem.base.class_embeddings)
    estimator.ratio_summary_ = ratio_summary(estimator, problem)
