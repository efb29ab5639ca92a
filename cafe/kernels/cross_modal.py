"""Loss and gradients of the cross-modal adapter on a CPU, from formulas, without fresh memory.

Letters: g configurations, b rows of a batch, d width, c classes, h bottleneck; a ratio, s logit scale.

    H = ReLU(x W1)      A = ReLU(H W2)      q = a A + (1 - a) x      L = s q w^T      loss = mean CE(L)

With G = (s / b) (softmax(L) - Y), Y the one-hot labels:

    dw = G^T q      dA = a G w, 0 where A = 0      dW2 = H^T dA      dH = dA W2^T, 0 where H = 0      dW1 = x^T dH

A batch has eight rows, and w may have a thousand: a step reads w twice and writes its gradient, and the update passes
over w, its gradient and two moments. What counts is memory. So gradients lie in a row, which one call updates, and are
written where those of the step before stood; fresh pages for them took longer than the products. For the same reason
products stay in the parameters' precision: a copy of w in another would be read and written beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cafe.kernels.calls import Buffers
from cafe.kernels.class_weights_reference import Parameters
from cafe.kernels.cpu_sides import zero_where_zero
from cafe.kernels.optimizers import empty_in_a_row


class CrossModalAdapterStep:
    """Losses and gradients of a stack of configurations, step after step.

    Parameters
    ----------
    hyper : dict of str to Tensor of shape (g,)
        ``ratio``, ``logit_scale``.
    features : Tensor of shape (n, d)
        All rows, of images and text alike.
    labels : Tensor of shape (n,), int64
        Class row of each.

    Notes
    -----
    Formulas in the module's docstring.

    Examples
    --------
    >>> eye = torch.eye(2)
    >>> step = CrossModalAdapterStep({"ratio": torch.zeros(1), "logit_scale": torch.ones(1)}, eye, torch.tensor([0, 1]))
    >>> maps = {"head": eye[None], "down": torch.ones(1, 2, 1), "up": torch.ones(1, 1, 2)}
    >>> losses, gradients = step(maps, torch.tensor([[0, 1]]))
    >>> losses, gradients["head"]
    (tensor([0.3133]), tensor([[[-0.1345,  0.1345],
             [ 0.1345, -0.1345]]]))
    """

    def __init__(self, hyper: Parameters, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels
        self.ratio, self.scale = (hyper[name][:, None, None] for name in ("ratio", "logit_scale"))
        self.minus_one = features.new_full((1, 1, 1), -1.0)
        self.buffers, self.gradients = Buffers(), Parameters()

    def __call__(
        self, parameters: Parameters, index: Tensor, with_losses: bool = True
    ) -> tuple[Tensor | None, Parameters]:
        """Return losses (g,), or None, and gradients.

        Parameters
        ----------
        parameters : dict of str to Tensor
            ``head`` (g, c, d), ``down`` (g, d, h) and ``up`` (g, h, d).
        index : Tensor of shape (g, b), int64
            Rows of each configuration's batch.
        with_losses : bool, default=True
            Whether losses are wanted.

        Returns
        -------
        tuple of Tensor of shape (g,) or None, and dict of str to Tensor
            The gradients are overwritten by the next call.
        """
        if not self.gradients:
            self.gradients = empty_in_a_row(parameters)
        head, down, up = (parameters[name] for name in ("head", "down", "up"))
        x, labels = self._rows(index)
        hidden = self._multiply("hidden", x, down).relu_()
        adapted = self._multiply("adapted", hidden, up).relu_()
        blended = torch.mul(x, 1 - self.ratio, out=self.buffers("blended", x, *x.shape)).addcmul_(adapted, self.ratio)
        logits = self._multiply("logits", blended, head.mT).mul_(self.scale)
        losses = None
        if with_losses:
            losses = (torch.logsumexp(logits, -1, keepdim=True) - logits.gather(-1, labels)).mean((1, 2))
        errors = torch.softmax(logits, -1, out=logits).scatter_add_(-1, labels, self.minus_one.expand(labels.shape))
        errors.mul_(self.scale / labels.shape[1])
        torch.bmm(errors.mT, blended, out=self.gradients["head"])
        d_adapted = self._multiply("d adapted", errors, head).mul_(self.ratio)
        zero_where_zero(d_adapted, adapted)
        torch.bmm(hidden.mT, d_adapted, out=self.gradients["up"])
        d_hidden = self._multiply("d hidden", d_adapted, up.mT)
        zero_where_zero(d_hidden, hidden)
        torch.bmm(x.mT, d_hidden, out=self.gradients["down"])
        return losses, self.gradients

    def _rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (g, b, d) and labels (g, b, 1) of a batch."""
        x = self.buffers("rows", self.features, *index.shape, self.features.shape[1])
        torch.index_select(self.features, 0, index.reshape(-1), out=x.view(-1, x.shape[-1]))
        return x, self.labels.take(index)[..., None]

    def _multiply(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """Return a (g, rows, k) times b (g, k, columns), in the buffer of that name."""
        return torch.bmm(a, b, out=self.buffers(name, a, *a.shape[:2], b.shape[-1]))
