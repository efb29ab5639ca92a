"""Markdown that no name can break."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_row(cells: Sequence[str]) -> str:
    r"""Write one row of a table.

    Examples
    --------
    >>> markdown_row(["a|b", "50.0"])
    '| a\\|b | 50.0 |'
    """
    return "| " + " | ".join(map(escaped, cells)) + " |"


def escaped(text: str) -> str:
    """Escape what Markdown would read as its own."""
    for special in ("\\", "|", "*", "_", "<", "`"):
        text = text.replace(special, "\\" + special)
    return text.replace("\n", " ")
