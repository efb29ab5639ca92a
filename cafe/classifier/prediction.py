"""The prediction for one image: the most probable classes, whether it is unknown, and the classes it may be of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Prediction:
    """What is on one image.

    Attributes
    ----------
    image : str
        The path as it was given; of an open image or an array its place, such as ``"image 0"``.
    classes : tuple of (str, float)
        The most probable names with their probabilities, best first; empty if the image cannot be read.
    unreadable : str or None
        Why the image cannot be read; None for one that can.
    unknown : bool or None
        Whether the image looks like none of the classes; None where that was not asked, or is not known.
    unknown_score : float or None
        Higher for an image that looks less like any class; None where that was not asked.
    set : tuple of str or None
        The classes that it may be of, the most probable first, if a coverage was asked for.
    """

    image: str
    classes: tuple[tuple[str, float], ...]
    unreadable: str | None = None
    unknown: bool | None = None
    unknown_score: float | None = None
    set: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as `cafe predict --json` writes it: with classes, or with the reason of an error."""
        if self.unreadable is not None:
            return {"image": self.image, "reason": self.unreadable}
        return {
            "image": self.image,
            "predictions": [{"class": name, "probability": probability} for name, probability in self.classes],
            "unknown": self.unknown,
            "unknown_score": self.unknown_score,
            "set": None if self.set is None else list(self.set),
        }
