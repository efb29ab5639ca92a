"""What is refused of a model folder that comes from a stranger: code of its own, and sizes that no image has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from cafe.errors import CafeError, InputError
from cafe.foreign import reason_of

# Four times the largest crop of any CLIP that is known (1,024 pixels); one float32 crop of it is 192 MiB.
MAX_SIDE = 4096
_SIZES = ("size", "crop_size", "pad_size")
_TRUST = "trust_remote_code"
_OWN_CODE = (
    "it wants code of its own to be run (auto_map), which cafe never does; a model of a type that the installed "
    "transformers knows is needed"
)


def why_refused(error: BaseException) -> str:
    """Return in one line why a library did not load a model.

    Examples
    --------
    >>> why_refused(ValueError("Please pass the argument `trust_remote_code=True`")).partition(" (")[0]
    'it wants code of its own to be run'
    """
    text = str(error)
    return _OWN_CODE if _TRUST in text or "custom code" in text else reason_of(error)


@contextmanager
def trying(model_id: str) -> Iterator[None]:
    """Turn whatever a loaded model raises when it is first used into one sentence; its parts may not fit together."""
    try:
        yield
    except (CafeError, ImportError):
        raise
    except Exception as error:
        raise InputError(f"{model_id} was loaded, but cannot be used: {why_refused(error)}") from error


@contextmanager
def never_asking() -> Iterator[None]:
    """Keep transformers from asking on the terminal whether a model's code may run, where another library calls it."""
    from transformers import dynamic_module_utils

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # it then raises instead
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


def refuse_code(source: str, config: Any) -> None:
    """Refuse a configuration that asks for code to be trusted, at any depth.

    open_clip hands ``tokenizer_kwargs`` to transformers, which runs code without asking where
    ``trust_remote_code`` is among them.

    Raises
    ------
    InputError
        Naming the source.
    """
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            if part.get(_TRUST):
                raise InputError(f"{source}: {_OWN_CODE}")
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple)):
            waiting.extend(part)


def check_scale(source: str, scale: float, bias: float) -> None:
    """Refuse a logit scale that is no finite number above 0, or a bias that is not finite."""
    if not (math.isfinite(scale) and scale > 0 and math.isfinite(bias)):
        raise InputError(f"{source} has the logit scale {scale:g} and the bias {bias:g}; finite numbers are needed")


def check_widths(source: str, image: Sequence[int], text: Sequence[int]) -> None:
    """Refuse towers that do not end in one vector each, of one width; given are the shapes of one of each.

    Raises
    ------
    InputError
        Naming both shapes.
    """
    if len(image) != 2 or tuple(image[1:]) != tuple(text[1:]):
        raise InputError(
            f"{source} gives image features of shape {tuple(image[1:])} and text features of shape {tuple(text[1:])}; "
            f"one vector each of the same width is needed"
        )


def check_sides(source: str, name: str, value: Any) -> None:
    """Refuse a side of images, or a pair of sides, that no image has.

    Raises
    ------
    InputError
        If a side is no whole number from 1 to 4,096; the message names the entry.
    """
    for side in value if isinstance(value, (list, tuple)) else [value]:
        if not _is_side(side, name):
            raise InputError(
                f"{source} has {name} = {value!r}; a whole number of pixels from 1 to {MAX_SIDE:,} is needed"
            )


def check_preprocessing(source: str, processor: Any) -> None:
    """Refuse sizes, means and deviations of an image processor that no image can be brought to.

    Raises
    ------
    InputError
        If a side is no whole number from 1 to 4,096, or a number to rescale or normalise with is not finite, or a
        deviation is 0; the message names the entry.
    """
    for name in _SIZES:
        size = getattr(processor, name, None)
        if size is None:
            continue
        for key, value in dict(size).items():
            if value is not None:
                check_sides(f"the image processor of {source}", f"{name} {key}", value)
    for name in ("rescale_factor", "image_mean", "image_std"):
        value = getattr(processor, name, None)
        if value is not None and not _are_numbers(value, positive=name == "image_std"):
            above = ", above 0" if name == "image_std" else ""
            raise InputError(
                f"the image processor of {source} has {name} = {value!r}; finite numbers{above} are needed"
            )


def _is_side(value: Any, key: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    most = MAX_SIDE**2 if "pixels" in key else MAX_SIDE
    return value == int(value) and 1 <= value <= most


def _are_numbers(value: Any, *, positive: bool) -> bool:
    try:
        values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        return False
    usable = np.isfinite(values).all() and values.ndim == 1 and values.size in (1, 3)
    return bool(usable and (not positive or (values > 0).all()))
