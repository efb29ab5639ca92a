"""CLIP-Adapter's forward pass and loss in plain torch: the truth that every other kernel is tested against.

Letters: g configurations trained side by side, b rows of a batch, d feature width, c classes,
h bottleneck width, q width of the ratio hypernetwork.

    A(x)   = ReLU(x W1) W2                      form "paper";  ReLU(ReLU(x W1) W2)  form "released"
    f*     = alpha A_image(f) + (1 - alpha) f
    W*     = beta  A_text(W)  + (1 - beta)  W
    logits = s  f*/|f*| . W*/|W*|
    loss   = mean over the batch of  logsumexp(logits) - logits[label]

Source: Gao et al., CLIP-Adapter (arXiv 2110.04544), section 3.2; the released clip_adapter.py for the order
"blend, then L2 norm" and for the second ReLU. Gradients come from autograd.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, relu

Parameters = dict[str, Tensor]

# Trained ratios are kept as an offset from here: zero is the paper's ratio for generic images, and weight decay
# pulls towards it instead of towards one half.
START_RATIO = 0.2
START_LOGIT = math.log(START_RATIO / (1 - START_RATIO))


@dataclass(frozen=True)
class AdapterShape:
    """What configurations must share to be trained side by side.

    Attributes
    ----------
    variant : str
        ``"image"``, ``"text"`` or ``"both"``: which side has an adapter.
    form : str
        ``"paper"`` (one ReLU) or ``"released"`` (a second ReLU at the output).
    bottleneck : int
        Hidden width h.
    alpha_mode, beta_mode : str
        Kind of ratio: ``"fixed"``, ``"scalar"`` (one trained number) or ``"learned"`` (hypernetwork).
    """

    variant: str
    form: str
    bottleneck: int
    alpha_mode: str = "fixed"
    beta_mode: str = "fixed"

    @property
    def adapts_image(self) -> bool:
        """Whether there is an image adapter."""
        return self.variant in ("image", "both")

    @property
    def adapts_text(self) -> bool:
        """Whether there is a text adapter."""
        return self.variant in ("text", "both")


def adapt(x: Tensor, down: Tensor, up: Tensor, ratio: Tensor, form: str) -> Tensor:
    """Blend x with its adapted self.

    Parameters
    ----------
    x : Tensor of shape (g, rows, d)
        Features or class embeddings.
    down, up : Tensor of shape (g, d, h) and (g, h, d)
        The two bias-free linear maps.
    ratio : Tensor broadcastable to (g, rows, 1)
        Weight of the adapted feature.
    form : str
        ``"paper"`` or ``"released"``.

    Returns
    -------
    Tensor of shape (g, rows, d)
        Not normalised.
    """
    adapted = relu(x @ down) @ up  # (g, rows, d)
    if form == "released":
        adapted = relu(adapted)
    return ratio * adapted + (1 - ratio) * x


def ratio_values(
    name: str, mode: str, fixed: Tensor, parameters: Parameters, own: Tensor, other_mean: Tensor
) -> Tensor:
    """Return alpha or beta, (g, rows or 1, 1).

    The hypernetwork Q of the paper was never published; this design is ours (docs/methods.md):

        ratio_i = sigmoid( logit(0.2) + bias + tanh(x_i U + m V) . o )

    with x_i the row itself (an image feature for alpha, a class embedding for beta), m the mean of the other
    side (class embeddings for alpha, training features for beta), o = 0 and bias = 0 at the start, so that it
    starts at the fixed default; U and V receive gradient from the second step on.

    Parameters
    ----------
    name : str
        ``"alpha"`` or ``"beta"``: prefix of the parameters' names.
    mode : str
        ``"fixed"``, ``"scalar"`` or ``"learned"``.
    fixed : Tensor of shape (g,)
        The values used by ``"fixed"``.
    parameters : dict of str to Tensor
        ``{name}_bias`` (g,); for ``"learned"`` also ``{name}_own`` and ``{name}_other`` (g, d, q) and
        ``{name}_out`` (g, q).
    own : Tensor of shape (g, rows, d)
        Rows that get a ratio each.
    other_mean : Tensor of shape (g, 1, d)
        Mean of the other side.
    """
    if mode == "fixed":
        return fixed[:, None, None]
    bias = START_LOGIT + parameters[f"{name}_bias"][:, None, None]  # (g, 1, 1)
    if mode == "scalar":
        return torch.sigmoid(bias)
    hidden = torch.tanh(own @ parameters[f"{name}_own"] + other_mean @ parameters[f"{name}_other"])  # (g, rows, q)
    return torch.sigmoid(hidden @ parameters[f"{name}_out"][:, :, None] + bias)  # (g, rows, 1)


def adapted_features(
    shape: AdapterShape, parameters: Parameters, alpha: Tensor, features: Tensor, text: Tensor
) -> Tensor:
    """Return f*, (g, b, d), not normalised; see the module's formulas."""
    if not shape.adapts_image:
        return features
    ratio = ratio_values("alpha", shape.alpha_mode, alpha, parameters, features, text.mean(1, keepdim=True))
    return adapt(features, parameters["image_down"], parameters["image_up"], ratio, shape.form)


