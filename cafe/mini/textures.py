"""Textures that fill the picture, computed as masks."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cafe.mini.glyphs import MASK_SIZE, Mask
from cafe.mini.vocabulary import TEXTURES

Field = npt.NDArray[np.floating[Any]]


def _wave(position: Field, period: float, phase: float) -> Field:
    """Return a soft square wave between 0 and 1."""
    wave: Field = np.sin(2 * math.pi * (position / period + phase))
    return np.asarray(0.5 + 0.5 * np.tanh(4 * wave))


def _dots(x: Field, y: Field, period: float, rng: np.random.Generator) -> Field:
    """Return round dots on a square lattice."""
    shift_x, shift_y = rng.uniform(0, period, 2)
    across = (x + shift_x) % period - period / 2
    down = (y + shift_y) % period - period / 2
    radius = period * rng.uniform(0.22, 0.36)
    return np.asarray(np.clip(radius - np.hypot(across, down) + 0.5, 0, 1))


def _grid(x: Field, y: Field, period: float, rng: np.random.Generator) -> Field:
    """Return thin lines along both axes."""
    line = max(1.5, period * rng.uniform(0.1, 0.2))
    shift_x, shift_y = rng.uniform(0, period, 2)
    across, down = (x + shift_x) % period, (y + shift_y) % period
    return np.asarray((across < line) | (down < line), dtype=np.float64)


def _bricks(x: Field, y: Field, period: float, rng: np.random.Generator) -> Field:
    """Return bricks in rows, each row moved by half a brick."""
    height = period * 0.6
    joint = max(1.2, height * 0.18)
    moved = y + rng.uniform(0, height)
    row = np.floor(moved / height)
    across = (x + (row % 2) * period * 0.75 + rng.uniform(0, period)) % (1.5 * period)
    return np.asarray((across > joint) & (moved % height > joint), dtype=np.float64)


def _noise(x: Field, y: Field, period: float, rng: np.random.Generator) -> Field:
    """Return random cells of two to four pixels."""
    cell = int(rng.integers(2, 5))
    small = rng.random((MASK_SIZE // cell + 1,) * 2)
    return np.kron(small, np.ones((cell, cell)))[:MASK_SIZE, :MASK_SIZE]


def _gradient(x: Field, y: Field, period: float, rng: np.random.Generator) -> Field:
    """Return a smooth ramp in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    ramp = x * math.cos(angle) + y * math.sin(angle)
    return np.asarray((ramp - ramp.min()) / np.ptp(ramp))


def _waves(x: Field, y: Field, period: float, rng: np.random.Generator) -> Field:
    """Return horizontal stripes that wave."""
    bend = period * rng.uniform(0.35, 0.6)
    swing = np.sin(2 * math.pi * x / (period * rng.uniform(1.5, 2.2)))
    return _wave(y + bend * swing, period, rng.random())


def _diagonal(x: Field, y: Field, period: float, rng: np.random.Generator) -> Field:
    """Return stripes that fall or rise at 30 to 60 degrees."""
    angle = rng.uniform(0.17, 0.33) * math.pi * rng.choice([-1, 1])
    along = x * math.sin(angle) + y * math.cos(angle)
    return _wave(along, period, rng.random())


def _checks(x: Field, y: Field, period: float, rng: np.random.Generator) -> Field:
    """Return a checkerboard."""
    shift_x, shift_y = rng.uniform(0, period, 2)
    cells = np.floor((x + shift_x) / period) + np.floor((y + shift_y) / period)
    return np.asarray(cells % 2)


_FIELDS: dict[str, Callable[[Field, Field, float, np.random.Generator], Field]] = {
    "vertical stripes": lambda x, y, p, rng: _wave(x, p, rng.random()),
    "horizontal stripes": lambda x, y, p, rng: _wave(y, p, rng.random()),
    "diagonal stripes": _diagonal,
    "checkerboard": _checks,
    "dots": _dots,
    "grid": _grid,
    "waves": _waves,
    "gradient": _gradient,
    "noise": _noise,
    "bricks": _bricks,
}


def draw_texture(name: str, rng: np.random.Generator) -> Mask:
    """Compute one texture with random period, phase and direction.

    Parameters
    ----------
    name : str
        One of `cafe.mini.captions.TEXTURES`.
    rng : numpy.random.Generator
        Decides the period, the phase and the direction.

    Returns
    -------
    ndarray of uint8, shape (48, 48)
        The texture as a mask from 0 to 255.
    """
    if name not in _FIELDS:
        raise ValueError(f"unknown texture {name!r}; known: {', '.join(TEXTURES)}")
    y, x = np.mgrid[:MASK_SIZE, :MASK_SIZE].astype(np.float64)
    field = _FIELDS[name](x, y, rng.uniform(9, 18), rng)
    return (np.clip(field, 0, 1) * 255).astype(np.uint8)
