"""The sentences that say what a training picture shows.

Every picture carries six codes (`ATTRIBUTES`). A caption states some of
them and leaves the rest open, so whether a caption is true of a picture is
decided by comparing codes (`matches`), never by comparing text.
"""

import dataclasses
import json
import pathlib

import numpy as np
import numpy.typing as npt
import torch

from cafe.mini.vocabulary import (
    ATTRIBUTES,
    CASES,
    COLOUR_NAMES,
    COLOURS,
    IDENTITIES,
    KINDS,
    STYLES,
)

_SENTENCES = json.loads((pathlib.Path(__file__).parent / "captions.json").read_text(encoding="utf-8"))
# The openings say nothing that is checked against the picture: prompts for
# CLIP use "a blurry photo of ..." for any photo, and so do these captions.
OPENINGS: list[str] = _SENTENCES["openings"]
#: Templates per kind. A field that a template names is an attribute it states.
TEMPLATES: dict[str, list[str]] = _SENTENCES["templates"]


@dataclasses.dataclass(frozen=True)
class Caption:
    """A sentence and the codes it states (-1 where it states nothing)."""

    text: str
    codes: tuple[int, ...]


def _words(attribute: str, code: int, rng: np.random.Generator) -> str:
    """Return the words for one attribute's code."""
    if attribute == "identity":
        names = IDENTITIES[code][1]
        return names[int(rng.integers(len(names)))]
    tables = {"case": CASES, "style": STYLES}
    return tables.get(attribute, COLOUR_NAMES)[code]


def caption(codes: npt.NDArray[np.int64], rng: np.random.Generator) -> Caption:
    """Write one caption that is true of a picture.

    Parameters
    ----------
    codes : ndarray of int64, shape (6,)
        The picture's codes in the order of `ATTRIBUTES`.
    rng : numpy.random.Generator
        Chooses the template and the words.

    Returns
    -------
    Caption
        The sentence and what it states. The kind is always stated.
    """
    options = TEMPLATES[KINDS[codes[0]]]
    template = options[int(rng.integers(len(options)))]
    fields = {"opening": OPENINGS[int(rng.integers(len(OPENINGS)))]}
    stated = [int(codes[0])]
    for attribute, code in zip(ATTRIBUTES[1:], codes[1:], strict=True):
        named = "{" + attribute + "}" in template
        stated.append(int(code) if named else -1)
        if named:
            fields[attribute] = _words(attribute, int(code), rng)
    return Caption(template.format(**fields), tuple(stated))


def matches(pictures: torch.Tensor, stated: torch.Tensor) -> torch.Tensor:
    """Tell which captions are true of which pictures.

    Parameters
    ----------
    pictures : torch.Tensor
        Codes of the pictures, shape (n, 6).
    stated : torch.Tensor
        Codes stated by the captions, shape (m, 6), -1 where open.

    Returns
    -------
    torch.Tensor
        Booleans of shape (n, m).
    """
    stated_codes = stated[None]
    return ((stated_codes < 0) | (stated_codes == pictures[:, None])).all(dim=-1)


def corpus(count: int, seed: int) -> list[str]:
    """Return captions of random codes, to train the tokenizer on."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        identity = int(rng.integers(len(IDENTITIES)))
        kind = KINDS.index(IDENTITIES[identity][0])
        colours = rng.integers(len(COLOURS), size=2)
        case, style = 1 + rng.integers(2), rng.integers(2)
        codes = np.array([kind, identity, case, style, *colours])
        texts.append(caption(codes, rng).text)
    return texts
