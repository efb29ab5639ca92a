"""Class names from a file, in label order, which replace those of a data set in the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cafe import foreign
from cafe.errors import InputError, unknown_name
from cafe.foreign import parse_json


def read_class_names(path: Path | str, present_names: Sequence[str]) -> tuple[str, ...]:
    """Read class names that replace those of a data set.

    Parameters
    ----------
    path : path
        A text file with one name on each line in label order; or JSON: a list in label order, or an object from
        present names to new ones, where names that it leaves out stay.
    present_names : sequence of str, length c
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
        document = parse_json(text, path)
        names = _renamed(path, document, present_names) if isinstance(document, dict) else document
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(f"{path} must hold class names: a list of texts, or an object from present names to new ones")
    if len(names) != len(present_names):
        raise InputError(
            f"{path} has {len(names)} class names, but the data set has {len(present_names)} classes "
            f"({present_names[0]!r} to {present_names[-1]!r}); one is needed for each, in label order"
        )
    return tuple(names)


def _renamed(path: Path, renamings: dict[str, Any], present_names: Sequence[str]) -> list[Any]:
    """Return the class names after the renamings ``{present name: new name}`` of a JSON file."""
    for name in renamings:
        if name not in present_names:
            raise InputError(f"{path}: {unknown_name('class', name, present_names)}")
    return [renamings.get(name, name) for name in present_names]


def read_text(path: Path, option: str) -> str:
    """Read the UTF-8 text file given to an option of the command line. Raises InputError if it cannot be read."""
    if not path.is_file():
        raise InputError(f"{option} takes a file; there is none at {str(path)!r}")
    return foreign.read_text(path)
