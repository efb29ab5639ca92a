"""Characters drawn with a pen: our own digit skeletons and Hershey strokes.

A skeleton is a list of strokes, each a list of control points in a unit box
(x to the right, y down). Jitter of the points, a smooth curve through them
and a pen of random width make drawings that look like handwriting.
"""

import importlib

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from cafe.mini.fonts import HERSHEY_MODULE, require
from cafe.mini.glyphs import Mask, fit_mask

Points = npt.NDArray[np.float64]
_CANVAS = 128
_HERSHEY_FACES = ("futural", "scripts", "cursive", "rowmans", "futuram", "timesr")
_HERSHEY_HELD_OUT = ("scriptc", "rowmand")

# Written as "x,y x,y ..." in hundredths of the box; "|" separates strokes.
DIGIT_SKELETONS: tuple[tuple[str, ...], ...] = (
    (
        "50,0 15,20 5,50 15,82 50,100 85,82 95,50 85,20 50,0",
        "65,3 25,12 5,50 20,90 55,98 90,70 92,30 60,2 40,8",
        "75,0 35,15 10,55 25,95 60,90 90,45 80,8 55,10",
    ),
    (
        "50,0 50,50 50,100",
        "20,25 40,12 55,0 55,50 55,100",
        "15,28 50,0 50,50 50,100 | 15,100 50,100 88,100",
        "62,0 52,50 42,100",
        "5,35 30,20 60,0 62,50 60,100",
        "35,0 38,50 50,98 | 20,96 50,97 95,98",
        "40,0 45,50 52,100 | 30,22 40,0",
    ),
    (
        "10,22 30,2 65,3 82,25 65,55 30,82 5,98 | 5,98 50,97 98,97",
        "8,25 35,0 75,8 80,35 50,70 15,95 12,80 35,82 65,97 98,90",
        "15,15 50,0 80,20 70,50 40,75 10,97 40,97 70,97 95,97",
        "30,30 10,15 45,0 72,22 60,60 20,92 35,85 60,92 98,98",
        "5,5 60,3 85,12 65,45 30,75 5,98 50,95 100,98",
        "20,40 15,12 50,0 72,15 68,50 45,78 15,85 15,98 40,92 70,98 90,90",
    ),
    (
        "10,12 45,0 80,15 72,38 40,47 75,55 88,78 55,98 10,90",
        "10,2 50,2 88,4 60,25 40,42 75,50 88,75 55,98 8,88",
        "20,8 60,0 80,20 55,42 35,46 65,52 80,75 50,98 15,96",
        "15,18 40,2 72,8 70,32 30,50 70,52 92,72 65,98 10,95",
        "10,5 75,2 70,25 40,42 68,60 70,85 40,98 10,95",
    ),
    (
        "40,0 20,35 5,65 50,65 98,62 | 68,35 66,70 62,100",
        "70,0 35,35 5,68 55,68 98,68 | 70,0 70,50 70,100",
        "20,0 12,30 12,52 50,55 85,50 | 80,5 75,50 70,100",
        "45,0 15,45 8,62 45,62 92,55 | 75,25 60,65 50,100",
        "30,0 10,40 20,55 60,52 85,45 | 88,10 70,50 45,100",
        "60,0 25,35 8,60 25,70 60,65 95,58 | 65,40 60,70 58,100",
        "35,5 15,35 20,50 60,48 80,40 82,5 | 80,20 75,60 68,100",
    ),
    (
        "85,2 50,2 22,3 20,25 15,45 | 15,45 50,38 85,55 85,82 50,98 12,92",
        "25,3 20,25 18,45 50,40 82,58 78,88 45,99 10,92 | 25,3 55,4 92,2",
        "95,2 60,4 30,8 20,40 50,42 80,60 72,88 40,98 5,92",
        "85,0 45,5 22,30 40,48 68,62 70,85 40,98 15,98",
        "90,6 50,0 25,10 18,42 45,36 75,45 80,75 55,98 20,95",
        "30,5 25,40 60,45 80,70 60,97 20,98 | 30,5 90,10",
    ),
    (
        "70,0 35,25 12,60 25,92 60,98 85,78 65,55 30,60 14,75",
        "55,0 25,30 10,65 30,97 70,96 88,72 60,55 25,65",
        "45,0 20,40 10,75 35,98 75,95 92,72 65,60 30,70 12,80",
        "85,5 45,10 15,45 15,80 50,99 85,80 70,52 35,52 15,68",
        "38,0 22,40 18,80 50,100 85,85 75,65 45,62 20,80",
    ),
    (
        "5,4 50,3 92,4 | 92,4 65,45 45,100",
        "8,15 15,3 50,5 90,4 70,40 50,75 45,100",
        "5,8 45,3 88,5 70,45 50,100 | 30,52 60,50 92,48",
        "10,20 12,5 50,8 85,3 68,45 48,100 | 25,55 90,48",
        "10,15 30,0 55,10 85,5 65,45 50,100 | 25,60 60,52 95,45",
        "15,10 50,2 80,5 75,30 60,65 55,100 | 35,50 95,50",
    ),
    (
        "75,12 45,0 18,15 30,38 65,55 85,80 50,99 15,82 30,58 65,40 82,20 70,8",
        "50,47 22,32 28,6 50,0 72,6 78,32 50,47 | 50,47 15,65 20,92 50,100 80,92 85,65 50,47",
        "85,8 50,2 20,18 40,42 72,65 70,92 40,99 18,85 35,60 70,35 88,10",
        "60,45 30,35 30,8 60,2 80,20 60,45 | 55,47 25,60 22,88 50,99 75,88 75,62 50,47",
        "70,20 40,2 18,22 45,45 80,72 55,98 22,85 40,55 80,25 88,2",
    ),
    (
        "85,22 60,2 25,8 15,32 40,50 75,40 85,20 | 85,20 82,60 78,100",
        "82,15 50,0 18,15 20,42 55,48 80,30 85,15 82,55 65,90 30,98 12,88",
        "80,25 60,3 25,8 15,35 45,48 80,30 75,65 62,100",
        "88,10 45,2 15,22 30,45 70,40 85,15 70,50 50,100",
        "75,10 35,5 18,28 45,45 75,30 78,10 85,60 60,97 15,95",
        "80,30 60,5 30,8 20,32 50,45 80,30 85,60 75,92 40,99 15,92",
    ),
)


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
