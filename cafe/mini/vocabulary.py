"""The words for what a training picture can show, and their codes."""

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

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (248, 248, 248),
    "black": (8, 8, 8),
    "grey": (128, 128, 128),
    "red": (215, 30, 30),
    "green": (30, 160, 50),
    "blue": (35, 60, 215),
    "yellow": (245, 225, 35),
    "orange": (245, 140, 20),
    "purple": (130, 35, 165),
    "pink": (250, 145, 190),
    "cyan": (40, 215, 225),
    "brown": (125, 75, 30),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)

DIGIT_WORDS: tuple[str, ...] = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)
SIGNS: dict[str, str] = {
    "!": "exclamation mark",
    "?": "question mark",
    "+": "plus sign",
    "=": "equals sign",
    "#": "hash sign",
    "&": "ampersand",
    "@": "at sign",
    "%": "percent sign",
    "$": "dollar sign",
    "*": "asterisk",
}
SHAPES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "ring",
    "diamond",
    "hexagon",
    "heart",
    "arrow",
    "crescent",
    "bar",
)
TEXTURES: tuple[str, ...] = (
    "vertical stripes",
    "horizontal stripes",
    "diagonal stripes",
    "checkerboard",
    "dots",
    "grid",
    "waves",
    "gradient",
    "noise",
    "bricks",
)

#: One name list per identity; the position in the list is the code.
IDENTITIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    *(("digit", (word, str(value))) for value, word in enumerate(DIGIT_WORDS)),
    *(("letter", (letter,)) for letter in string.ascii_lowercase),
    *(("sign", (name,)) for name in SIGNS.values()),
    *(("shape", (name,)) for name in SHAPES),
    *(("texture", (name,)) for name in TEXTURES),
)
