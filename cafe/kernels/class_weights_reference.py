"""Softmax regression on class weights in plain torch: the truth that every kernel of it is tested against.

Letters: g configurations trained side by side, b rows of a batch, d feature width, c classes.

    w_j    = t_j + a x_j                        where a residual x is trained; else w itself is trained, and a = 1
    u_j    = w_j / |w_j|                        of cosines; else u = w
    L_ij   = s f_i . u_j + o_j                  o only where an offset is trained
    CE_i   = logsumexp(L_i) - L_i[label_i]
    loss   = sum_i v_i CE_i / sum_i v_i  +  (1/c) sum_j pull_j |w_j - t_j|^2  +  (decay / 2) |(w - t) / a|^2

with v = 1 where rows have no weights. The methods are choices of these: the zero-shot-initialised probe has cosines,
CLAP also a pull, TaskRes a residual with decay; LP++ and the cross-modal probe have plain products, LP++ with an
offset. Gradients come from autograd.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class WeightsShape:
    """What configurations must share to be trained side by side.

    Attributes
    ----------
    cosines : bool, default=True
        Whether class weights are scaled to length one before they meet the rows.
    residual : bool, default=False
        Whether the parameter is x of w = t + a x, or w itself.
    offset : bool, default=False
        Whether o is trained.
    """

    cosines: bool = True
    residual: bool = False
    offset: bool = False


def class_weight_losses(
    shape: WeightsShape,
    parameters: Parameters,
    hyper: Parameters,
    features: Tensor,
    labels: Tensor,
    anchor: Tensor,
    pull: Tensor | None = None,
    row_weights: Tensor | None = None,
) -> Tensor:
    """Return the loss of every configuration on its own rows; formulas in the module's docstring.

    Parameters
    ----------
    shape : WeightsShape
        What the configurations share.
    parameters : dict of str to Tensor
        ``weights`` (g, c, d), which is x or w, and ``offset`` (g, c) where the shape has one.
    hyper : dict of str to Tensor of shape (g,)
        ``logit_scale`` s, ``residual_scale`` a (read where a residual is trained) and ``decay``.
    features : Tensor of shape (g, b, d)
        f; of unit length where logits are to be cosines.
    labels : Tensor of shape (g, b), int64
        Class row of each.
    anchor : Tensor of shape (c, d)
        t.
    pull : Tensor of shape (g, c), default=None
        Strength by which each class is held to its anchor; None for zeros.
    row_weights : Tensor of shape (g, b), default=None
        v; None for ones.

    Returns
    -------
    Tensor of shape (g,)

    Examples
    --------
    >>> hyper = {"logit_scale": torch.tensor([1.0]), "decay": torch.zeros(1)}
    >>> text = torch.eye(2)
    >>> class_weight_losses(WeightsShape(), {"weights": text[None]}, hyper, text[None], torch.tensor([[0, 1]]), text)
    tensor([0.3133])
    """
    a = hyper["residual_scale"][:, None, None] if shape.residual else hyper["decay"].new_ones(1, 1, 1)
    w = anchor + a * parameters["weights"] if shape.residual else parameters["weights"]  # (g, c, d)
    u = w / w.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny) if shape.cosines else w
    logits = hyper["logit_scale"][:, None, None] * (features @ u.mT)  # (g, b, c)
    if shape.offset:
        logits = logits + parameters["offset"][:, None]
    each = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    v = torch.ones_like(each) if row_weights is None else row_weights
    losses = (v * each).sum(1) / v.sum(1)
    away = w - anchor
    if pull is not None:
        losses = losses + (pull * away.square().sum(2)).mean(1)
    return losses + hyper["decay"] / 2 * (away / a).square().sum((1, 2))


def class_weight_losses_and_gradients(
    shape: WeightsShape,
    parameters: Parameters,
    hyper: Parameters,
    features: Tensor,
    labels: Tensor,
    anchor: Tensor,
    pull: Tensor | None = None,
    row_weights: Tensor | None = None,
) -> tuple[Tensor, Parameters]:
    """Return losses (g,) and the gradient of each configuration's loss in its own parameters.

    The arguments are those of :func:`class_weight_losses`. The configurations share no parameter, so the gradient of
    the sum of losses is all gradients at once.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    losses = class_weight_losses(shape, leaves, hyper, features, labels, anchor, pull, row_weights)
    gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
    return losses.detach(), dict(zip(leaves, gradients, strict=True))
