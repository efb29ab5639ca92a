"""Characters drawn with a pen: our own digit skeletons and Hershey strokes.

A skeleton is a list of strokes, each a list of control points in a unit box
(x to the right, y down). Jitter of the points, a smooth curve through them
and a pen of random width make drawings that look like handwriting.
"""

import importlib
import pathlib

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from cafe.mini.fonts import HERSHEY_MODULE, require
from cafe.mini.glyphs import Mask, fit_mask

Points = npt.NDArray[np.float64]
_CANVAS = 128
_HERSHEY_FACES = ("futural", "scripts", "cursive", "rowmans", "futuram", "timesr")
_HERSHEY_HELD_OUT = ("scriptc", "rowmand")

# One skeleton on each line, written as "x,y x,y ..." in hundredths of the box; "|" separates strokes, and an empty line
# the skeletons of two digits.
_SKELETONS = (pathlib.Path(__file__).parent / "digit_skeletons.txt").read_text(encoding="utf-8")
DIGIT_SKELETONS: tuple[tuple[str, ...], ...] = tuple(tuple(digit.splitlines()) for digit in _SKELETONS.split("\n\n"))


def parse_skeleton(text: str) -> list[Points]:
    """Read a skeleton as arrays of control points in a unit box."""
    strokes = []
    for part in text.split("|"):
        pairs = [pair.split(",") for pair in part.split()]
        strokes.append(np.array(pairs, dtype=np.float64) / 100)
    return strokes


def smooth_curve(points: Points, steps: int = 6) -> Points:
    """Return a Catmull-Rom curve through the control points."""
    if len(points) < 3:
        return points
    padded = np.concatenate([points[:1], points, points[-1:]])
    before, start, end, after = (padded[i : len(padded) - 3 + i] for i in range(4))
    t = np.linspace(0, 1, steps)[:, None, None]
    curve = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    return np.asarray(curve.transpose(1, 0, 2).reshape(-1, 2))


def draw_strokes(strokes: list[Points], rng: np.random.Generator, jitter: float = 0.045) -> Mask:
    """Draw strokes with a shaky hand and a pen of random width.

    Parameters
    ----------
    strokes : list of ndarray
        Control points of each stroke in a unit box.
    rng : numpy.random.Generator
        Decides slant, proportions, jitter and pen width.
    jitter : float
        Standard deviation of each control point's displacement.

    Returns
    -------
    ndarray of uint8, shape (48, 48)
        The drawing as a mask, 255 where the ink is.
    """
    slant = rng.normal(0, 0.18)
    aspect = rng.uniform(0.45, 1.0)
    pen = rng.uniform(5, 18)
    image = Image.new("L", (_CANVAS, _CANVAS))
    canvas = ImageDraw.Draw(image)
    for stroke in strokes:
        points = stroke + rng.normal(0, jitter, stroke.shape)
        points = smooth_curve(points) - 0.5
        x = (points[:, 0] - slant * points[:, 1]) * aspect
        placed = np.stack([x, points[:, 1]], axis=1) * 84 + _CANVAS / 2
        canvas.line([tuple(p) for p in placed.tolist()], 255, round(pen), "curve")
        for left, top in (placed[[0, -1]] - pen / 2).tolist():
            canvas.ellipse((left, top, left + pen, top + pen), 255)
    return fit_mask(image)


def handwritten_digit(value: int, rng: np.random.Generator) -> Mask:
    """Draw one digit from a random skeleton of ours."""
    options = DIGIT_SKELETONS[value]
    skeleton = parse_skeleton(options[int(rng.integers(len(options)))])
    return draw_strokes(skeleton, rng)


def hershey_strokes(character: str, held_out: bool = False) -> list[list[Points]]:
    """Return a character's strokes in every Hershey face.

    Parameters
    ----------
    character : str
        The character to look up.
    held_out : bool
        Read the faces kept for checks in place of those trained on.

    Returns
    -------
    list of list of ndarray
        Per face, the strokes scaled to a unit box, y down.
    """
    require(HERSHEY_MODULE, "Hershey-Fonts")
    library = importlib.import_module(HERSHEY_MODULE).HersheyFonts()
    faces = []
    for face in _HERSHEY_HELD_OUT if held_out else _HERSHEY_FACES:
        library.load_default_font(face)
        library.normalize_rendering(1.0)
        lines = [
            np.array(line, dtype=np.float64) for line in library.strokes_for_text(character) if len(list(line)) > 1
        ]
        if lines:
            points = np.concatenate(lines)
            low, size = points.min(axis=0), np.ptp(points, axis=0).max()
            boxed = [(line - low) / size for line in lines]
            faces.append([np.stack([b[:, 0], 1 - b[:, 1]], axis=1) for b in boxed])
    return faces
