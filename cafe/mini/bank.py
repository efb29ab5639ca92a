"""The bank: every mask drawn once, before training starts."""

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from cafe.mini.fonts import font_files
from cafe.mini.glyphs import Mask, character_codes, draw_glyph
from cafe.mini.shapes import draw_shape
from cafe.mini.strokes import draw_strokes, handwritten_digit, hershey_strokes
from cafe.mini.textures import draw_texture
from cafe.mini.vocabulary import DIGIT_WORDS, IDENTITIES, KINDS, SHAPES, SIGNS, TEXTURES

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Half of the pictures are digits, mostly handwritten: small digits are what
# the package's examples classify, and handwriting varies more than type.
KIND_SHARES: dict[str, float] = {
    "digit": 0.5,
    "letter": 0.2,
    "sign": 0.05,
    "shape": 0.14,
    "texture": 0.11,
}
HANDWRITTEN_SHARE: dict[str, float] = {"digit": 0.78, "letter": 0.5}


@dataclasses.dataclass
class Bank:
    """Masks (n, 48, 48), their codes (n, 4) of kind, identity, case and style, and their weights (n,) in draws."""

    masks: torch.Tensor
    codes: torch.Tensor
    weights: torch.Tensor


class _Collector:
    """Gathers masks and codes while the bank is drawn."""

    def __init__(self) -> None:
        self.masks: list[Mask] = []
        self.codes: list[tuple[int, int, int, int]] = []

    def add(self, mask: Mask, identity: int, case: int, style: int) -> None:
        """Add a mask; its identity tells its kind."""
        kind = KINDS.index(IDENTITIES[identity][0])
        self.masks.append(mask)
        self.codes.append((kind, identity, case, style))


def _add_type(bank: _Collector, held_out: bool) -> None:
    """Add every character of every font file."""
    for file, handwritten in font_files(held_out):
        for character in "0123456789" + _LETTERS + "".join(SIGNS):
            identity, case = character_codes(character)
            bank.add(draw_glyph(file, character), identity, case, int(handwritten))


def _add_writing(bank: _Collector, rng: np.random.Generator, size: int, held_out: bool) -> None:
    """Add digits and letters drawn with a pen."""
    for value in range(len(DIGIT_WORDS)):
        for _ in range(size):
            bank.add(handwritten_digit(value, rng), value, 0, 1)
    for character in "0123456789" + _LETTERS:
        identity, case = character_codes(character)
        for strokes in hershey_strokes(character, held_out):
            for _ in range(max(1, size // 60)):
                mask = draw_strokes(strokes, rng, jitter=0.02)
                bank.add(mask, identity, case, 1)


def _weights(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the weight of each mask, by its codes (n, 4), for drawing masks at random.

    Kinds are drawn at `KIND_SHARES`; within a kind, handwriting at `HANDWRITTEN_SHARE`; within these, every identity
    is equally probable.
    """
    kind, identity, style = codes[:, 0], codes[:, 1], codes[:, 3]
    weights = np.zeros(len(codes))
    for code, name in enumerate(KINDS):
        chosen = kind == code
        written = HANDWRITTEN_SHARE.get(name)
        for value in (0, 1):
            share = 1.0 if written is None else (written if value else 1 - written)
            group = chosen if written is None else chosen & (style == value)
            counts = np.bincount(identity[group], minlength=len(IDENTITIES))
            classes = max(1, int(np.count_nonzero(counts)))
            weights[group] = KIND_SHARES[name] * share / classes / counts[identity[group]]
    return weights


def build_bank(seed: int, size: int = 600, held_out: bool = False) -> Bank:
    """Draw the bank.

    Parameters
    ----------
    seed : int
        The same seed draws the same bank.
    size : int
        Handwritten drawings per digit; other classes follow from it.
    held_out : bool
        Use the fonts kept for checks in place of those trained on.

    Returns
    -------
    Bank
        Masks as uint8 of shape (n, 48, 48), codes of shape (n, 4) and the
        weights to sample with.
    """
    rng = np.random.default_rng(seed)
    bank = _Collector()
    _add_type(bank, held_out)
    _add_writing(bank, rng, size, held_out)
    first_shape = len(DIGIT_WORDS) + 26 + len(SIGNS)
    for offset, name in enumerate(SHAPES + TEXTURES):
        draw = draw_shape if name in SHAPES else draw_texture
        for _ in range(max(1, size // 4)):
            bank.add(draw(name, rng), first_shape + offset, 0, 0)
    codes = np.array(bank.codes, dtype=np.int64)
    return Bank(
        masks=torch.from_numpy(np.stack(bank.masks)),
        codes=torch.from_numpy(codes),
        weights=torch.from_numpy(_weights(codes)),
    )
