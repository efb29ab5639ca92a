"""The step on class weights on a GPU in three launches: logits, their rows, and gradients with the update in place.

Letters and the loss as in kernels/class_weights_reference.py, formulas as in kernels/class_weights.py. With w = t + a x
where a residual x is trained, else w itself, r_j = 1 / |w_j| (1 without cosines) and v the rows' weights:

    1 logits    L = s r (f w^T) + o         stored; r, |w - t|^2 of each class; for each tile its part of the softmax
    2 rows      lse_i = logsumexp(L_i), loss_i = v_i (lse_i - L_i[label_i])                  and the counters move on
    3 update    D = v (exp(L - lse) - Y) / sum v,    rho_j = sum_i D_ij (L_ij - o_j),    q = 2 a pull / c + decay / a
                x <- update(a s r D^T f + (q - a r^2 rho) w - q t),   o <- update(sum_i D_i),   and the loss
                    loss = sum_i loss_i / sum v + sum_j (q_j / 2a) |w_j - t_j|^2

Of class weights launch 3 reads the tile alone that it updates, so that no copy of them is needed. Lengths are those of
w in float32, products are of w rounded to the features' dtype. Sums are float32 and always in the same order.

Never run on a GPU so far.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cafe.kernels.calls import Buffers
from cafe.kernels.cards import Card, card_of, choose_tile
from cafe.kernels.class_weights_reference import WeightsShape
from cafe.kernels.cuda.optimizers import update
from cafe.kernels.cuda.products import ALIGNED, FAR, log_sum_exp, places_of
from cafe.kernels.cuda.training import TritonTraining, Update
from cafe.kernels.optimizers import BETAS, EPS, MOMENTUM
from cafe.kernels.reference import Parameters

# Rows of a program of launch 2.
ROWS = 32
# Bytes of a logit.
WIDE = 4


@triton.jit  # type: ignore[untyped-decorator]
def weights_of(p, anchor, place, row, inside, a, RESIDUAL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return w at some places of the parameters, which are ``row`` in the anchor."""
    value = tl.load(p + place, mask=inside, other=0.0)
    if RESIDUAL:
        value = tl.load(anchor + row, mask=inside, other=0.0) + a * value
    return value


