"""Plain shapes, drawn as masks."""

import math

import numpy as np
from PIL import Image, ImageDraw

from cafe.mini.glyphs import MASK_SIZE, Mask
from cafe.mini.vocabulary import SHAPES

_SCALE = 4
_CANVAS = MASK_SIZE * _SCALE
_MIDDLE = _CANVAS / 2

_POLYGONS: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": ((0, -1), (1, 0.8), (-1, 0.8)),
    "diamond": ((0, -1), (0.7, 0), (0, 1), (-0.7, 0)),
    "cross": (
        *((-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3)),
        *((0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)),
    ),
    "arrow": (
        *((-1, -0.3), (0.1, -0.3), (0.1, -0.8), (1, 0)),
        *((0.1, 0.8), (0.1, 0.3), (-1, 0.3)),
    ),
    "bar": ((-1, -0.25), (1, -0.25), (1, 0.25), (-1, 0.25)),
    "hexagon": tuple((math.cos(i * math.pi / 3), math.sin(i * math.pi / 3)) for i in range(6)),
    "star": tuple(
        (
            (0.42 if i % 2 else 1) * math.sin(i * math.pi / 5),
            (-0.42 if i % 2 else -1) * math.cos(i * math.pi / 5),
        )
        for i in range(10)
    ),
    "heart": tuple(
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)) / 16,
        )
        for t in (i * math.pi / 20 for i in range(40))
    ),
}


def _disc(canvas: ImageDraw.ImageDraw, x: float, radius: float, fill: int) -> None:
    """Fill a disc whose centre is `x` to the right of the middle."""
    left, top = _MIDDLE + x - radius, _MIDDLE - radius
    canvas.ellipse((left, top, left + 2 * radius, top + 2 * radius), fill)


def draw_shape(name: str, rng: np.random.Generator) -> Mask:
    """Draw one shape, filled, with random size and slightly moved corners.

    Parameters
    ----------
    name : str
        One of `cafe.mini.captions.SHAPES`.
    rng : numpy.random.Generator
        Decides the size and how far corners move.

    Returns
    -------
    ndarray of uint8, shape (48, 48)
        The shape as a mask, 255 inside.
    """
    if name not in SHAPES:
        raise ValueError(f"unknown shape {name!r}; known: {', '.join(SHAPES)}")
    image = Image.new("L", (_CANVAS, _CANVAS))
    canvas = ImageDraw.Draw(image)
    radius = _MIDDLE * rng.uniform(0.45, 0.9)
    if name in _POLYGONS:
        corners = np.array(_POLYGONS[name])
        moved = corners + rng.normal(0, 0.03, corners.shape)
        placed = moved * radius + _MIDDLE
        canvas.polygon([tuple(p) for p in placed.tolist()], 255)
    else:
        _disc(canvas, 0, radius, 255)
        if name == "ring":
            _disc(canvas, 0, radius * rng.uniform(0.5, 0.75), 0)
        elif name == "crescent":
            shift = radius * rng.uniform(0.4, 0.6)
            _disc(canvas, shift, radius * rng.uniform(0.75, 0.9), 0)
    return np.asarray(image.reduce(_SCALE))