def adapted_text(
    shape: AdapterShape, parameters: Parameters, beta: Tensor, text: Tensor, feature_mean: Tensor
) -> Tensor:
    """Return W*, (g, c, d) or (1, c, d), not normalised; see the module's formulas."""
    if not shape.adapts_text:
        return text
    ratio = ratio_values("beta", shape.beta_mode, beta, parameters, text, feature_mean)
    return adapt(text, parameters["text_down"], parameters["text_up"], ratio, shape.form)


def adapter_losses(
    shape: AdapterShape,
    parameters: Parameters,
    hyper: dict[str, Tensor],
    features: Tensor,
    labels: Tensor,
    text: Tensor,
    feature_mean: Tensor,
) -> Tensor:
    """Cross-entropy of every configuration on its own batch.

    Parameters
    ----------
    shape : AdapterShape
        What the configurations share.
    parameters : dict of str to Tensor
        ``image_down`` (g, d, h), ``image_up`` (g, h, d), ``text_down``, ``text_up``, and those of the ratios.
    hyper : dict of str to Tensor of shape (g,)
        ``alpha``, ``beta``, ``logit_scale``.
    features : Tensor of shape (g, b, d)
        Image features.
    labels : Tensor of shape (g, b), int64
        Row of ``text`` that each belongs to.
    text : Tensor of shape (1, c, d)
        Class embeddings.
    feature_mean : Tensor of shape (g, 1, d)
        Mean training feature of each configuration.

    Returns
    -------
    Tensor of shape (g,)
    """
    image = normalize(adapted_features(shape, parameters, hyper["alpha"], features, text), dim=-1)  # (g, b, d)
    classes = normalize(adapted_text(shape, parameters, hyper["beta"], text, feature_mean), dim=-1)  # (g or 1, c, d)
    logits = hyper["logit_scale"][:, None, None] * (image @ classes.transpose(1, 2))  # (g, b, c)
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")  # (g * b,)
    return losses.view(labels.shape).mean(1)  # (g,)


def adapter_losses_and_gradients(
    shape: AdapterShape,
    parameters: Parameters,
    hyper: dict[str, Tensor],
    features: Tensor,
    labels: Tensor,
    text: Tensor,
    feature_mean: Tensor,
) -> tuple[Tensor, Parameters]:
    """Return losses (g,) and the gradient of each configuration's loss in its own parameters.

    The arguments are those of :func:`adapter_losses`. The configurations share no parameter, so the gradient of the sum
    of losses is all gradients at once.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    losses = adapter_losses(shape, leaves, hyper, features, labels, text, feature_mean)
    gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
    return losses.detach(), dict(zip(leaves, gradients, strict=True))
