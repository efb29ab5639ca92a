"""The words for what a training picture can show, and their codes."""

import json
import pathlib
import string

ATTRIBUTES: tuple[str, ...] = (
    "kind",
    "identity",
    "case",
    "style",
    "foreground",
    "background",
)
KINDS: tuple[str, ...] = ("digit", "letter", "sign", "shape", "texture")
CASES: tuple[str, ...] = ("none", "capital", "small")
STYLES: tuple[str, ...] = ("printed", "handwritten")

_WORDS = json.loads((pathlib.Path(__file__).parent / "vocabulary.json").read_text(encoding="utf-8"))
COLOURS: dict[str, tuple[int, int, int]] = {name: tuple(rgb) for name, rgb in _WORDS["colours"].items()}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
SIGNS: dict[str, str] = _WORDS["signs"]
DIGIT_WORDS: tuple[str, ...]
SHAPES: tuple[str, ...]
TEXTURES: tuple[str, ...]
DIGIT_WORDS, SHAPES, TEXTURES = (tuple(_WORDS[kind]) for kind in ("digits", "shapes", "textures"))

#: One name list per identity; the position in the list is the code.
IDENTITIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    *(("digit", (word, str(value))) for value, word in enumerate(DIGIT_WORDS)),
    *(("letter", (letter,)) for letter in string.ascii_lowercase),
    *(("sign", (name,)) for name in SIGNS.values()),
    *(("shape", (name,)) for name in SHAPES),
    *(("texture", (name,)) for name in TEXTURES),
)