@triton.jit  # type: ignore[untyped-decorator]
def class_logits_kernel(  # type: ignore[no-untyped-def]
    x, batches, at, done, labels, p, anchor, offset, scale, residual, batch, batch_labels, now,
    lengths, away, logits, highest, sums, n_batches, b, c, c_row, d,
    GATHER: tl.constexpr, COSINES: tl.constexpr, RESIDUAL: tl.constexpr, OFFSET: tl.constexpr, PULLED: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Launch 1: logits of the batch's rows, or of all in their order."""
    fit = tl.program_id(2).to(tl.int64)
    rows, j = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    place = rows.to(tl.int64)
    if GATHER:
        place = tl.load(batches + (fit * n_batches + tl.load(at)) * b + rows, mask=rows < b, other=0)
    if tl.program_id(1) == 0:
        # The counters move on in launch 2, while launch 3 still needs what they said.
        tl.store(batch + fit * b + rows, place, mask=rows < b)
        tl.store(batch_labels + fit * b + rows, tl.load(labels + place, mask=rows < b, other=0), mask=rows < b)
        if (fit == 0) & (tl.program_id(0) == 0):
            tl.store(now, tl.load(done))
    a = tl.load(residual + fit) if RESIDUAL else 1.0
    total = tl.zeros((BM, BN), dtype=tl.float32)
    squares = tl.zeros((BK, BN), dtype=tl.float32)
    moved = tl.zeros((BK, BN), dtype=tl.float32)
    for start in range(0, d, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(x + place[:, None] * d + k[None, :], mask=(rows[:, None] < b) & (k[None, :] < d), other=0.0)
        inside = (k[:, None] < d) & (j[None, :] < c)
        row = j[None, :] * d + k[:, None]
        w = weights_of(p, anchor, fit * c * d + row, row, inside, a, RESIDUAL)
        if COSINES:
            squares += w * w
        if PULLED:
            apart = w - tl.load(anchor + row, mask=inside, other=0.0)
            moved += apart * apart
        total = tl.dot(left, w.to(left.dtype), total, input_precision=PRECISION)
    value = tl.load(scale + fit) * total
    if COSINES:
        square = tl.sum(squares, axis=0)
        length = tl.where(square == 0, 0.0, 1 / tl.sqrt(tl.where(square == 0, 1.0, square)))
        value *= length[None, :]
    if OFFSET:
        value += tl.load(offset + fit * c + j, mask=j < c, other=0.0)[None, :]
    if tl.program_id(0) == 0:
        if COSINES:
            tl.store(lengths + fit * c + j, length, mask=j < c)
        if PULLED:
            tl.store(away + fit * c + j, tl.sum(moved, axis=0), mask=j < c)
    value = tl.where(j[None, :] < c, value, FAR)
    inside = (rows[:, None] < b) & (j[None, :] < c_row)
    tl.store(logits + fit * b * c_row + rows[:, None] * c_row + j[None, :], value, mask=inside)
    high = tl.max(value, axis=1)
    part = (fit * tl.num_programs(1) + tl.program_id(1)) * b + rows
    tl.store(highest + part, high, mask=rows < b)
    tl.store(sums + part, tl.sum(tl.exp(value - high[:, None]), axis=1), mask=rows < b)


@triton.jit  # type: ignore[untyped-decorator]
def class_rows_kernel(  # type: ignore[no-untyped-def]
    logits, highest, sums, batch, labels, row_weights, lse, losses, at, done, b, c_row, parts,
    WEIGHTED: tl.constexpr, ADVANCE: tl.constexpr, POWER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Launch 2: logsumexp and loss of each row."""
    fit = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    own = log_sum_exp(highest + fit * parts * b, sums + fit * parts * b, rows, b, parts, POWER)
    label = tl.load(labels + fit * b + rows, mask=rows < b, other=0)
    loss = own - tl.load(logits + fit * b * c_row + rows * c_row + label, mask=rows < b, other=0.0)
    if WEIGHTED:
        place = tl.load(batch + fit * b + rows, mask=rows < b, other=0)
        loss *= tl.load(row_weights + place, mask=rows < b, other=0.0)
    tl.store(lse + fit * b + rows, own, mask=rows < b)
    tl.store(losses + fit * b + rows, loss, mask=rows < b)
    if ADVANCE and (fit == 0) & (tl.program_id(0) == 0):
        # Only launch 1 of the next step reads them.
        tl.store(at, tl.load(at) + 1)
        tl.store(done, tl.load(done) + 1)


@triton.jit  # type: ignore[untyped-decorator]
def strengths(pull, index, penalty, fit, j, c, a, PULL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return q of classes: 2 a pull / c + decay / a."""
    q = tl.load(penalty + fit) / a + tl.zeros(j.shape, dtype=tl.float32)
    if PULL:
        own = tl.load(index + fit).to(tl.int64)
        q += 2 * a / c * tl.load(pull + own * c + j, mask=j < c, other=0.0)
    return q


@triton.jit  # type: ignore[untyped-decorator]
def class_update_kernel(  # type: ignore[no-untyped-def]
    x, batch, labels, logits, lse, losses, lengths, away, anchor, scale, residual, penalty, pull, index, row_weights,
    weights, p, p_m, p_v, offset, o, o_m, o_v, tail, share, rates, decay, corrections, now, stack, b, c, c_row, d, eps,
    COSINES: tl.constexpr, RESIDUAL: tl.constexpr, OFFSET: tl.constexpr, PULLED: tl.constexpr, PULL: tl.constexpr,
    WEIGHTED: tl.constexpr, OPTIMIZER: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr, MOMENTUM: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Launch 3: a tile of classes and features; w is of ``weights``, and p is updated (the same, or gradients)."""
    fit = tl.program_id(2).to(tl.int64)
    j, k = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    rho, along = tl.zeros((BM,), dtype=tl.float32), tl.zeros((BM,), dtype=tl.float32)
    counted = tl.zeros((BK,), dtype=tl.float32)
    shift = tl.zeros((BM,), dtype=tl.float32)
    if OFFSET:
        shift = tl.load(offset + fit * c + j, mask=j < c, other=0.0)
    for start in range(0, b, BK):
        r = start + tl.arange(0, BK)
        # Beyond the edge logits are far below all others, and no label is there: D is 0 without asking again.
        inside = (j[:, None] < c_row) & (r[None, :] < b)
        value = tl.load(logits + fit * b * c_row + r[None, :] * c_row + j[:, None], mask=inside, other=FAR)
        label = tl.load(labels + fit * b + r, mask=r < b, other=-1).to(tl.int32)
        place = places_of(batch, fit, r, b, True)
        error = tl.exp(value - tl.load(lse + fit * b + r, mask=r < b, other=0.0)[None, :])
        error = tl.where(j[:, None] == label[None, :], error - 1, error)
        if WEIGHTED:
            v = tl.load(row_weights + place, mask=r < b, other=0.0)
            error *= v[None, :]
            counted += v
        else:
            counted += (r < b).to(tl.float32)
        if COSINES:
            rho += tl.sum(error * (value - shift[:, None]), axis=1)
        if OFFSET:
            along += tl.sum(error, axis=1)
        right = tl.load(x + place[:, None] * d + k[None, :], mask=(r[:, None] < b) & (k[None, :] < d), other=0.0)
        total = tl.dot(error.to(right.dtype), right, total, input_precision=PRECISION)
    over = 1 / tl.sum(counted, axis=0)
    a = tl.load(residual + fit) if RESIDUAL else 1.0
    inside = (j[:, None] < c) & (k[None, :] < d)
    row = j[:, None] * d + k[None, :]
    spot = fit * c * d + row
    factor = tl.load(scale + fit) * a * over + tl.zeros((BM,), dtype=tl.float32)
    own = tl.zeros((BM,), dtype=tl.float32)
    if COSINES:
        length = tl.load(lengths + fit * c + j, mask=j < c, other=0.0)
        factor *= length
        own -= a * over * length * length * rho
    gradient = factor[:, None] * total
    if PULLED:
        q = strengths(pull, index, penalty, fit, j, c, a, PULL)
        own += q
        gradient -= q[:, None] * tl.load(anchor + row, mask=inside, other=0.0)
    if COSINES or PULLED:
        gradient += own[:, None] * weights_of(weights, anchor, spot, row, inside, a, RESIDUAL)
    update(
        gradient, p, p_m, p_v, p, spot, inside, fit, rates, decay, corrections, now, stack, eps,
        OPTIMIZER, False, B1, B2, MOMENTUM,
    )  # fmt: skip
    if OFFSET and tl.program_id(1) == 0:
        update(
            along * over, o, o_m, o_v, o, fit * c + j, j < c, fit, rates, decay, corrections, now, stack, eps,
            OPTIMIZER, False, B1, B2, MOMENTUM,
        )  # fmt: skip
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        sums = tl.zeros((BK,), dtype=tl.float32)
        for start in range(0, b, BK):
            r = start + tl.arange(0, BK)
            sums += tl.load(losses + fit * b + r, mask=r < b, other=0.0)
        loss = tl.sum(sums, axis=0) * over
        if PULLED:
            held = tl.zeros((BM,), dtype=tl.float32)
            for start in range(0, c, BM):
                i = start + tl.arange(0, BM)
                part = strengths(pull, index, penalty, fit, i, c, a, PULL) / (2 * a)
                held += part * tl.load(away + fit * c + i, mask=i < c, other=0.0)
            loss += tl.sum(held, axis=0)
        if OPTIMIZER == "none":
            tl.store(tail + fit, loss)
        else:
            tl.store(tail + fit, tl.load(tail + fit) + loss * tl.load(share + tl.load(now)))


class TritonClassWeightStep:
    """As :class:`~cafe.kernels.class_weights.ClassWeightStep`, on a GPU, all configurations in one launch.

    :meth:`whole_step` makes a step that updates the parameters too. Nothing here waits for the device.

    Parameters
    ----------
    shape : WeightsShape
        What the configurations share.
    hyper : dict of str to Tensor of shape (g,), float32
        ``logit_scale``, ``decay``, ``residual_scale`` where a residual is trained, and ``index`` where ``pull`` is of
        other configurations too.
    features : Tensor of shape (n, d)
        All rows, in the dtype of the products: float32, bfloat16 or float16.
    labels : Tensor of shape (n,), int64
        Class row of each.
    anchor : Tensor of shape (c, d), float32
        t.
    pull : Tensor of shape (m, c), float32, default=None
        Strength by which each class is held to its anchor: that of configuration i is row ``hyper["index"][i]``, or
        row i without. None for zeros.
    row_weights : Tensor of shape (n,), float32, default=None
        How much each row counts; None for all alike.
    held : bool, default=True
        Whether ``decay`` may be other than zero; without it and ``pull``, no term in w - t is made.
    precision : {"ieee", "tf32"}, default="ieee"
        How float32 operands enter a product; sums are float32 either way.
    card : Card, default=None
        What tiles are chosen by; None for the device that the features are on.
    """

    def __init__(
        self,
        shape: WeightsShape,
        hyper: Parameters,
        features: Tensor,
        labels: Tensor,
        anchor: Tensor,
        pull: Tensor | None = None,
        row_weights: Tensor | None = None,
        held: bool = True,
        precision: str = "ieee",
        card: Card | None = None,
    ) -> None:
        self.shape, self.hyper, self.precision = shape, hyper, precision
        self.features, self.labels, self.anchor = features.contiguous(), labels, anchor.contiguous()
        self.pull, self.row_weights = (None if pull is None else pull.contiguous()), row_weights
        self.held = held or pull is not None
        self.card = card_of(str(features.device)) if card is None else card
        g = len(hyper["logit_scale"])
        self.index = hyper.get("index", torch.arange(g, dtype=torch.float32, device=features.device))
        self.buffers = Buffers()
        self.start = torch.zeros(1, dtype=torch.int64, device=features.device)
        self.gradients: Parameters = {}

    def recorded_as(self) -> tuple[tuple[Any, ...], list[Tensor]]:
        """Return what decides which launches there are, and the tensors made of features, labels and text."""
        code = self.shape, self.precision, self.card, self.held, self.pull is None, self.row_weights is None
        made = [self.features, self.labels, self.anchor, self.pull, self.row_weights]
        return code, [value for value in made if value is not None]

    def __call__(
        self, parameters: Parameters, index: Tensor | None, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,) and gradients, which the next call overwrites.

        Parameters
        ----------
        parameters : dict of str to Tensor, float32
            ``weights`` (g, c, d) and, where the shape has one, ``offset`` (g, c).
        index : Tensor of shape (g, b), int64, or None
            Rows of each configuration's batch; None for all rows in their order.
        with_losses : bool, default=True
            Not used: losses are there anyway.
        """
        if not self.gradients:
            self.gradients = {name: torch.empty_like(value) for name, value in parameters.items()}
        losses = self.buffers("mean losses", self.anchor, len(parameters["weights"]))
        nothing = self.start
        own = Update("none", self.gradients, {}, {}, {}, losses, nothing, nothing, nothing, nothing)
        self.take(parameters, None if index is None else index.contiguous()[:, None], self.start, self.start, own)
        return losses, self.gradients

    def whole_step(
        self, optimizer: str, parameters: Parameters, decay: Tensor, steps: int, eps: float = EPS
    ) -> TritonTraining:
        """Return the step that updates the parameters too; see :class:`cafe.kernels.cuda.training.TritonTraining`."""
        return TritonTraining(self, optimizer, parameters, decay, steps, eps)

    def fused(self, parameters: Parameters) -> Parameters:
        """Return the parameters that launch 3 updates: all."""
        return parameters

    def narrow_weights(self, parameters: Parameters) -> Parameters:
        """Return copies of weights: none are needed."""
        return {}

    def take(
        self, parameters: Parameters, batches: Tensor | None, at: Tensor, done: Tensor, update: Update
    ) -> tuple[Parameters, Tensor]:
        """Take a step with the batch at the counters; return no gradients, and the step's number.

        Parameters
        ----------
        parameters : dict of str to Tensor
            From which losses are computed.
        batches : Tensor of shape (g, some steps, b), int64, or None
            Rows of the batches; None for all rows.
        at, done : Tensor of shape (1,), int64
            Which of them, and how many steps were taken.
        update : Update
            What becomes of the gradients.
        """
        weights, shape, hyper, like = parameters["weights"], self.shape, self.hyper, self.anchor
        (g, c, d), b = weights.shape, len(self.labels) if batches is None else batches.shape[2]
        offset = parameters["offset"] if shape.offset else weights
        residual = hyper["residual_scale"] if shape.residual else hyper["logit_scale"]
        batch, labels = (self.buffers(name, self.start, g, b) for name in ("batch", "labels"))
        now = self.buffers("now", self.start, 1)
        lengths, away = (self.buffers(name, like, g, c) for name in ("lengths", "away"))
        lse, losses = (self.buffers(name, like, g, b) for name in ("lse", "losses"))
        kinds = {"COSINES": shape.cosines, "RESIDUAL": shape.residual, "OFFSET": shape.offset}
        kinds["PULLED"] = self.held
        # w is made of the anchor and of the residual, and float32 leaves no registers for its squares in a large tile.
        grid, options = self._launch(b, c, g, crowded=self._exact, right=2 if shape.residual else 1)
        logits = self.buffers("logits", like, g, b, -(-c // ALIGNED) * ALIGNED)
        highest, sums = (self.buffers(name, like, g, grid[1], b) for name in ("highest", "sums"))
        class_logits_kernel[grid](
            self.features, self.start if batches is None else batches, at, done, self.labels, weights, self.anchor,
            offset, hyper["logit_scale"], residual, batch, labels, now, lengths, away, logits, highest, sums,
            1 if batches is None else batches.shape[1], b, c, logits.shape[2], d, GATHER=batches is not None,
            **kinds, **options,
        )  # fmt: skip
        row_weights = losses if self.row_weights is None else self.row_weights
        weighted, advance = self.row_weights is not None, update.optimizer != "none"
        class_rows_kernel[triton.cdiv(b, ROWS), g](
            logits, highest, sums, batch, labels, row_weights, lse, losses, at, done, b, logits.shape[2], grid[1],
            WEIGHTED=weighted, ADVANCE=advance, POWER=triton.next_power_of_2(grid[1]), BLOCK=ROWS, num_warps=4,
        )  # fmt: skip
        parts = []
        for name in ("weights", "offset"):
            target = update.targets.get(name, update.targets["weights"])
            first = update.first.get(name, target)
            parts.append((target, first, update.second.get(name, first)))
        grid, options = self._launch(c, d, g, computed=True, crowded=shape.offset)
        class_update_kernel[grid](
            self.features, batch, labels, logits, lse, losses, lengths, away, self.anchor, hyper["logit_scale"],
            residual, hyper["decay"], like if self.pull is None else self.pull, self.index, row_weights,
            weights, *parts[0], offset, *parts[1], update.tail, update.share, update.rates, update.decay,
            update.corrections, now, g, b, c, logits.shape[2], d, update.eps,
            PULL=self.pull is not None, WEIGHTED=weighted, OPTIMIZER=update.optimizer, B1=BETAS[0], B2=BETAS[1],
            MOMENTUM=MOMENTUM, **kinds, **options,
        )  # fmt: skip
        return {}, now

    @property
    def _exact(self) -> bool:
        """Whether operands are float32 and stay so."""
        return self.features.element_size() == WIDE and self.precision == "ieee"

    def _launch(
        self, rows: int, columns: int, stack: int, computed: bool = False, crowded: bool = False, right: int = 1
    ) -> tuple[tuple[int, int, int], dict[str, Any]]:
        """Return the grid of a product with so many rows and columns, and the options of its launch."""
        # Weights and logits are four bytes wide, whatever the products are.
        tile = choose_tile(self.card, rows, columns, stack, WIDE, self._exact, computed, crowded, right)
        grid = (triton.cdiv(rows, tile.rows), triton.cdiv(columns, tile.columns), stack)
        return grid, {"PRECISION": self.precision, **tile.options()}
