"""Glyphs of type, drawn as masks."""

import pathlib

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cafe.mini.vocabulary import SIGNS

MASK_SIZE = 48
_FONT_SIZE = 72
_CANVAS = 160

Mask = npt.NDArray[np.uint8]


def character_codes(character: str) -> tuple[int, int]:
    """Return the identity and case codes of one character."""
    if character.isdigit():
        return int(character), 0
    if character.isalpha():
        identity = 10 + ord(character.lower()) - ord("a")
        return identity, 1 if character.isupper() else 2
    return 36 + list(SIGNS).index(character), 0


def fit_mask(image: Image.Image, margin: float = 0.08) -> Mask:
    """Cut a drawing to its ink and centre it in a square mask.

    Parameters
    ----------
    image : PIL.Image.Image
        A greyscale drawing, white ink on black.
    margin : float
        The empty part of the mask on each side of the longer axis.

    Returns
    -------
    ndarray of uint8, shape (48, 48)
        The mask; the drawing keeps its proportions.
    """
    box = image.getbbox()
    mask = Image.new("L", (MASK_SIZE, MASK_SIZE))
    if box is None:
        return np.asarray(mask)
    ink = image.crop(box)
    scale = MASK_SIZE * (1 - 2 * margin) / max(ink.size)
    width = max(1, round(ink.width * scale))
    height = max(1, round(ink.height * scale))
    ink = ink.resize((width, height), Image.Resampling.BOX)
    mask.paste(ink, ((MASK_SIZE - width) // 2, (MASK_SIZE - height) // 2))
    return np.asarray(mask)


def draw_glyph(file: pathlib.Path, character: str) -> Mask:
    """Draw one character of one font file.

    Parameters
    ----------
    file : pathlib.Path
        A TrueType or OpenType font.
    character : str
        The character to draw.

    Returns
    -------
    ndarray of uint8, shape (48, 48)
        The glyph as a mask, 255 where the ink is.
    """
    font = ImageFont.truetype(str(file), _FONT_SIZE)
    image = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(image).text((40, 30), character, fill=255, font=font)
    return fit_mask(image)
