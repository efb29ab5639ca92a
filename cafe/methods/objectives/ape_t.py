"""What APE-T trains: its objective for the trainer, with gradients from formulas.

Letters: b rows of a batch, n keys, d width, c classes, m kept channels; x the residual (c, m), v the keys' values, f
and f' a row and its kept channels, k_i a key of class y_i, t text; s, alpha and beta as in :class:`cafe.APET`.

    logits_rj = s f_r . (t_j + x_j)  +  alpha sum_(i of class j) exp( -beta (1 - f_r . (k_i + x_j)) ) v_i

All keys of a class move by the same x_j. So with what does not change, T = f . t and A_ri = exp(beta (f_r . k_i - 1)),

    Z_rj = f'_r . x_j        S_rj = sum_(i of class j) A_ri v_i        B = alpha exp(beta Z)
    logits = s (T + Z) + B S

    dloss/dx_j = sum_r D_rj (s + beta B_rj S_rj) f'_r        dloss/dv_i = sum_r D_(r, y_i) B_(r, y_i) A_ri

with D the gradient in the logits, (softmax - one-hot) / b. A step has two products, m wide. The cosines f . k are those
of training rows with each other: made once where they fit in memory, else a third product.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cafe.training.trainer import Batch, Configuration, Step

# Bytes of cosines between keys that are kept: those of 11,000.
KEPT_BYTES = 512 * 2**20


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
        Of every configuration of the run, by ``hyper["index"]``.
    """

    text: Tensor
    shots: list[KeyedRows]
    frozen: dict[str, Tensor] = field(default_factory=dict)

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
        """Return the step by the formulas, one configuration after the other."""
        if "text" not in self.frozen:
            self.frozen["text"] = X @ self.text.T  # T of all rows, (n, c)
        numbers = {name: value.tolist() for name, value in hyper.items()}
        steps = [
            ResidualKeysStep(
                self.shots[int(index)],
                {name: value[k] for name, value in numbers.items()},
                X,
                y,
                self.frozen["text"],
            )
            for k, index in enumerate(numbers["index"])
        ]

        def step(
            parameters: dict[str, Tensor], index: Tensor, with_losses: bool
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            gradients = {name: torch.empty_like(value) for name, value in parameters.items()}
            losses = X.new_zeros(len(steps)) if with_losses else None
            for k, own in enumerate(steps):
                loss = own(parameters["residual"][k], parameters["values"][k], index[k], with_losses)
                torch.mm(own.slope.T, own.rows, out=gradients["residual"][k])
                gradients["values"][k] = own.value_slope
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
    """Loss and slopes of one configuration; letters as in the module's docstring.

    Parameters
    ----------
    shots : KeyedRows
        Its keys.
    hyper : dict of str to float
        ``alpha``, ``beta``, ``logit_scale``.
    X, y : Tensor of shape (n, d) and (n,)
        All rows and their class rows.
    text_cosines : Tensor of shape (n, c)
        T of all rows.

    Attributes
    ----------
    rows, slope : Tensor of shape (b, m) and (b, c)
        f' and the gradient in Z of the last call: the gradient in x is the product of the second, transposed, with the
        first.
    value_slope : Tensor of shape (n,)
        Gradient in v, in the configuration's own order.
    """

    rows: Tensor
    slope: Tensor
    value_slope: Tensor

    def __init__(self, shots: KeyedRows, hyper: dict[str, float], X: Tensor, y: Tensor, text_cosines: Tensor) -> None:
        self.shots, self.hyper, self.X, self.y, self.text_cosines = shots, hyper, X, y, text_cosines
        self.X_kept = X[:, shots.kept]
        counts = torch.bincount(shots.labels, minlength=text_cosines.shape[1])
        # Classes of one size are blocks of one size, whose sums need no index.
        self.per_class = int(counts[0]) if bool((counts == counts[0]).all()) else 0
        self.is_kept = len(X) * len(shots.keys) * X.element_size() <= KEPT_BYTES
        self.key_cosines = X @ shots.keys.T if self.is_kept else X[:0]

    def __call__(self, residual: Tensor, values: Tensor, index: Tensor, with_losses: bool) -> Tensor | None:
        """Set the slopes for a batch of rows (b,), and return the loss if it is wanted."""
        shots, labels = self.shots, self.y[index]
        alpha, beta, scale = (self.hyper[name] for name in ("alpha", "beta", "logit_scale"))
        cosines = self.key_cosines[index] if self.is_kept else self.X[index] @ shots.keys.T  # (b, n)
        affinity = cosines.sub_(1).mul_(beta).exp_()  # A
        S = self._sums_by_class(affinity * values[shots.order])  # (b, c)
        self.rows = self.X_kept[index]
        Z = self.rows @ residual.T  # (b, c)
        logits = self.text_cosines[index].add_(Z).mul_(scale)
        B = Z.mul_(beta).exp_().mul_(alpha)
        votes = S.mul_(B)
        logits += votes
        loss = torch.nn.functional.cross_entropy(logits, labels) if with_losses else None
        D = torch.softmax(logits, -1)
        D.scatter_add_(1, labels[:, None], D.new_full((1, 1), -1.0).expand(len(labels), 1)).div_(len(labels))
        by_key = self._to_keys(B.mul_(D)).mul_(affinity).sum(0)  # (n,), sorted by class
        self.value_slope = torch.empty_like(by_key).index_copy_(0, shots.order, by_key)
        self.slope = votes.mul_(beta).add_(scale).mul_(D)
        return loss

    def _sums_by_class(self, of_keys: Tensor) -> Tensor:
        """Return the sums (b, c) of numbers (b, n) over the keys of each class."""
        b, c = len(of_keys), self.text_cosines.shape[1]
        if self.per_class:
            return of_keys.view(b, c, self.per_class).sum(-1)
        return of_keys.new_zeros(b, c).index_add_(1, self.shots.labels, of_keys)

    def _to_keys(self, of_classes: Tensor) -> Tensor:
        """Return the number of each key's class, (b, n), of numbers (b, c)."""
        if self.per_class:
            return of_classes[:, :, None].expand(-1, -1, self.per_class).reshape(len(of_classes), -1)
        return of_classes.index_select(1, self.shots.labels)
