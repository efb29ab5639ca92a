"""From CoOp's parameter ``text_tower`` to the tower itself."""

from __future__ import annotations

import os
from typing import Any

from cafe.encoders import open_encoder
from cafe.encoders.base import Encoder
from cafe.encoders.text_towers.base import TextTower
from cafe.errors import InputError


def open_tower(given: Any, device: str) -> TextTower:
    """Open a text tower.

    Parameters
    ----------
    given : str, path, Encoder or TextTower
        What the estimator was given; an id or a folder is opened in float32.
    device : str
        Where to open it.

    Raises
    ------
    InputError
        If it is none of these, or cannot be opened.
    """
    if given is None:
        raise InputError(
            "coop trains prompts through a live text tower: give text_tower, the model id or folder that encoded the "
            "images, such as 'cafe:mini'"
        )
    if isinstance(given, TextTower):
        return given
    if isinstance(given, Encoder):
        return given.text_tower()
    if not isinstance(given, (str, os.PathLike)):
        raise InputError(
            f"text_tower of coop must be a model id, a folder, an encoder or a TextTower, but is {type(given).__name__}"
        )
    try:
        return open_encoder(os.fspath(given), device=device, dtype="float32").text_tower()
    except InputError as error:
        raise InputError(f"text_tower of coop cannot be opened: {error}") from error


class Towers:
    """Towers opened during one call of fit, each once."""

    def __init__(self) -> None:
        self._opened: dict[tuple[Any, str], TextTower] = {}

    def open(self, given: Any, device: str) -> TextTower:
        """Open a tower, or return the one opened before; parameters and errors as :func:`open_tower`."""
        key = (str(given) if isinstance(given, (str, os.PathLike)) else id(given), device)
        if key not in self._opened:
            self._opened[key] = open_tower(given, device)
        return self._opened[key]
