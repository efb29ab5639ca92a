"""Ratios and their gradients without autograd, for kernels/cpu.py.

    fixed    ratio_g = what was given
    scalar   ratio_g = sigmoid(start + bias_g),  start = logit of the default ratio
    learned  ratio_i = sigmoid(z_i),  z_i = t_i . o + start + bias,  t_i = tanh(x_i U + m V)

With e_i = dloss/dratio_i, and every sum over the rows i of one configuration:

    dz_i = e_i ratio_i (1 - ratio_i)        dbias = sum dz_i        do = sum dz_i t_i
    dpre_i = dz_i o (1 - t_i^2)             dU = sum x_i^T dpre_i   dV = m^T sum dpre_i
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cafe.kernels.reference import START_LOGIT, Parameters


@dataclass
class Ratio:
    """Values of a ratio and what its gradient needs.

    Attributes
    ----------
    side, mode : str
        ``"alpha"`` or ``"beta"``; ``"fixed"``, ``"scalar"`` or ``"learned"``.
    values : Tensor of shape (k, rows or 1, 1)
        In the parameters' dtype.
    hidden : Tensor of shape (k, rows, q) or None
        tanh values of ``"learned"``.
    """

    side: str
    mode: str
    values: Tensor
    hidden: Tensor | None = None


def ratio_forward(
    side: str, mode: str, fixed: Tensor, parameters: Parameters, own: Tensor, other_mean: Tensor
) -> Ratio:
    """Return the ratio of k configurations; arguments as ``reference.ratio_values``."""
    if mode == "fixed":
        return Ratio(side, mode, fixed[:, None, None])
    bias = START_LOGIT + parameters[f"{side}_bias"][:, None, None]
    if mode == "scalar":
        return Ratio(side, mode, torch.sigmoid(bias))
    pre = own.to(bias.dtype) @ parameters[f"{side}_own"] + other_mean @ parameters[f"{side}_other"]
    hidden = torch.tanh(pre)  # (k, rows, q)
    return Ratio(side, mode, torch.sigmoid(hidden @ parameters[f"{side}_out"][:, :, None] + bias), hidden)


def ratio_gradients(ratio: Ratio, error: Tensor, parameters: Parameters, own: Tensor, other_mean: Tensor) -> Parameters:
    """Return the gradients of the ratio's own parameters.

    Parameters
    ----------
    ratio : Ratio
        From :func:`ratio_forward`.
    error : Tensor of shape (k, rows, 1)
        Gradient of the loss in each row's ratio.
    parameters, own, other_mean
        As given to :func:`ratio_forward`.
    """
    side, values = ratio.side, ratio.values
    if ratio.mode == "fixed":
        return {}
    if ratio.hidden is None:
        total = error.sum(1, keepdim=True) * values * (1 - values)
        return {f"{side}_bias": total.view(-1)}
    dz = error * values * (1 - values)  # (k, rows, 1)
    out = parameters[f"{side}_out"]
    dpre = dz * out[:, None, :] * (1 - ratio.hidden * ratio.hidden)  # (k, rows, q)
    return {
        f"{side}_bias": dz.sum((1, 2)),
        f"{side}_out": (dz * ratio.hidden).sum(1),
        f"{side}_own": own.to(dpre.dtype).transpose(1, 2) @ dpre,
        f"{side}_other": other_mean.transpose(1, 2) @ dpre.sum(1, keepdim=True),
    }
