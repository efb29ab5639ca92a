"""What a fitted method computes from features, as torch modules, so that an exporter can follow it.

A method is exported if the score of an image depends on that image alone. One table, :data:`HEADS`, says how; whoever
exports compares the numbers with the method's own, so that a head which drifts from its method is an error.

Letters: n images, d feature width, c classes, m stored training images (keys).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from cafe.errors import InputError
from cafe.kernels.reference import START_LOGIT
from cafe.methods.inference.fitted import FittedMethod
from cafe.methods.inputs.cosines import unit_length

# Scores of these are found for a batch of images together.
_OF_A_BATCH = ("trans-clip", "stat-a")


def unit_rows(x: Tensor) -> Tensor:
    """Scale rows to length one; a row of zeros stays."""
    length = x.norm(dim=-1, keepdim=True)
    return x / torch.where(length > 0, length, torch.ones_like(length))


def constant(values: ArrayLike) -> Tensor:
    """Return numbers as a float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(values, dtype=np.float32)))


class Linear(nn.Module):
    """``x @ weights.T + intercept``, (n, c)."""

    def __init__(self, weights: ArrayLike, intercept: ArrayLike | None = None) -> None:
        super().__init__()
        self.register_buffer("weights", constant(weights).T.contiguous())  # (d, c)
        self.register_buffer("intercept", None if intercept is None else constant(intercept))

    def forward(self, x: Tensor) -> Tensor:
        """Score rows (n, d)."""
        scores: Tensor = x @ self.weights  # type: ignore[operator]
        return scores if self.intercept is None else scores + self.intercept  # type: ignore[operator]


