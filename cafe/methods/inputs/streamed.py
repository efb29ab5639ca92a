"""Training on features that stay on disk: a step gathers its own batch and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.kernels.optimizers import Update, make_update
from cafe.methods.inputs.stored_rows import StoredRows, row_blocks
from cafe.training.steps import Batch, Configuration, Step


@dataclass(frozen=True)
class Streamed:
    """An objective of the trainer whose rows come from :class:`StoredRows`; see :mod:`cafe.training.trainer`.

    The trainer's X is an empty stand-in of the right width, device and dtype. Batches, and so fits of the same kernel,
    are those of features in memory, number for number; means of features, which only learned ratios use, are summed in
    float64 and agree up to rounding.

    Attributes
    ----------
    objective : Objective
        With a ``stepper`` that returns None or a kernel with ``use(features, labels)``.
    stored : StoredRows of shape (n, d)
        The features.
    products : torch.dtype
        Of matrix products.
    """

    objective: Any
    stored: StoredRows
    products: torch.dtype
    # The host gathers every batch, so steps cannot be recorded.
    on_device: ClassVar[bool] = False

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw one configuration's parameters."""
        parameters: dict[str, Tensor] = self.objective.initial(configuration, generator)
        return parameters

    def losses_and_gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and gradients."""
        result: tuple[Tensor, dict[str, Tensor]] = self.objective.losses_and_gradients(batch)
        return result

    def activation_bytes(self, configuration: Configuration) -> int:
        """Estimate the bytes that a step of one configuration needs beside its parameters."""
        return int(self.objective.activation_bytes(configuration))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Estimate the multiply-adds of a step of one configuration."""
        return int(self.objective.multiply_adds(configuration))

    def threads(self, configuration: Configuration) -> int | None:
        """Return on how many threads a step alone runs fastest; None where that is not measured."""
        threads: int | None = self.objective.threads(configuration)
        return threads

    def in_order_of_step(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters (g, ...) in the order in memory that the step reads fastest."""
        ordered: dict[str, Tensor] = self.objective.in_order_of_step(parameters)
        return ordered

    def uses_feature_mean(self, shape: Any) -> bool:
        """Return whether configurations of that shape use the mean training feature."""
        return bool(self.objective.uses_feature_mean(shape))

    def feature_mean(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the mean of these rows, (1, d), in float64."""
        return torch.from_numpy(mean_of(self.stored.take(rows)))[None]

    def stepper(self, shape: Any, hyper: dict[str, Tensor], X: Tensor, y: Tensor, feature_mean: Tensor) -> Step:
        """Return a step function that reads each batch's rows and hands them to the objective's kernel."""
        kernel = self.objective.stepper(shape, hyper, X, y, feature_mean)
        return _StreamedStep(self, kernel, shape, hyper, X, y, feature_mean)


@dataclass(frozen=True)
class _StreamedStep:
    """A step of an objective whose rows are read batch by batch; ``kernel`` is its own step, or None."""

    objective: Streamed
    kernel: Any
    shape: Any
    hyper: dict[str, Tensor]
    X: Tensor
    y: Tensor
    feature_mean: Tensor

    def __call__(
        self, parameters: dict[str, Tensor], index: Tensor, with_losses: bool
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return losses (g,), or None if not asked for, and gradients of a batch."""
        rows = torch.from_numpy(self.objective.stored[index.reshape(-1).cpu().numpy()]).to(self.X)  # (g b, d)
        labels = self.y[index]
        if self.kernel is None:
            features = rows.view(*index.shape, -1)  # (g, b, d)
            return self.objective.losses_and_gradients(
                Batch(self.shape, parameters, self.hyper, features, labels, self.feature_mean)
            )
        self.kernel.use(rows.to(self.objective.products), labels.reshape(-1))
        places = torch.arange(index.numel(), device=index.device).view(index.shape)  # of the batch in `rows`
        result: tuple[Tensor | None, dict[str, Tensor]] = self.kernel(parameters, places, with_losses)
        return result

    def make_update(self, name: str, parameters: dict[str, Tensor], weight_decay: Tensor, eps: float) -> Update:
        """Return the kernel's own optimiser, if it has one, so that fits are those of features in memory."""
        update: Update = getattr(self.kernel, "make_update", make_update)(name, parameters, weight_decay, eps)
        return update


def mean_of(rows: StoredRows) -> NDArray[np.float64]:
    """Return the mean row, (d,), summed in blocks.

    Examples
    --------
    >>> mean_of(StoredRows(np.array([[1.0, 0.0], [0.0, 1.0]], np.float16))).tolist()
    [0.5, 0.5]
    """
    total = np.zeros(rows.shape[1])
    for part in row_blocks(rows):
        total += rows[part].sum(axis=0, dtype=np.float64)
    mean: NDArray[np.float64] = total / len(rows)
    return mean
