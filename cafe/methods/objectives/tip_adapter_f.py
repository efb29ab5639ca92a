"""The objective with which the trainer trains Tip-Adapter-F's keys, with its gradient written out.

Letters: g configurations, b rows of a batch, d width, c classes, K keys; G is the gradient in the logits.

    A_ri      = exp( -beta (1 - f_r.k_i) )                                 affinity of row r with key i
    logits_rj = s f_r.W_j + alpha sum_{i in class j} A_ri
    G_rj      = ( softmax(logits_r)_j - [j = label_r] ) / b
    dL/dk_i   = alpha beta sum_r G_{r, class(i)} A_ri f_r

The affinities are kept with keys first, (g, K, b), since keys are sorted by class: a class is then a block of
whole rows, and neither the sum over it nor its gradient needs a product with the one-hot values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.kernels.cache_keys import KeysStep
from cafe.training.trainer import Batch, Configuration, Step

# Bytes that cosines of all rows with all classes may take: those of the frozen logits in kernels/fastest.py.
COSINE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class KeysShape:
    """What configurations must share to be trained side by side.

    Attributes
    ----------
    counts : tuple of int
        Keys of each class, c of them; the keys are sorted by class.
    """

    counts: tuple[int, ...]


@dataclass(frozen=True)
class KeysObjective:
    """Cross-entropy of Tip-Adapter's logits, trained in the keys.

    Attributes
    ----------
    text : Tensor of shape (c, d)
        Unit-length class embeddings that every configuration shares.
    X : Tensor of shape (n, d)
        Unit-length features, of which the keys start as copies.
    y : ndarray of shape (n,), int64
        Class rows.
    features : Tensor of shape (n, d), default=None
        X in the dtype of the products on a CPU; None for X itself.
    """

    text: Tensor
    X: Tensor
    y: NDArray[np.int64]
    features: Tensor | None = None
    known: dict[KeysShape, tuple[Tensor, Tensor]] = field(default_factory=dict)
    cosines: list[Tensor] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def _owners(self, shape: KeysShape, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the class of each key (K,) and the number of keys of each class (c,), copied to the device once."""
        if shape not in self.known:
            owner = np.repeat(np.arange(len(shape.counts)), shape.counts)
            self.known[shape] = (torch.as_tensor(owner).to(device), torch.tensor(shape.counts).to(device))
        return self.known[shape]

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the configuration's rows sorted by class, (K, d); nothing is drawn."""
        rows = torch.as_tensor(sorted_rows(configuration.rows, self.y)).to(self.X.device)
        return {"keys": self.X[rows].cpu()}

    def losses_and_gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and the gradient in the keys; formulas in the module's docstring."""
        features, labels = batch.features, batch.labels
        g, b, _ = features.shape
        alpha, beta, scale = (batch.hyper[k][:, None, None] for k in ("alpha", "beta", "logit_scale"))
        owner, lengths = self._owners(batch.shape, features.device)
        columns = features.transpose(1, 2)  # (g, d, b)
        affinity = torch.exp(beta * (batch.parameters["keys"] @ columns - 1))  # (g, K, b)
        logits = scale * (self.text @ columns)  # (g, c, b)
        if features.device.type == "cpu":
            logits.index_add_(1, owner, alpha * affinity)
        else:  # where additions are atomic, and so in any order
            votes = (alpha * affinity).transpose(0, 1).contiguous()  # (K, g, b)
            logits += torch.segment_reduce(votes, "sum", lengths=lengths, axis=0, unsafe=True).transpose(0, 1)
        log_p = torch.log_softmax(logits, dim=1)
        true = labels[:, None, :]  # (g, 1, b)
        losses = -log_p.gather(1, true).mean(dim=(1, 2))
        error = log_p.exp_()
        error.scatter_add_(1, true, error.new_full((), -1.0).expand(g, 1, b))
        weight = affinity.mul_(error.index_select(1, owner))  # G A, (g, K, b)
        return losses, {"keys": (alpha * beta / b) * (weight @ features)}

    def stepper(self, shape: Any, hyper: dict[str, Tensor], X: Tensor, y: Tensor, feature_mean: Tensor) -> Step | None:
        """Return the step in blocks of keys on a CPU; None elsewhere.

        None too for a stack in X's precision: its steps are small, and gain more by operations that all share.
        """
        features = X if self.features is None else self.features
        if X.device.type != "cpu" or (len(hyper["alpha"]) > 1 and features.dtype == X.dtype):
            return None
        return KeysStep(hyper, features, y, self.text, self._owners(shape, X.device)[0], self._cosines())

    def _cosines(self) -> Tensor | None:
        """Return the cosines of all rows with the class embeddings (n, c), made once; None where they are too many."""
        if len(self.X) * len(self.text) * self.X.element_size() > COSINE_BYTES:
            return None
        with self.lock:
            if not self.cosines:
                self.cosines.append(self.X @ self.text.T)
        return self.cosines[0]

    def uses_feature_mean(self, shape: Any) -> bool:
        """Whether the mean training feature is used: never."""
        return False

    def activation_bytes(self, configuration: Configuration) -> int:
        """Estimate the bytes of a step: three arrays of the size of affinities, and three of the size of logits."""
        b = min(configuration.batch_size, len(configuration.rows))
        return 3 * self.text.element_size() * b * (len(self.text) + len(configuration.rows))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Count the multiply-adds of a step: logits, affinities, and the gradient's product."""
        b = min(configuration.batch_size, len(configuration.rows))
        return b * self.text.shape[1] * (len(self.text) + 2 * len(configuration.rows))


def sorted_rows(rows: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows sorted by class; within a class they keep their order."""
    ordered: NDArray[np.int64] = rows[np.argsort(y[rows], kind="stable")]
    return ordered