def class_scores(weights: ArrayLike, intercept: ArrayLike) -> Linear:
    """Return what scores rows (n, d) by class weights (c, d), less what all classes share.

    That changes no probability, and float32 rounds logits at their size: where features lie close together, as
    those of random towers, the rows of a Gaussian share a part that is 8 to 22 times what tells them apart.

    Examples
    --------
    >>> class_scores([[1001.0, 0.0], [1003.0, 0.0]], [5.0, 5.0])(torch.tensor([[1.0, 0.0]]))
    tensor([[-1.,  1.]])
    """
    rows, offsets = np.asarray(weights, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
    seen = np.isfinite(offsets)  # a class without a training image may have an intercept of minus infinity
    shared_row, shared_offset = rows[seen].mean(axis=0), offsets[seen].mean()
    return Linear(np.where(seen[:, None], rows - shared_row, rows), offsets - shared_offset)


class Cosine(nn.Module):
    """``scale`` times the cosine with each class's row, (n, c)."""

    def __init__(self, rows: ArrayLike, scale: float) -> None:
        super().__init__()
        self.register_buffer("rows", constant(float(scale) * unit_length(np.asarray(rows, dtype=np.float32)).T))

    def forward(self, x: Tensor) -> Tensor:
        """Score rows (n, d)."""
        scores: Tensor = unit_rows(x) @ self.rows  # type: ignore[operator]
        return scores


class Votes(nn.Module):
    """``exp(-beta (1 - x . k)) @ values``: what stored images say, (n, c).

    Parameters
    ----------
    keys : array-like of shape (m, d)
        Stored images.
    values : array-like of shape (m, c)
        What each says of each class.
    beta : float
        How fast a vote falls with the cosine.
    scaled : bool, default=True
        Whether rows are scaled to length one first.
    """

    def __init__(self, keys: ArrayLike, values: ArrayLike, beta: float, scaled: bool = True) -> None:
        super().__init__()
        self.register_buffer("keys", constant(keys).T.contiguous())  # (d, m)
        self.register_buffer("values", constant(values))
        self.beta, self.scaled = float(beta), scaled

    def forward(self, x: Tensor) -> Tensor:
        """Score rows (n, d)."""
        cosines = (unit_rows(x) if self.scaled else x) @ self.keys  # type: ignore[operator]  # (n, m)
        votes: Tensor = torch.exp(-self.beta * (1 - cosines)) @ self.values  # type: ignore[operator]
        return votes


class Channels(nn.Module):
    """Some channels of the features, then another module."""

    def __init__(self, channels: ArrayLike, then: nn.Module) -> None:
        super().__init__()
        self.register_buffer("channels", torch.from_numpy(np.asarray(channels, dtype=np.int64)))
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        """Score rows (n, d)."""
        scores: Tensor = self.then(torch.index_select(x, 1, self.channels))  # type: ignore[arg-type]
        return scores


class UnitParts(nn.Module):
    """Scales the features of two encoders, which are concatenated, to length one each."""

    def __init__(self, second_width: int) -> None:
        super().__init__()
        self.second_width = second_width

    def forward(self, x: Tensor) -> Tensor:
        """Scale rows (n, d)."""
        return torch.cat([unit_rows(x[:, : -self.second_width]), unit_rows(x[:, -self.second_width :])], dim=1)


class Sum(nn.Module):
    """The sum of several scores."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Score rows (n, d)."""
        total: Tensor = self.parts[0](x)
        for part in self.parts[1:]:
            total = total + part(x)
        return total


class Blend(nn.Module):
    """A bottleneck adapter blended with its input, then another module: ``ratio A(x) + (1 - ratio) x``.

    ::

        A(x) = relu(x down) up,   and relu of that where ``rectified``

    Parameters
    ----------
    down, up : array-like of shape (d, h), (h, d)
        The bottleneck.
    ratio : float or module
        A number, or what computes one for each row, (n, 1).
    then : module
        Scores the blended rows.
    rectified : bool
        Whether there is a second relu.
    """

    def __init__(
        self, down: ArrayLike, up: ArrayLike, ratio: float | nn.Module, then: nn.Module, *, rectified: bool
    ) -> None:
        super().__init__()
        self.register_buffer("down", constant(down))
        self.register_buffer("up", constant(up))
        self.ratio, self.then, self.rectified = ratio, then, rectified

    def forward(self, x: Tensor) -> Tensor:
        """Score rows (n, d)."""
        adapted = torch.relu(x @ self.down) @ self.up  # type: ignore[operator]
        if self.rectified:
            adapted = torch.relu(adapted)
        ratio = self.ratio(x) if isinstance(self.ratio, nn.Module) else self.ratio
        scores: Tensor = self.then(ratio * adapted + (1 - ratio) * x)
        return scores


class LearnedRatio(nn.Module):
    """CLIP-Adapter's ratio of each row by its hypernetwork, (n, 1); formula in cafe/kernels/reference.py."""

    def __init__(self, own: ArrayLike, other: ArrayLike, out: ArrayLike, bias: float) -> None:
        super().__init__()
        self.register_buffer("own", constant(own))
        self.register_buffer("other", constant(other))
        self.register_buffer("out", constant(out)[:, None])
        self.bias = START_LOGIT + float(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the ratio of rows (n, d)."""
        return torch.sigmoid(self.bias + torch.tanh(x @ self.own + self.other) @ self.out)  # type: ignore[operator]


def _text(estimator: Any) -> Any:
    """Return the class embeddings as they enter the method, (c, d)."""
    return estimator._entry_text(np.float32)


def _zero_shot(estimator: Any) -> nn.Module:
    """Return the cosines with the class embeddings, times the logit scale."""
    return Cosine(_text(estimator), estimator.logit_scale)


def _linear(weights: str) -> Callable[[Any], nn.Module]:
    """Return what makes the head of a method whose class weights are in an attribute of that name."""

    def head(estimator: Any) -> nn.Module:
        linear = class_scores(getattr(estimator, weights), estimator.intercept_)
        second_width = int(getattr(estimator, "second_width", 0))
        return nn.Sequential(UnitParts(second_width), linear) if second_width else linear

    return head


def _cosine(rows: str) -> Callable[[Any], nn.Module]:
    """Return what makes the head of a method whose class rows are in an attribute of that name."""
    return lambda estimator: Cosine(getattr(estimator, rows), estimator.logit_scale)


def _gda(estimator: Any) -> nn.Module:
    """Return zero-shot plus the Gaussian classifier."""
    return Sum(_zero_shot(estimator), class_scores(estimator.weights_, estimator.intercept_))


def _clip_adapter(estimator: Any) -> nn.Module:
    """Return the adapted image features' cosines with the adapted text."""
    scores = Cosine(estimator.text_, estimator.logit_scale)
    if estimator.variant == "text":
        return scores
    fitted = estimator.parameters_
    ratio: float | nn.Module
    if estimator.alpha_mode_ == "learned":
        other = _text(estimator).mean(axis=0) @ np.asarray(fitted["alpha_other"], dtype=np.float32)  # (q,)
        bias = float(np.asarray(fitted["alpha_bias"]).reshape(()))
        ratio = LearnedRatio(fitted["alpha_own"], other, fitted["alpha_out"], bias)
    else:
        some = np.zeros((1, estimator.n_features_in_), dtype=np.float32)
        ratio = float(estimator.ratios(some)[0, 0])
    return Blend(fitted["image_down"], fitted["image_up"], ratio, scores, rectified=estimator.form == "released")


def _cross_modal_adapter(estimator: Any) -> nn.Module:
    """Return the adapted features times the head, which starts as text."""
    fitted = estimator.parameters_
    scores = Linear(estimator.logit_scale * np.asarray(fitted["head"], dtype=np.float32))
    return Blend(fitted["down"], fitted["up"], float(estimator.alpha), scores, rectified=True)


def _cross_modal_linear_probe(estimator: Any) -> nn.Module:
    """Return the features times the head, which starts as text."""
    return Linear(estimator.logit_scale * np.asarray(estimator.parameters_["head"], dtype=np.float32))


def _key_values(estimator: Any, weights: ArrayLike = 1.0) -> Any:
    """Return Tip-Adapter's values of the m keys, (m, c): alpha times a key's weight in its class's column, else 0."""
    n_keys = len(estimator.keys_)
    segment = np.searchsorted(estimator.segments_, np.arange(n_keys), side="right") - 1  # keys are sorted by class
    values = np.zeros((n_keys, len(estimator.classes_)), dtype=np.float32)
    values[np.arange(n_keys), np.asarray(estimator.seen_)[segment]] = estimator.alpha_ * np.asarray(weights)
    return values


def _tip_adapter(estimator: Any) -> nn.Module:
    """Return zero-shot plus the votes of the keys."""
    return Sum(_zero_shot(estimator), Votes(estimator.keys_, _key_values(estimator), estimator.beta_))


def _ape(estimator: Any) -> nn.Module:
    """Return zero-shot plus the votes of the keys, in the channels that were chosen."""
    votes = Votes(estimator.keys_, _key_values(estimator, estimator.weights_), estimator.beta_)
    return Sum(_zero_shot(estimator), Channels(estimator.channels_, votes))


def _ape_t(estimator: Any) -> nn.Module:
    """Return the trained text plus the votes of the keys, whose values were trained."""
    text = Linear(estimator.logit_scale * np.asarray(estimator.text_, dtype=np.float32))
    return Sum(text, Votes(estimator.keys_, _key_values(estimator, estimator.values_), estimator.beta_, scaled=False))


def _proker(estimator: Any) -> nn.Module:
    """Return zero-shot plus the kernel's votes."""
    values = estimator.logit_scale * np.asarray(estimator.dual_weights_, dtype=np.float32)
    return Sum(_zero_shot(estimator), Votes(estimator.keys_, values, estimator.beta_))


def _prolip(estimator: Any) -> nn.Module:
    """Return zero-shot after the trained projection."""
    projected = Linear(np.asarray(estimator.projection_).T, estimator.bias_)
    return nn.Sequential(projected, _zero_shot(estimator))


HEADS: dict[str, Callable[[Any], nn.Module]] = {
    "ape": _ape,
    "ape-t": _ape_t,
    "auto": _linear("weights_"),
    "clap": _cosine("weights_"),
    "clip-adapter": _clip_adapter,
    "coop": _cosine("text_"),
    "cross-modal-adapter": _cross_modal_adapter,
    "cross-modal-linear-probe": _cross_modal_linear_probe,
    "gda": _gda,
    "linear-map": _linear("weights_"),
    "linear-probe": _linear("coef_"),
    "lp++": _linear("weights_"),
    "proker": _proker,
    "prolip": _prolip,
    "ss-text": _cosine("weights_"),
    "task-res": _cosine("weights_"),
    "tip-adapter": _tip_adapter,
    "tip-adapter-f": _tip_adapter,
    "zero-shot": _zero_shot,
    "zero-shot-plus": _linear("weights_"),
    "zs-lp": _cosine("weights_"),
}


class Head(nn.Module):
    """Features (n, d) to logits (n, c), with the scaling on entry that the method has."""

    def __init__(self, scores: nn.Module, *, scaled: bool) -> None:
        super().__init__()
        self.scores, self.scaled = scores, scaled

    def forward(self, features: Tensor) -> Tensor:
        """Score rows (n, d)."""
        scores: Tensor = self.scores(unit_rows(features) if self.scaled else features)
        return scores


def whole(fitted: Any) -> Any:
    """Return the classifier of a fitted method, of which a run may have read no more than predictions need."""
    return fitted.estimator() if isinstance(fitted, FittedMethod) else fitted


def method_name(estimator: Any) -> str:
    """Return the name of a fitted method, as `cafe methods` has it."""
    estimator = whole(estimator)
    return str(getattr(sys.modules[type(estimator).__module__], "METHOD", type(estimator).__name__))


def check_exportable(estimator: Any) -> None:
    """Raise an error for a method that cannot be exported.

    Raises
    ------
    InputError
        If the method predicts an image by the others of its batch, or is not among ``HEADS``.
    """
    estimator = whole(estimator)
    name = method_name(estimator)
    if name in _OF_A_BATCH or estimator.chosen_on() == "the batch":
        raise InputError(
            f"{name} has no fixed head: what it says of an image depends on the other images of the batch; fit another "
            "method to export, such as auto"
        )
    if name not in HEADS:
        raise InputError(
            f"nothing says how {name} is computed in ONNX; methods that can be exported: {', '.join(sorted(HEADS))}"
        )


def head_of(estimator: Any) -> Head:
    """Make the torch module that computes a fitted method's logits in float32.

    Parameters
    ----------
    estimator : fitted classifier
        Any method of :data:`HEADS`.

    Returns
    -------
    Head
        Features (n, d), float32, to logits (n, c).

    Raises
    ------
    InputError
        As :func:`check_exportable`.

    Examples
    --------
    >>> import cafe
    >>> text = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    >>> fitted = cafe.ZeroShot(text, logit_scale=1.0).fit(text, [0, 1])
    >>> head_of(fitted)(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    estimator = whole(estimator)
    check_exportable(estimator)
    return Head(HEADS[method_name(estimator)](estimator), scaled=estimator._scales_rows()).eval()
