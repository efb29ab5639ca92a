"""What APE-T trains: its objective for the trainer, with gradients from formulas.

Letters: b rows of a batch, n keys, d width, c classes, m kept channels; x the residual (c, m), v the keys' values, f
and f' a row and its kept channels, k_i a key of class y_i, t text; s, alpha and beta as in :class:`cafe.APET`.

    logits_rj = s f_r . (t_j + x_j)  +  alpha sum_(i of class j) exp( -beta (1 - f_r . (k_i + x_j)) ) v_i

All keys of a class move by the same x_j. So with what does not change, T = f . t and A_ri = exp(beta (f_r . k_i - 1)),

    Z_rj = f'_r . x_j        S_rj = sum_(i of class j) A_ri v_i        B = alpha exp(beta Z)
    logits = s (T + Z) + B S

    dloss/dx_j = sum_r D_rj (s + beta B_rj S_rj) f'_r        dloss/dv_i = sum_r D_(r, y_i) B_(r, y_i) A_ri

with D the gradient in the logits, (softmax - one-hot) / b. A step has two products, m wide. A does not change while x
and v are trained: that of all rows is made once where it fits in memory, else a third product makes that of a batch.

Keys lie in layers, the first of every class, then the second of every class, and so on: sums over the keys of each
class are sums of blocks (b, c), and what each key takes of its class is a product with such blocks, without an index.
Where classes have very different numbers of keys they stay sorted by class. Rows pass in blocks that stay in cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cafe.kernels.calls import Buffers
from cafe.training.trainer import Batch, Configuration, Step

# Bytes of affinities between all rows that are computed once and kept: those of 11,000 rows in float32.
KEPT_BYTES = 512 * 2**20
# Bytes of one block's affinities on a CPU: with three blocks of logits, what a core's own cache holds. Of 2**18 to
# 2**23, this and more took the same time on 4,000 keys of 1,000 classes, and less 2 to 20 per cent more.
BLOCK_BYTES = 2**21
# The same where a block's affinities are a product: it reads all keys, and is slow with few rows. With 16,000 keys a
# step on one thread took 63 ms with blocks of this size and more, 73 with half of it, and 106 with BLOCK_BYTES.
PRODUCT_BLOCK_BYTES = 2**24
# Numbers of a layer (rows x classes) below which all layers are summed in one pass, since one call per layer costs
# more: 16 layers of 256 x 69 took twice as long as the one pass, 4 layers of 128 x 1,000 two thirds.
LEAST_LAYER = 2**15
# Keys are laid out in layers if these have at most so many places for each key; else they stay sorted by class.
MOST_PLACES = 2


@dataclass(frozen=True)
class KeyedRows:
    """The shots of one configuration, by class.

    Attributes
    ----------
    keys : Tensor of shape (n, d)
        Sorted by class.
    labels : Tensor of shape (n,), int64
        Their class rows.
    order : Tensor of shape (n,), int64
        Place of each in the configuration's own order, in which values are trained.
    kept : Tensor of shape (m,), int64
        Channels that have a residual.
    """

    keys: Tensor
    labels: Tensor
    order: Tensor
    kept: Tensor

    @classmethod
    def of(cls, X: Tensor, labels: Tensor, kept: Tensor) -> KeyedRows:
        """Sort shots (n, d) by class."""
        order = torch.argsort(labels, stable=True)
        return cls(X[order], labels[order], order, kept)


@dataclass(frozen=True)
class ResidualKeysObjective:
    """Cross-entropy of the logits in the module's docstring.

    Attributes
    ----------
    text : Tensor of shape (c, d)
        Class embeddings.
    shots : list of KeyedRows
        Of every configuration; its own is number ``hyper["index"]``.
    kept_bytes, block_bytes, product_block_bytes, least_layer : int
        See ``KEPT_BYTES``, ``BLOCK_BYTES``, ``PRODUCT_BLOCK_BYTES`` and ``LEAST_LAYER``.
    """

    text: Tensor
    shots: list[KeyedRows]
    kept_bytes: int = KEPT_BYTES
    block_bytes: int = BLOCK_BYTES
    product_block_bytes: int = PRODUCT_BLOCK_BYTES
    least_layer: int = LEAST_LAYER
    # s T of all rows, (n, c), by s.
    frozen: dict[float, Tensor] = field(default_factory=dict, init=False)

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Start at Tip-Adapter: no residual, values of one; no random number is drawn."""
        n, m = self._sizes(configuration)
        return {"residual": torch.zeros(len(self.text), m), "values": torch.ones(n)}

    def losses_and_gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and gradients by autograd: what the formulas are tested against."""
        leaves = {name: value.detach().requires_grad_() for name, value in batch.parameters.items()}
        losses = []
        for k, i in enumerate(batch.hyper["index"].long().tolist()):
            own = self.shots[i]
            alpha, beta, scale = (batch.hyper[name][k] for name in ("alpha", "beta", "logit_scale"))
            features = batch.features[k]  # (b, d)
            residual = torch.zeros_like(self.text).index_copy(1, own.kept, leaves["residual"][k])  # (c, d)
            affinity = features @ (own.keys + residual[own.labels]).T  # (b, n)
            votes = (-beta * (1 - affinity)).exp() * leaves["values"][k][own.order]
            logits = scale * (features @ (self.text + residual).T)
            logits = logits.index_add(1, own.labels, alpha * votes)
            losses.append(torch.nn.functional.cross_entropy(logits, batch.labels[k]))
        stacked = torch.stack(losses)
        gradients = torch.autograd.grad(stacked.sum(), list(leaves.values()))
        return stacked.detach(), dict(zip(leaves, gradients, strict=True))

    def stepper(self, shape: object, hyper: dict[str, Tensor], X: Tensor, y: Tensor, feature_mean: Tensor) -> Step:
        """Return a step that computes losses and gradients by the formulas, one configuration after the other."""
        numbers = {name: value.tolist() for name, value in hyper.items()}
        for scale in numbers["logit_scale"]:
            if scale not in self.frozen:
                self.frozen[scale] = (X @ self.text.T).mul_(scale)
        buffers = Buffers()
        steps = [
            ResidualKeysStep(
                self.shots[int(index)],
                {name: value[k] for name, value in numbers.items()},
                X,
                y,
                self.frozen[numbers["logit_scale"][k]],
                buffers,
                self,
            )
            for k, index in enumerate(numbers["index"])
        ]

        gradients: dict[str, Tensor] = {}

        def step(
            parameters: dict[str, Tensor], index: Tensor, with_losses: bool
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            if not gradients:
                gradients.update({name: torch.empty_like(value) for name, value in parameters.items()})
            losses = X.new_zeros(len(steps)) if with_losses else None
            for k, configuration_step in enumerate(steps):
                targets = {name: value[k] for name, value in gradients.items()}
                residual, values = parameters["residual"][k], parameters["values"][k]
                loss = configuration_step(residual, values, index[k], with_losses, targets)
                if losses is not None and loss is not None:
                    losses[k] = loss
            return losses, gradients

        return step

    def uses_feature_mean(self, shape: object) -> bool:
        """Whether the mean training feature is used: never."""
        return False

    def _sizes(self, configuration: Configuration) -> tuple[int, int]:
        """Return the numbers of keys and of kept channels."""
        own = self.shots[int(configuration.hyper["index"])]
        return len(own.labels), len(own.kept)

    def activation_bytes(self, configuration: Configuration) -> int:
        """Affinities, logits and what is made of them."""
        n, b = len(configuration.rows), min(configuration.batch_size, len(configuration.rows))
        return int(self.text.element_size() * b * (3 * n + 6 * len(self.text)))

    def multiply_adds(self, configuration: Configuration) -> int:
        """Logits forward, the residual backward, and a pass over affinities."""
        n, m = self._sizes(configuration)
        return int(min(configuration.batch_size, n) * (2 * m * len(self.text) + 8 * n))


class ResidualKeysStep:
    """Loss and gradients of one configuration; letters as in the module's docstring.

    Parameters
    ----------
    shots : KeyedRows
        Its keys.
    hyper : dict of str to float
        ``alpha``, ``beta``, ``logit_scale``.
    X, y : Tensor of shape (n, d) and (n,)
        All rows and their class rows.
    text_logits : Tensor of shape (n, c)
        s T of all rows.
    buffers : Buffers
        Memory shared with the steps of other configurations, which never run at the same time.
    settings : ResidualKeysObjective
        Whose sizes of blocks and layers are used.
    """

    def __init__(
        self,
        shots: KeyedRows,
        hyper: dict[str, float],
        X: Tensor,
        y: Tensor,
        text_logits: Tensor,
        buffers: Buffers,
        settings: ResidualKeysObjective,
    ) -> None:
        self.shots, self.hyper, self.X, self.y, self.text_logits = shots, hyper, X, y, text_logits
        self.buffers, self.least_layer = buffers, settings.least_layer
        self.X_kept = X[:, shots.kept]
        n, c = len(shots.labels), text_logits.shape[1]
        counts = torch.bincount(shots.labels, minlength=c)
        most = int(counts.max())
        # Number of layers; 0 where the keys stay sorted by class.
        self.layers = most if most * c <= MOST_PLACES * n else 0
        places = torch.arange(n, device=X.device)
        if self.layers:
            layer = places - (counts.cumsum(0) - counts)[shots.labels]  # 0 for the first key of a class
            places = layer * c + shots.labels
        # The place of each key, for keys in the configuration's own order.
        self.places = torch.empty_like(places).index_copy_(0, shots.order, places)
        width = self.layers * c or n
        self.keys = X.new_zeros(width, X.shape[1]).index_copy_(0, places, shots.keys)
        # alpha v; places without a key keep zero.
        self.weights = X.new_zeros(width)
        # Whether the affinities of all rows are computed once and kept.
        self.is_kept = len(X) * width * X.element_size() <= settings.kept_bytes
        self.block_bytes = settings.block_bytes if self.is_kept else settings.product_block_bytes
        self.affinities = self._exponential(X @ self.keys.T) if self.is_kept else X[:0]
        self.minus_one = X.new_full((1, 1), -1.0)

    def __call__(
        self, residual: Tensor, values: Tensor, index: Tensor, with_losses: bool, gradients: dict[str, Tensor]
    ) -> Tensor | None:
        """Write the gradients for a batch of rows (b,), and return the loss if it is wanted.

        Parameters
        ----------
        residual, values : Tensor of shape (c, m) and (n,)
            x and v.
        index : Tensor of shape (b,), int64
            Rows of the batch.
        with_losses : bool
            Whether the loss is wanted.
        gradients : dict of str to Tensor
            ``residual`` and ``values``, of the same shapes; overwritten.
        """
        b, c = len(index), self.text_logits.shape[1]
        alpha, beta, scale = (self.hyper[name] for name in ("alpha", "beta", "logit_scale"))
        rows = torch.index_select(self.X_kept, 0, index, out=self.buffers("rows", self.X, b, self.X_kept.shape[1]))
        Z = torch.mm(rows, residual.T, out=self.buffers("of residual", self.X, b, c))
        slope, labels = self.buffers("slope", self.X, b, c), self.y[index][:, None]
        self.weights.index_copy_(0, self.places, values if alpha == 1 else alpha * values)
        by_key = self.buffers("by key", self.X, len(self.weights)).zero_()
        loss = self.X.new_zeros(()) if with_losses else None
        on_cpu = self.X.device.type == "cpu"
        size = max(1, self.block_bytes // (len(self.weights) * self.X.element_size())) if on_cpu else b
        size = -(-b // -(-b // size))  # blocks of about equal size
        for first in range(0, b, size):
            part = slice(first, first + size)
            A = self._affinity(index[part])
            S = self._sums_by_class(A)  # alpha S
            logits = torch.index_select(self.text_logits, 0, index[part], out=slope[part])
            logits.add_(Z[part], alpha=scale)
            B = Z[part].mul_(beta).exp_() if beta != 1 else Z[part].exp_()  # B / alpha
            logits.addcmul_(S, B)
            if loss is not None:
                loss += torch.nn.functional.cross_entropy(logits, labels[part, 0], reduction="sum")
            D = torch.softmax(logits, -1, out=logits)  # b D
            D.scatter_add_(1, labels[part], self.minus_one.expand(len(D), 1))
            B.mul_(D)
            self._add_by_key(by_key, A, B)
            D.mul_(scale).addcmul_(S, B, value=beta)
        torch.addmm(gradients["residual"], slope.T, rows, beta=0, alpha=1 / b, out=gradients["residual"])
        torch.index_select(by_key, 0, self.places, out=gradients["values"]).mul_(alpha / b)
        return None if loss is None else loss / b

    def _exponential(self, cosines: Tensor) -> Tensor:
        """Return A = exp(beta (cosine - 1)), written over the cosines."""
        return cosines.sub_(1).mul_(self.hyper["beta"]).exp_()

    def _affinity(self, index: Tensor) -> Tensor:
        """Return the affinities A (b, places) of the rows numbered ``index`` (b,) with the key at every place.

        They lie in a buffer, which the caller may overwrite, and which the next call overwrites.
        """
        out = self.buffers("affinity", self.X, len(index), len(self.weights))
        if self.is_kept:
            return torch.index_select(self.affinities, 0, index, out=out)
        return self._exponential(torch.mm(self.X[index], self.keys.T, out=out))

    def _sums_by_class(self, A: Tensor) -> Tensor:
        """Return alpha S, the sums (b, c) of alpha A v over the keys of each class, for A (b, places)."""
        c = self.text_logits.shape[1]
        sums = self.buffers("sums", self.X, len(A), c)
        if not self.layers:
            return sums.zero_().index_add_(1, self.shots.labels, A * self.weights)
        if sums.numel() < self.least_layer:
            votes = torch.mul(A, self.weights, out=self.buffers("votes", self.X, *A.shape))
            return torch.sum(votes.view(len(A), self.layers, c), 1, out=sums)
        torch.mul(A[:, :c], self.weights[:c], out=sums)
        for first in range(c, len(self.weights), c):
            sums.addcmul_(A[:, first : first + c], self.weights[first : first + c])
        return sums

    def _add_by_key(self, by_key: Tensor, A: Tensor, of_classes: Tensor) -> None:
        """Add to ``by_key`` (places,) the sums over rows of A (b, places) times ``of_classes`` (b, c).

        Each key takes the column of its class. A is overwritten.
        """
        if self.layers:
            A.view(len(A), self.layers, -1).mul_(of_classes[:, None])
        else:
            A.mul_(of_classes.index_select(1, self.shots.labels))
        by_key.add_(A.sum(0))
