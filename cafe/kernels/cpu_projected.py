"""The image adapter on a CPU without its output: everything d wide goes through the class embeddings.

The other form of kernels/cpu.py's formulas, for form "paper" and a fixed ratio a (letters there; F are the frozen
logits, N the squared lengths, of all rows, both computed once for every step and every configuration of a grid):

    F = x w^T      N = |x|^2      M = W2 w^T      K = W2 W2^T      H = ReLU(x W1)      z = x W2^T

    q w^T  = a H M + (1 - a) F                          y = q W2^T = a H K + (1 - a) z
    |q|^2  = a H . y + (1 - a) (a H . z + (1 - a) N)    since q . A = H . y and q . x = a H . z + (1 - a) N

and with G' = a G and k = a (r^2 / b) sum_j D_ij L_ij, so that dA = G' w - k q,

    dH  = dA W2^T = G' M^T - k y, 0 where H = 0         dW1 = x^T dH
    dW2 = H^T dA  = (H^T G') w - a (H^T k H) W2 - (1 - a) (k H)^T x

Multiply-adds of a step (b rows, d features, c classes, h bottleneck):

    direct      2 b d c + 5 b d h                                       kernels/cpu.py
    projected   4 b d h + 3 b h c + 2 h d c + 2 h^2 (b + d)             here

The products with classes shrink from d to h wide, at the price of two that cost h d c whatever the batch: cheaper
where h is small against b and d. At 256 x 512 with 1,000 classes it is 0.93 of the direct form's at reduction 4, which
does not pay for its more and smaller products, 0.51 at reduction 8 and 0.27 at 16.
"""

from __future__ import annotations

from threading import Lock

import torch
from torch import Tensor

from cafe.kernels.cpu import CpuAdapterStep
from cafe.kernels.cpu_side import invert, zero_where_zero
from cafe.kernels.reference import AdapterShape, Parameters

# The projected form is taken where its multiply-adds are at most this share of the direct form's. Its products are
# more and smaller: in bfloat16 a share of 0.27 took 0.63 of the time, 0.51 took 0.80, and 0.93 took 1.12.
PAYS = 0.65
# Its frozen logits have to be earned back within so many steps of one fit, and to fit in so many bytes.
EARNED_BACK, FROZEN_BYTES = 100, 512 * 2**20
# Below this many multiply-adds of a direct step, stacking configurations gains more than any form.
LEAST = 20_000_000


def direct_multiply_adds(b: int, d: int, c: int, h: int) -> int:
    """Return the multiply-adds of a step of an image adapter in kernels/cpu.py's form."""
    return 2 * b * d * c + 5 * b * d * h


def projected_multiply_adds(b: int, d: int, c: int, h: int) -> int:
    """Return the multiply-adds of a step in this file's form."""
    return 4 * b * d * h + 3 * b * h * c + 2 * h * d * c + 2 * h * h * (b + d)


def projected_pays(shape: AdapterShape, b: int, n: int, d: int, c: int, width: int) -> bool:
    """Return whether this form can be used, and costs less, for b rows out of n; numbers have ``width`` bytes."""
    if shape.variant != "image" or shape.form != "paper" or shape.alpha_mode != "fixed":
        return False
    direct, own = (count(b, d, c, shape.bottleneck) for count in (direct_multiply_adds, projected_multiply_adds))
    cheap = direct >= LEAST and own <= PAYS * direct
    return cheap and n * c * width <= FROZEN_BYTES and n * d * c <= EARNED_BACK * (direct - own)


