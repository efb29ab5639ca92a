"""Loss and gradient of Tip-Adapter-F's keys on a CPU, from formulas, in blocks of keys that stay in cache.

Letters: b rows of a batch, d width, c classes, K keys sorted by class; f rows and W class embeddings of unit length.

    A_ir = exp( beta k_i . f_r - beta )
    L_jr = s W_j . f_r + alpha sum_{i in class j} A_ir        loss = mean CE(L)

With E = softmax(L) - Y, columns of L being rows of the batch and Y their one-hot labels:

    dL/dk_i = sum_r (alpha beta / b) E_{class(i) r} A_ir f_r

Keys stand first, (K, b), so that the sum over a class adds whole rows of memory, and its gradient reads one: neither
needs a product with one-hot values. beta goes into the rows of the batch, which are fewer than the affinities.

Products run in float64, float32, or bfloat16 with float32 accumulation inside a product, and affinities have their
dtype; logits, softmax, keys and their gradient stay in the parameters' dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cafe.kernels.calls import Buffers
from cafe.kernels.class_weights_reference import Parameters

# Bytes of a block of affinities in the parameters' dtype. Of 4,000 keys with 256 rows, blocks of 512 keys took 4 %
# longer for their products than all at once.
BLOCK_BYTES = 2**21
# Products with fewer rows than this waste more than the cache saves.
LEAST_KEYS = 64


class KeysStep:
    """Losses and gradients of a stack of configurations, step after step.

    Parameters
    ----------
    hyper : dict of str to Tensor of shape (g,)
        ``alpha``, ``beta``, ``logit_scale``.
    features : Tensor of shape (n, d)
        All rows, of unit length, in the dtype of the products.
    labels : Tensor of shape (n,), int64
        Class row of each.
    text : Tensor of shape (c, d)
        Class embeddings of unit length, in the parameters' dtype.
    owner : Tensor of shape (K,), int64
        Class row of each key.
    cosines : Tensor of shape (n, c), default=None
        Of all rows with the class embeddings, in the parameters' dtype, where they are known: they stay the same, and
        keep what a product in bfloat16 would round, which s multiplies. None to compute those of each batch.
    block_bytes, least_keys : int
        How much memory a block of affinities may need, and how few keys it may have for that.

    Notes
    -----
    Formulas in the module's docstring.

    Examples
    --------
    >>> hyper = {name: torch.tensor([1.0]) for name in ("alpha", "beta", "logit_scale")}
    >>> rows, labels = torch.eye(2), torch.tensor([0, 1])
    >>> step = KeysStep(hyper, rows, labels, rows, labels)
    >>> losses, gradients = step({"keys": rows[None]}, torch.tensor([[0, 1]]))
    >>> losses, gradients["keys"]
    (tensor([0.1786]), tensor([[[-0.0818,  0.0301],
             [ 0.0301, -0.0818]]]))
    """

    def __init__(
        self,
        hyper: Parameters,
        features: Tensor,
        labels: Tensor,
        text: Tensor,
        owner: Tensor,
        cosines: Tensor | None = None,
        block_bytes: int = BLOCK_BYTES,
        least_keys: int = LEAST_KEYS,
    ) -> None:
        self.features, self.labels, self.owner = features, labels, owner
        self.ratios = [hyper[name].tolist() for name in ("alpha", "beta", "logit_scale")]
        self.text, self.narrow_text, self.cosines = text, text.to(features.dtype), cosines
        self.block_bytes, self.least_keys = block_bytes, least_keys
        self.minus_one = text.new_full((1, 1), -1.0)
        self.buffers, self.gradients = Buffers(), Parameters()

    def __call__(
        self, parameters: Parameters, index: Tensor, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,), or None, and gradients.

        Parameters
        ----------
        parameters : dict of str to Tensor
            ``keys`` (g, K, d).
        index : Tensor of shape (g, b), int64
            Rows of each configuration's batch.
        with_losses : bool, default=True
            Whether losses are wanted.

        Returns
        -------
        tuple of Tensor of shape (g,) or None, and dict of str to Tensor
            The gradient is overwritten by the next call.
        """
        keys = parameters["keys"]
        if not self.gradients:
            self.gradients = {"keys": torch.empty_like(keys)}
        losses = [self._run(keys[k], index[k], k, with_losses) for k in range(len(keys))]
        return torch.stack([loss for loss in losses if loss is not None]) if with_losses else None, self.gradients

    def _run(self, keys: Tensor, index: Tensor, k: int, with_losses: bool) -> Tensor | None:
        """Write the gradient of configuration k, and return its loss if it is wanted."""
        alpha, beta, scale = (values[k] for values in self.ratios)
        b = len(index)
        f = torch.index_select(self.features, 0, index, out=self.buffers("rows", self.features, b, keys.shape[1]))
        sharp = torch.mul(f, beta, out=self.buffers("sharp", f, *f.shape))
        affinities = self.buffers("affinities", f, len(keys), b)
        logits = self._cosines(index, f).mul_(scale)  # (c, b)
        for block in self._blocks(len(keys), b):
            own = affinities[block]
            torch.mm(self.buffers.in_dtype_of(self.features, keys[block], "narrow keys"), sharp.mT, out=own)
            own.sub_(beta).exp_()
            wide = self.buffers.in_dtype_of(self.text, own, "affinities of a block")
            logits.index_add_(0, self.owner[block], wide, alpha=alpha)
        labels = self.labels.take(index)[None]  # (1, b)
        loss = None
        if with_losses:
            loss = (torch.logsumexp(logits, 0) - logits.gather(0, labels)[0]).mean()
        errors = torch.softmax(logits, 0, out=logits).scatter_add_(0, labels, self.minus_one.expand(1, b))
        self._add_up(errors.mul_(alpha * beta / b), affinities, f, self.gradients["keys"][k])
        return loss

    def _cosines(self, index: Tensor, f: Tensor) -> Tensor:
        """Return cosines of class embeddings with the rows of a batch, f, (c, b), in the parameters' dtype."""
        c, b = len(self.text), len(index)
        if self.cosines is None:
            product = torch.mm(self.narrow_text, f.mT, out=self.buffers("cosines", f, c, b))
            return self.buffers.in_dtype_of(self.text, product, "logits")
        rows = torch.index_select(self.cosines, 0, index, out=self.buffers("cosines of rows", self.text, b, c))
        return self.buffers("logits", self.text, c, b).copy_(rows.mT)

    def _add_up(self, errors: Tensor, affinities: Tensor, f: Tensor, gradient: Tensor) -> None:
        """Write the gradient of the keys (K, d) from that of the sums (c, b); affinities become their gradients."""
        narrow = self.buffers.in_dtype_of(f, errors, "errors")
        for block in self._blocks(*affinities.shape):
            own = affinities[block]
            of_keys = self.buffers("errors of keys", f, *own.shape)
            own.mul_(torch.index_select(narrow, 0, self.owner[block], out=of_keys))
            if gradient.dtype == f.dtype:
                torch.mm(own, f, out=gradient[block])
            else:
                gradient[block].copy_(torch.mm(own, f, out=self.buffers("product", f, len(own), f.shape[1])))

    def _blocks(self, keys: int, b: int) -> Iterator[slice]:
        """Yield blocks of keys."""
        size = max(self.least_keys, self.block_bytes // (self.text.element_size() * b))
        return (slice(first, min(keys, first + size)) for first in range(0, keys, size))


@dataclass(frozen=True)
class KeysSizes:
    """What decides how long a step of one configuration takes.

    Attributes
    ----------
    batch, width, classes, keys : int
        b, d, c, K.
    """

    batch: int
    width: int
    classes: int
    keys: int

    @property
    def multiply_adds(self) -> int:
        """Logits and affinities, and the gradient's product."""
        return self.batch * self.width * (self.classes + 2 * self.keys)

    def __str__(self) -> str:
        return f"cache keys, batch {self.batch}, width {self.width}, {self.classes} classes, {self.keys} keys"

    def timed_step(self, products: torch.dtype) -> Callable[[], object]:
        """Return a step on random rows, to be called with nothing."""
        generator = torch.Generator().manual_seed(0)

        def draw(rows: int) -> Tensor:
            return torch.randn(rows, self.width, generator=generator) / math.sqrt(self.width)

        hyper = {name: torch.tensor([1.0]) for name in ("alpha", "beta", "logit_scale")}
        owner = torch.arange(self.keys) * self.classes // self.keys
        labels = torch.arange(self.batch) % self.classes
        rows, text = draw(self.batch), draw(self.classes)
        step = KeysStep(hyper, rows.to(products), labels, text, owner, rows @ text.T)
        keys, index = {"keys": draw(self.keys)[None]}, torch.arange(self.batch)[None]
        return lambda: step(keys, index, False)
