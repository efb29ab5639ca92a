"""The graph of an exported file as a torch module: image tower, head, softmax, and what else is said of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cafe.evaluation.unknown import DISTANCE_WEIGHT
from cafe.sharing.heads import constant, head_of, unit_rows
from cafe.sharing.onnx_metadata import PROBABILITIES, SET_SCORES, UNKNOWN_SCORE, ZERO_SHOT


@dataclass(frozen=True)
class Promised:
    """The promises that go into a file beside the method: thresholds, and what they are computed from.

    Attributes
    ----------
    text : ndarray of shape (c, d) or None
        Unit-length text of the classes; None where the fit started from means of images.
    means : ndarray of shape (k, d)
        Unit-length means of the training images; of no row where there are none.
    temperature : float, default=1.0
        What logits are divided by.
    unknown_scores, own_scores : ndarray of shape (m,) or None
        Of images of the classes, sorted; None where nothing is promised.
    scoring_fit : fitted classifier or None
        What sets are made with.
    thresholds : dict
        As of :class:`OnnxMetadata`.
    """

    text: NDArray[np.float32] | None
    means: NDArray[np.float32]
    temperature: float = 1.0
    unknown_scores: NDArray[np.float64] | None = None
    own_scores: NDArray[np.float64] | None = None
    scoring_fit: Any = None
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)


class PairTower(nn.Module):
    """The image towers of two encoders: the bytes of both crops in one row to both features beside each other.

    Parameters
    ----------
    towers : sequence of nn.Module
        Of each.
    shapes : sequence of tuple of int
        Of the crops that each takes.
    """

    def __init__(self, towers: Sequence[nn.Module], shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.towers, self.shapes = nn.ModuleList(towers), [tuple(map(int, shape)) for shape in shapes]

    def forward(self, crops: Tensor) -> Tensor:
        """Encode rows (n, bytes) to features (n, d1 + d2), each part of unit length."""
        parts, start = [], 0
        for tower, shape in zip(self.towers, self.shapes, strict=True):
            end = start + int(np.prod(shape))
            parts.append(unit_rows(tower(crops[:, start:end].reshape(-1, *shape)).float()))
            start = end
        return torch.cat(parts, dim=1)


class ExportedGraph(nn.Module):
    """Crops (n, height, width, 3) of uint8 to the outputs that the docstring of cafe/sharing/onnx_export.py lists.

    Parameters
    ----------
    tower : nn.Module
        Crops to features (n, d).
    estimator : fitted classifier
        With a fixed head.
    promised : Promised
        Text, means and the fit of sets.
    logit_scale : float
        Of zero-shot.
    n_all : int
        Classes of the data set, those without a training image too.

    Attributes
    ----------
    outputs : tuple of str
        Names of what ``forward`` returns, in its order.
    """

    def __init__(self, tower: nn.Module, estimator: Any, promised: Promised, logit_scale: float, n_all: int) -> None:
        super().__init__()
        self.tower, self.head, self.promised = tower, head_of(estimator), promised
        self.scale, self.has_text = float(logit_scale), promised.text is not None
        near = promised.means if promised.text is None else promised.text
        self.register_buffer("near", constant(near.T) if len(near) else None)  # (d, c)
        self.register_buffer("means", constant(promised.means.T) if len(promised.means) else None)  # (d, k)
        self.set_head = None
        if promised.scoring_fit is not None:
            self.set_head = head_of(promised.scoring_fit)
            labels = np.asarray(promised.scoring_fit.classes_, dtype=np.int64)
            columns = np.zeros((len(labels), n_all), dtype=np.float32)  # a class without an image has no probability
            columns[np.arange(len(labels)), labels] = 1
            self.register_buffer("columns", constant(columns))
        names = {
            PROBABILITIES: True,
            UNKNOWN_SCORE: self.near is not None,
            ZERO_SHOT: self.has_text,
            SET_SCORES: self.set_head is not None,
        }
        self.outputs = tuple(name for name, is_made in names.items() if is_made)

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for crops (n, height, width, 3)."""
        features = self.tower(crops).float()  # (n, d)
        outputs = [torch.softmax(self.head(features) / self.promised.temperature, dim=1)]
        rows = unit_rows(features)
        if self.near is not None:
            cosines = rows @ self.near  # type: ignore[operator]  # (n, c)
            score = cosines.mean(dim=1) - cosines.max(dim=1).values  # cafe/evaluation/unknown.py, combined_score
            if self.means is not None:
                score = score + DISTANCE_WEIGHT * (1 - (rows @ self.means).max(dim=1).values)  # type: ignore[operator]
            outputs.append(score)
            if self.has_text:
                outputs.append(torch.softmax(self.scale * cosines, dim=1))
        if self.set_head is not None:
            outputs.append(torch.softmax(self.set_head(features), dim=1) @ self.columns)  # type: ignore[operator]
        return tuple(outputs)