class FrozenLogits:
    """F (n, c) and N (n, 1) of all rows, made when first asked for and shared by every group of a grid."""

    def __init__(self) -> None:
        self._found: tuple[Tensor, Tensor] | None = None
        self._lock = Lock()

    def __call__(self, features: Tensor, classes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return F in the features' dtype and N in the parameters', of features (n, d) and unit classes (c, d)."""
        with self._lock:
            if self._found is None:
                length = torch.linalg.vector_norm(features, dim=-1, keepdim=True, dtype=dtype)
                self._found = torch.mm(features, classes.mT), length.square_()
            return self._found


class CpuProjectedStep(CpuAdapterStep):
    """As :class:`~cafe.kernels.cpu.CpuAdapterStep`, for an image adapter of form "paper" with fixed ratios.

    Parameters
    ----------
    shape, hyper, features, labels, text, feature_mean
        As there.
    frozen : FrozenLogits
        What the configurations of a grid share.
    """

    def __init__(
        self,
        shape: AdapterShape,
        hyper: dict[str, Tensor],
        features: Tensor,
        labels: Tensor,
        text: Tensor,
        feature_mean: Tensor,
        frozen: FrozenLogits,
    ) -> None:
        super().__init__(shape, hyper, features, labels, text, feature_mean)
        self.frozen, self.squares = frozen(features, self.unit_text, text.dtype)

    def __call__(
        self, parameters: Parameters, index: Tensor, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,) and gradients, one configuration after the other; see the base class."""
        products = self._prepared(parameters)
        g, b = index.shape
        if b not in self.over:
            self.over[b] = self.weight / b
        losses = self.full.new_zeros(g) if with_losses else None
        for one in range(g):
            weights = products["image_down"][one], products["image_up"][one]
            self._one(weights, index[one], one, None if losses is None else losses[one])
        return losses, self.gradients

    def _one(self, weights: tuple[Tensor, Tensor], index: Tensor, one: int, losses: Tensor | None) -> None:
        """Do one configuration; the module has the formulas."""
        (down, up), a, room, w = weights, self.shares["alpha"][one], self.room, self.unit_text
        (d, h), b, c = down.shape, len(index), len(w)
        x = torch.index_select(self.features, 0, index, out=room("x", w, b, d))
        hidden = torch.mm(x, down, out=room("h", w, b, h)).relu_()
        z = torch.mm(x, up.mT, out=room("z", w, b, h))
        m = torch.mm(up, w.mT, out=room("m", w, h, c))
        k = torch.mm(up, up.mT, out=room("k", w, h, h))
        y = torch.addmm(z, hidden, k, beta=1 - a, alpha=a, out=room("y", w, b, h))
        frozen = torch.index_select(self.frozen, 0, index, out=room("f", w, b, c))
        cosines = torch.addmm(frozen, hidden, m, beta=1 - a, alpha=a, out=room("cosines", w, b, c))
        r = self._reciprocal_lengths(hidden, y, z, self.squares.index_select(0, index), a)
        error, sums = self._errors(cosines, r, index, one, b, losses)
        along = sums.sum(-1, keepdim=True).mul_(r).mul_(r).mul_(self.over[b][one]).to(w.dtype)
        dh = torch.mm(error, m.mT, out=room("dh", w, b, h)).addcmul_(y, along, value=-1)
        zero_where_zero(dh, hidden)
        self.gradients["image_down"][one].copy_(torch.mm(x.mT, dh, out=room("down", w, d, h)))
        kept = torch.mul(hidden, along, out=room("kh", w, b, h))
        s = torch.mm(hidden.mT, error, out=room("s", w, h, c))
        inner = torch.mm(hidden.mT, kept, out=room("r", w, h, h))
        # Three terms that nearly cancel along q: each is rounded once, and they are added in the parameters' dtype.
        total = self.gradients["image_up"][one].copy_(torch.mm(s, w, out=room("sw", w, h, d)))
        total.sub_(self._wide(torch.mm(inner, up, out=room("rw", w, h, d))), alpha=a)
        total.sub_(self._wide(torch.mm(kept.mT, x, out=room("kx", w, h, d))), alpha=1 - a)

    def _reciprocal_lengths(self, hidden: Tensor, y: Tensor, z: Tensor, squares: Tensor, a: float) -> Tensor:
        """Return 1 / |q|, (b, 1), 0 where q is 0; a sum that rounding made negative is one."""
        wide, room = torch.promote_types(hidden.dtype, squares.dtype), self.room
        first, second = (room(name, squares, *y.shape, dtype=wide) for name in ("hy", "hz"))
        by_y = first.copy_(hidden).mul_(y).sum(-1, keepdim=True)
        by_z = second.copy_(hidden).mul_(z).sum(-1, keepdim=True)
        return invert((a * by_y + (1 - a) * (a * by_z + (1 - a) * squares)).clamp_min_(0).sqrt_())

    def _wide(self, value: Tensor) -> Tensor:
        """Return the value in the parameters' dtype."""
        if value.dtype == self.full.dtype:
            return value
        return self.room("wide gradient", self.full, *value.shape).copy_(value)


class CpuCheapestStep:
    """The CPU kernel in whichever form costs less, known at the first batch; arguments as ``CpuProjectedStep``."""

    def __init__(
        self,
        shape: AdapterShape,
        hyper: dict[str, Tensor],
        features: Tensor,
        labels: Tensor,
        text: Tensor,
        feature_mean: Tensor,
        frozen: FrozenLogits,
    ) -> None:
        self.arguments = (shape, hyper, features, labels, text, feature_mean)
        self.frozen = frozen
        self.step: CpuAdapterStep | None = None

    def __call__(
        self, parameters: Parameters, index: Tensor, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,) and gradients; see :class:`~cafe.kernels.cpu.CpuAdapterStep`."""
        if self.step is None:
            shape, _, features, _, text, _ = self.arguments
            sizes = (index.shape[1], *features.shape, text.shape[1], features.element_size())
            pays = projected_pays(shape, *sizes)
            self.step = CpuProjectedStep(*self.arguments, self.frozen) if pays else CpuAdapterStep(*self.arguments)
        return self.step(parameters, index, with_losses)
