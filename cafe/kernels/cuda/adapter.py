"""The adapter's whole step on a GPU in six launches: from the batch's rows to updated weights.

Letters as in kernels/reference.py, formulas as in kernels/cpu.py. For an image adapter with a given ratio:

    1 hidden    H = ReLU(x W1)                                      x gathered from all rows by the batch's index
    2 blend     A = H W2,   q = ratio A + (1 - ratio) x             and for each tile its part of |q|^2
    3 logits    L = s r (q w^T),  r = 1 / |q|                       stored; for each tile its part of the softmax
    4 errors    dA = ratio ((s r / b) (D w) - (r^2 / b) (sum_j D_j L_j) q),   D = softmax(L) - Y, and the losses
    5 through   dH = dA W2^T, 0 where H = 0
    6 weights   W2 <- update(H^T dA),   W1 <- update(x^T dH)        AdamW or SGD in each tile, and the mean loss

A text adapter is the same with the roles of rows and classes exchanged: 1 and 2 run on class embeddings, with p and
t = 1 / |p| in the places of q and r, logits are s r (x p^T) t, and 4 sums over the rows of the batch. With both, 1, 2,
4, 5 and 6 are launched for each side. A ratio that is trained has a few operations of the library more: its forward
pass between 1 and 2, its gradient from parts that 4 leaves, and its own update.

Why in this order. The gradients of both weights need all of dA, and nothing after 5 reads the weights, so that 6 may
write them in place. The counters of batch and step are copied by 1, moved on by 3 and read by 1 alone, so that many
steps fit in one graph and no two programs race. Sums are float32 and always in the same order: there are no atomic
additions, and the same step gives the same bits.

Tiles do not grow with the problem and are chosen by what the card has (kernels/cards.py), small enough that one fit
fills it. Products are in the features' dtype: float32 ("ieee", or rounded to "tf32" for matrix units), bfloat16 or
float16. Logits, sums, parameters and moments are float32; in 16 bits the weights have copies that products read.

Never run on a GPU so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn.functional import normalize

from cafe.kernels.calls import Buffers
from cafe.kernels.cards import Card, card_of, choose_tile, possible_tiles
from cafe.kernels.cpu_sides import Ratio, ratio_forward, ratio_gradients
from cafe.kernels.cuda.blend import blend_kernel
from cafe.kernels.cuda.errors import errors_kernel
from cafe.kernels.cuda.hidden import hidden_kernel
from cafe.kernels.cuda.logits import logits_kernel
from cafe.kernels.cuda.products import ALIGNED
from cafe.kernels.cuda.through import through_kernel
from cafe.kernels.cuda.training import TritonTraining, Update
from cafe.kernels.cuda.weights import weights_kernel
from cafe.kernels.optimizers import BETAS, EPS, MOMENTUM
from cafe.kernels.reference import AdapterShape, Parameters

# Bytes of a logit.
WIDE = 4


@dataclass
class Side:
    """One adapted side: what goes in, and where its launches leave what later ones read.

    Attributes
    ----------
    name : str
        ``"image"`` or ``"text"``.
    x : Tensor of shape (N, d), or (c, d)
        All images, of which a batch is gathered, or the classes; in the products' dtype.
    n : int
        Rows of one configuration: b or c.
    ratio : Ratio
        Weight of the adapted rows.
    hidden, dh : Tensor of shape (g, n, h)
        H and its gradient.
    q, adapted, da : Tensor of shape (g, n, d)
        The blend, A (q where nothing needs it) and its gradient.
    squares : Tensor of shape (g, parts, n), float32
        Parts of |q|^2.
    """

    name: str
    x: Tensor
    n: int
    hidden: Tensor
    dh: Tensor
    q: Tensor
    adapted: Tensor
    da: Tensor
    squares: Tensor
    ratio: Ratio = field(init=False)
    ratio_parts: Tensor = field(init=False)

    @property
    def gather(self) -> bool:
        """Whether rows are those of the batch."""
        return self.name == "image"

    @property
    def ratios(self) -> tuple[Tensor, int, int]:
        """The ratio of every row, and how far apart those of rows and of configurations are in memory."""
        values = self.ratio.values.float().contiguous()
        return (values, 1, self.n) if values.shape[1] > 1 else (values, 0, 1)


class TritonAdapterStep:
    """Losses and gradients of a stack of configurations, step after step, all of them in one launch.

    :meth:`whole_step` makes a step that updates the parameters too. Nothing here waits for the device, so either can be
    captured in a graph (training/steps.py).

    Parameters
    ----------
    shape : AdapterShape
        What the configurations share.
    hyper : dict of str to Tensor of shape (g,), float32
        ``alpha``, ``beta``, ``logit_scale``.
    features : Tensor of shape (N, d)
        All rows, in the dtype of the products: float32, bfloat16 or float16.
    labels : Tensor of shape (N,), int64
        Row of ``text`` that each belongs to.
    text : Tensor of shape (1, c, d), float32
        Class embeddings.
    feature_mean : Tensor of shape (g, 1, d)
        Mean training feature of each configuration.
    precision : {"ieee", "tf32"}, default="ieee"
        How float32 operands enter a product; sums are float32 either way.
    card : Card, default=None
        What tiles are chosen by; None for the device that the features are on.
    """

    def __init__(
        self,
        shape: AdapterShape,
        hyper: dict[str, Tensor],
        features: Tensor,
        labels: Tensor,
        text: Tensor,
        feature_mean: Tensor,
        precision: str = "ieee",
        card: Card | None = None,
    ) -> None:
        self.shape, self.hyper, self.precision = shape, hyper, precision
        self.text, self.feature_mean, self.text_mean = text, feature_mean, text.mean(1, keepdim=True)
        self.narrow_text = text.to(features.dtype)[0].contiguous()  # (c, d)
        self.unit_text = normalize(text, dim=-1).to(features.dtype)[0].contiguous()  # (c, d)
        self.card = card_of(str(features.device)) if card is None else card
        self.buffers = Buffers()
        self.start = torch.zeros(1, dtype=torch.int64, device=features.device)
        self.gradients: Parameters = {}
        self.use(features, labels)

    def recorded_as(self) -> tuple[tuple[Any, ...], list[Tensor]]:
        """Return what decides which launches there are, and the tensors made of features, labels and text."""
        code = self.shape, self.precision, self.card
        made = [self.features, self.labels, self.row_squares, self.text, self.text_mean, self.narrow_text]
        return code, [*made, self.unit_text]

    def use(self, features: Tensor, labels: Tensor) -> None:
        """Take rows from here from now on: features on disk come batch by batch."""
        self.features, self.labels = features.contiguous(), labels
        # |x|^2 of images without an adapter, (N,)
        rows = features[:0] if self.shape.adapts_image else features
        self.row_squares = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float32).square_()

    def __call__(
        self, parameters: Parameters, index: Tensor, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,) and gradients of the same shapes as the parameters, which the next call overwrites.

        Parameters
        ----------
        parameters : dict of str to Tensor of shape (g, ...), float32
            As for the reference kernel.
        index : Tensor of shape (g, b), int64
            Rows of features in each configuration's batch.
        with_losses : bool, default=True
            Not used: losses are there anyway.
        """
        if not self.gradients:
            self.gradients = {name: torch.empty_like(value) for name, value in parameters.items()}
        losses = self.buffers("mean losses", self.text, len(index), dtype=torch.float32)
        nothing = self.start
        own = Update(
            "none", self.gradients, {}, {}, self.narrow_weights(parameters), losses, nothing, nothing, nothing, nothing
        )
        gradients, _ = self.take(parameters, index.contiguous()[:, None], self.start, self.start, own)
        for name, value in gradients.items():
            self.gradients[name].copy_(value)
        return losses, self.gradients

    def whole_step(
        self, optimizer: str, parameters: Parameters, decay: Tensor, steps: int, eps: float = EPS
    ) -> TritonTraining:
        """Return the step that updates the parameters too; see :class:`TritonTraining`."""
        return TritonTraining(self, optimizer, parameters, decay, steps, eps)

    def fused(self, parameters: Parameters) -> Parameters:
        """Return the parameters that launch 6 updates: all but those of trained ratios."""
        return {name: value for name, value in parameters.items() if name.endswith(("_down", "_up"))}

    def narrow_weights(self, parameters: Parameters) -> Parameters:
        """Return the weights as products read them: themselves, or copies in the features' dtype."""
        weights = self.fused(parameters)
        if self.features.dtype == torch.float32:
            return weights
        copies = {name: self.buffers(f"narrow {name}", self.features, *value.shape) for name, value in weights.items()}
        for name, value in weights.items():
            copies[name].copy_(value)
        return copies

    # ------------------------------------------------------------------ launches

    def take(
        self, parameters: Parameters, batches: Tensor, at: Tensor, done: Tensor, update: Update
    ) -> tuple[Parameters, Tensor]:
        """Take a step with the batch at the counters; return the gradients of trained ratios, and the step's number.

        Parameters
        ----------
        parameters : dict of str to Tensor
            From which trained ratios are computed; products read ``update.narrow``.
        batches : Tensor of shape (g, some steps, b), int64
            Rows of the batches.
        at, done : Tensor of shape (1,), int64
            Which of them, and how many steps were taken.
        update : Update
            What becomes of the gradients.
        """
        shape, (g, _, b) = self.shape, batches.shape
        like = self.features
        batch = self.buffers("batch", batches, g, b)
        labels = self.buffers("labels", batches, g, b)
        now = self.buffers("now", batches, 1)
        names = [name for name, used in (("text", shape.adapts_text), ("image", shape.adapts_image)) if used]
        sides: dict[str, Side] = {}
        for name in names:
            sides[name] = self._forward(name, parameters, batches, at, done, update, (batch, labels, now))
        image, text = sides.get("image"), sides.get("text")
        logits, highest, sums = self._logits(g, b, image, text, batch, at, done, update.optimizer != "none")
        losses = self.buffers("losses", like, g, b, dtype=torch.float32)
        for name in names:
            side, other = sides[name], (text if name == "image" else image)
            self._errors(side, other, (logits, highest, sums, labels, batch, losses), name == names[0])
        for name in names:
            self._through(sides[name], update)
            self._weights(sides[name], (batch, losses, now), update, b, name == names[0])
        gradients: Parameters = {}
        for side in sides.values():
            if side.ratio.mode != "fixed":
                error = side.ratio_parts.sum(1)[..., None]  # (g, n, 1)
                gradients |= ratio_gradients(side.ratio, error, parameters, *self._ratio_inputs(side, batch))
        return gradients, now

    @property
    def _exact(self) -> bool:
        """Whether operands are float32 and stay so."""
        return self.features.element_size() == WIDE and self.precision == "ieee"

    def _launch(
        self, rows: int, columns: int, stack: int, width: int, computed: bool = False, crowded: bool = False
    ) -> tuple[tuple[int, int, int], dict[str, Any]]:
        """Return the grid of a product with so many rows and columns, and the options of its launch."""
        tile = choose_tile(self.card, rows, columns, stack, width, self._exact, computed, crowded)
        grid = (triton.cdiv(rows, tile.rows), triton.cdiv(columns, tile.columns), stack)
        return grid, {"PRECISION": self.precision, **tile.options()}

    def _forward(
        self,
        name: str,
        parameters: Parameters,
        batches: Tensor,
        at: Tensor,
        done: Tensor,
        update: Update,
        own: tuple[Tensor, Tensor, Tensor],
    ) -> Side:
        """Launch 1 and 2 for one side; ``own`` are batch, labels and number of the step, which the first side sets."""
        (g, n_batches, b), (batch, labels, now), like = batches.shape, own, self.features
        down, up = update.narrow[f"{name}_down"], update.narrow[f"{name}_up"]
        _, d, h = down.shape
        x = like if name == "image" else self.narrow_text
        n = b if name == "image" else len(x)
        form, mode = self.shape.form, (self.shape.alpha_mode if name == "image" else self.shape.beta_mode)
        # A itself is needed by the second ReLU and by a trained ratio alone.
        keep = form == "released" or mode != "fixed"
        blend_grid, blend_options = self._launch(n, d, g, like.element_size())
        q = self.buffers(f"{name} q", like, g, n, d)
        side = Side(
            name, x, n, self.buffers(f"{name} h", like, g, n, h), self.buffers(f"{name} dh", like, g, n, h), q,
            self.buffers(f"{name} a", like, g, n, d) if keep else q, self.buffers(f"{name} da", like, g, n, d),
            self.buffers(f"{name} squares", like, g, blend_grid[1], n, dtype=torch.float32),
        )  # fmt: skip
        grid, options = self._launch(n, h, g, like.element_size())
        hidden_kernel[grid](
            x, batches, at, done, self.labels, down, side.hidden, batch, labels, now, n_batches, n, b, d, h,
            GATHER=side.gather, REMEMBER=name == "text" or not self.shape.adapts_text, **options,
        )  # fmt: skip
        ratio = {"image": "alpha", "text": "beta"}[name]
        inputs = self._ratio_inputs(side, batch) if mode != "fixed" else (x, x)
        side.ratio = ratio_forward(ratio, mode, self.hyper[ratio], parameters, *inputs)
        values, ratio_row, ratio_fit = side.ratios
        blend_kernel[blend_grid](
            x, batch, side.hidden, up, values, side.adapted, q, side.squares, n, d, h, ratio_row, ratio_fit,
            GATHER=side.gather, RELU=form == "released", KEEP=keep, **blend_options,
        )  # fmt: skip
        return side

    def _ratio_inputs(self, side: Side, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows that get a ratio, (g or 1, n, d), and the mean of the other side."""
        if side.name == "text":
            return self.text, self.feature_mean
        return (self.features[batch] if self.shape.alpha_mode == "learned" else self.features[:1][None]), self.text_mean

    def _logits(
        self, g: int, b: int, image: Side | None, text: Side | None, batch: Tensor, at: Tensor, done: Tensor,
        advance: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Launch 3: return logits (g, b, c or some more), and highest and sums (g, parts, b) of tiles of classes."""
        (c, d), like = self.narrow_text.shape, self.features
        grid, options = self._launch(b, c, g, like.element_size())
        logits = self.buffers("logits", like, g, b, -(-c // ALIGNED) * ALIGNED, dtype=torch.float32)
        highest, sums = (self.buffers(name, like, g, grid[1], b, dtype=torch.float32) for name in ("highest", "sums"))
        q, row_squares = (self.features, self.row_squares) if image is None else (image.q, image.squares)
        p, squares = (self.unit_text, row_squares) if text is None else (text.q, text.squares)
        row_parts, parts = (1 if image is None else row_squares.shape[1]), (1 if text is None else squares.shape[1])
        logits_kernel[grid](
            q, batch, row_squares, p, squares, self.hyper["logit_scale"], logits, highest, sums, at, done,
            b, c, logits.shape[2], d, 0 if image is None else b * d, 0 if text is None else c * d, b, row_parts, parts,
            GATHER=image is None, UNIT=text is None, ADVANCE=advance,
            ROW_POWER=triton.next_power_of_2(row_parts), CLASS_POWER=triton.next_power_of_2(parts), **options,
        )  # fmt: skip
        return logits, highest, sums

    def _errors(self, side: Side, other: Side | None, own: tuple[Tensor, ...], with_losses: bool) -> None:
        """Launch 4 for one side; ``own`` are what launch 3 made, with labels, batch and losses."""
        logits, highest, sums, labels, batch, losses = own
        (g, b, c_row), (c, d), classes = logits.shape, self.narrow_text.shape, side.name == "text"
        # A tile of logits is four bytes wide, whatever the product is.
        grid, options = self._launch(side.n, d, g, WIDE, computed=True)
        trained = side.ratio.mode != "fixed"
        side.ratio_parts = self.buffers(f"{side.name} ratio", losses, g, grid[1], side.n) if trained else losses
        if other is not None:
            rows, squares, fit, stride, parts = other.q, other.squares, other.n * d, other.n, other.squares.shape[1]
        elif classes:
            rows, squares, fit, stride, parts = self.features, self.row_squares, 0, 0, 1
        else:
            rows, squares, fit, stride, parts = self.unit_text, losses, 0, 0, 1
        values, ratio_row, ratio_fit = side.ratios
        powers = [triton.next_power_of_2(value) for value in (highest.shape[1], side.squares.shape[1], parts)]
        errors_kernel[grid](
            logits, highest, sums, labels, self.hyper["logit_scale"], side.x, batch, side.q, side.squares,
            side.adapted, values, rows, squares, side.da, side.ratio_parts, losses,
            b, c, c_row, d, highest.shape[1], side.squares.shape[1], fit, stride, parts, ratio_row, ratio_fit,
            CLASSES=classes, GATHER=other is None, UNIT=other is None and not classes,
            RELU=self.shape.form == "released", TRAINED=trained, LOSSES=with_losses,
            LOGIT_POWER=powers[0], POWER=powers[1], OTHER_POWER=powers[2], **options,
        )  # fmt: skip

    def _through(self, side: Side, update: Update) -> None:
        """Launch 5 for one side."""
        up = update.narrow[f"{side.name}_up"]
        g, h, d = up.shape
        grid, options = self._launch(side.n, h, g, self.features.element_size(), crowded=self._exact)
        through_kernel[grid](side.da, up, side.hidden, side.dh, side.n, d, h, **options)

    def _weights(
        self, side: Side, own: tuple[Tensor, Tensor, Tensor], update: Update, b: int, with_losses: bool
    ) -> None:
        """Launch 6 for one side; ``own`` are batch, losses and number of the step."""
        batch, losses, now = own
        parts = []
        for part in ("down", "up"):
            name = f"{side.name}_{part}"
            target = update.targets[name]
            first = update.first.get(name, target)
            parts += [target, first, update.second.get(name, first), update.narrow[name]]
        g, h, d = update.targets[f"{side.name}_up"].shape
        # As many tiles again for the other of the two weights.
        # As twice as wide: each of the two products has blocks of its own in shared memory.
        width = 2 * self.features.element_size()
        (rows, columns, _), options = self._launch(h, d, 2 * g, width)
        if h % ALIGNED or d % ALIGNED:
            # Numbers are read one by one, and the update of a large tile would need more registers than there are.
            small = possible_tiles(self.card, width, self._exact)[-1]
            rows, columns, options = (
                triton.cdiv(h, small.rows),
                triton.cdiv(d, small.columns),
                options | small.options(),
            )
        tiles = rows * columns + triton.cdiv(d, options["BM"]) * triton.cdiv(h, options["BN"])
        weights_kernel[tiles, g](
            side.x, batch, side.hidden, side.da, side.dh, *parts, losses, update.tail, update.share, update.rates,
            update.decay, update.corrections, now, g, side.n, b, d, h, update.eps,
            GATHER=side.gather, LOSSES=with_losses, OPTIMIZER=update.optimizer,
            NARROW=self.features.dtype != torch.float32, B1=BETAS[0], B2=BETAS[1], MOMENTUM=MOMENTUM, **options,
        )  # fmt: skip
