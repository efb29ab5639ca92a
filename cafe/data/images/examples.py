"""Tiny pictures and archives, for the examples that sources and data sets write of themselves."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def example_picture(number: int, kind: str = "PNG") -> bytes:
    """Make a picture of 8 x 6 pixels in one colour; each number below 65,536 has its own.

    Parameters
    ----------
    number : int
        From 0.
    kind : str, default "PNG"
        Format as Pillow calls it.

    Examples
    --------
    >>> example_picture(0) == example_picture(1)
    False
    """
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (8, 6), (number % 256, number // 256 % 256, 30)).save(content, kind)
    return content.getvalue()


def write_pictures(folder: Path, names: Iterable[str], start: int = 0) -> list[str]:
    """Write a picture under each name, all different, and return the names.

    Parameters
    ----------
    folder : Path
        Made where it is not there, as are folders within it.
    names : iterable of str
        Paths relative to it, with forward slashes; ``.png`` is written as PNG, everything else as JPEG.
    start : int, default 0
        Number of the first picture; see :func:`example_picture`.
    """
    names = list(names)
    for number, name in enumerate(names, start):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(example_picture(number, "PNG" if path.suffix == ".png" else "JPEG"))
    return names


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """Write an uncompressed tar with these files, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
