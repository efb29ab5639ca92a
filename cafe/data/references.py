"""What follows a path or name after ``?``: ``labels.csv?path=photo&label=kind``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl

from cafe.errors import InputError, unknown_name


def without_options(path: Path) -> Path:
    """Return what stands before ``?``, unless a file of the whole name exists.

    Examples
    --------
    >>> str(without_options(Path("labels.csv?label=kind")))
    'labels.csv'
    """
    before, mark, _ = os.fspath(path).partition("?")
    return Path(before) if mark and not path.exists() else path


def read_options(path: Path, known: Iterable[str]) -> dict[str, str]:
    """Return what stands after ``?``.

    Raises
    ------
    InputError
        If an option is not among the known ones, or has no value.

    Examples
    --------
    >>> read_options(Path("labels.csv?path=photo&label=kind"), ["path", "label"])
    {'path': 'photo', 'label': 'kind'}
    """
    _, mark, after = os.fspath(path).partition("?")
    if not mark or path.exists():
        return {}
    options = dict(parse_qsl(after, keep_blank_values=True))
    if not options:
        raise InputError(f"{os.fspath(path)!r}: after ? come options such as {next(iter(known))}=...")
    for name, value in options.items():
        if name not in known:
            raise unknown_name(f"option of {os.fspath(path)!r}", name, known)
        if not value:
            raise InputError(f"{os.fspath(path)!r}: option {name!r} has no value; write {name}=...")
    return options
