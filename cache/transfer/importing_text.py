"""Text features of imported features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.transfer.importers.base import Found
from cafe.cache.transfer.importers.files import arrays_of_file
from cafe.errors import InputError


def shaped_text(found: Found, text_file: Path | None, n_classes: int) -> tuple[NDArray[Any] | None, tuple[Path, ...]]:
    """Return text features as (m, c, d), and the file they came from if it was named.

    A matrix is (c, d), one row per class; where only (d, c) fits, as of Tip-Adapter's ``clip_weights``, it is turned.

    Raises
    ------
    InputError
        If their shape fits neither classes nor image features.
    """
    text = found.text_features if text_file is None else _read(text_file)
    if text is None:
        return None, ()
    width = next(iter(found.splits.values())).image_features.shape[1]
    given = text.shape
    if text.ndim == 2 and given != (n_classes, width) and given == (width, n_classes):
        text = np.ascontiguousarray(text.T)
    if text.ndim == 2:
        text = text[None]
    if text.ndim != 3 or text.shape[1:] != (n_classes, width):
        raise InputError(
            f"text features must be ({n_classes} classes, {width} wide), or (templates, {n_classes}, {width}); "
            f"got {given}"
        )
    return text, () if text_file is None else (text_file,)


def _read(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise InputError(f"--text-features takes a file; there is none at {str(path)!r}")
    arrays = arrays_of_file(path)
    names = [name for name in arrays if "text" in name.lower()] or list(arrays)
    if len(names) != 1:
        raise InputError(f"{path} holds several arrays ({', '.join(names)}); one with text in its name is needed")
    return np.asarray(arrays[names[0]]())
