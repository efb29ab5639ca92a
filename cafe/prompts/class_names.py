"""Class names from a file: better words for the prompts, in label order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cafe import foreign
from cafe.errors import InputError, unknown_name
from cafe.foreign import parse_json


def read_class_names(path: Path | str, there: Sequence[str]) -> tuple[str, ...]:
    """Read class names that replace those of a data set.

    Parameters
    ----------
    path : path
        A text file with one name on each line in label order; or JSON: a list in label order, or an object from
        present names to new ones, where names that it leaves out stay.
    there : sequence of str, length c
        The present names, in label order.

    Returns
    -------
    tuple of str, length c

    Raises
    ------
    InputError
        If the file cannot be read, or does not have one name for each class.
    """
    path = Path(path)
    text = read_text(path, "--class-names")
    if path.suffix.lower() != ".json":
        names: list[Any] = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        given = parse_json(text, path)
        names = _renamed(path, given, there) if isinstance(given, dict) else given
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(f"{path} must hold class names: a list of texts, or an object from present names to new ones")
    if len(names) != len(there):
        raise InputError(
            f"{path} has {len(names)} class names, but the data set has {len(there)} classes "
            f"({there[0]!r} to {there[-1]!r}); one is needed for each, in label order"
        )
    return tuple(names)


def _renamed(path: Path, given: dict[str, Any], there: Sequence[str]) -> list[Any]:
    for name in given:
        if name not in there:
            raise InputError(f"{path}: {unknown_name('class', name, there)}")
    return [given.get(name, name) for name in there]


def read_text(path: Path, option: str) -> str:
    """Read a UTF-8 text file that was given to an option; InputError says what is wrong with it."""
    if not path.is_file():
        raise InputError(f"{option} takes a file; there is none at {str(path)!r}")
    return foreign.read_text(path)
