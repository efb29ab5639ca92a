"""Colours of the figure, for light and for dark paper.

The line colours can be told apart with the common kinds of colour blindness, and carry different markers besides.
"""

from __future__ import annotations

from dataclasses import dataclass

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")


@dataclass(frozen=True)
class Theme:
    """Colours as hexadecimal RGB.

    Attributes
    ----------
    paper, ink, muted, axis, grid : str
        Background, title, secondary text, base line, grid.
    lines : tuple of str
        In the order in which series get them.
    """

    paper: str
    ink: str
    muted: str
    axis: str
    grid: str
    lines: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1b1f24",
    muted="#5c6670",
    axis="#9aa4ae",
    grid="#e8ebee",
    lines=("#0b62a4", "#d1570a", "#00876c", "#a8488f", "#8a6d00", "#3f9bd8", "#b3293a", "#55606b"),
)

DARK = Theme(
    paper="#15191e",
    ink="#eef1f4",
    muted="#a3adb8",
    axis="#5c6670",
    grid="#272d34",
    lines=("#5aaef0", "#ff9a4d", "#3fd0ac", "#e08cc8", "#dcc04a", "#9fd4ff", "#ff7f8a", "#c3ccd6"),
)
