"""Reads files from strangers: any error that a library raises about foreign bytes becomes one sentence.

A file that a user brings may be damaged, or made to do harm. Nobody knows every exception that NumPy, pyarrow, PyTorch
or the standard library raise for it, so none is listed: within :func:`reading` any of them becomes an
:class:`~cafe.errors.InputError` that names the file. This module trusts no size that a file states, and never
waits for a pipe or a device.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cafe.errors import CafeError, InputError

# Texts and JSON are held in memory several times over. ImageNet's list of 1.3 million images is 0.1 GiB.
MAX_TEXT_BYTES = 2**30
# A compressed member may be a thousand times its packed size only while it is small: labels of one class pack so,
# features never do (a float's last bits are noise: no real file shrank below a third of its size).
SMALL_BYTES = 2**26
MAX_RATIO = 100


@contextmanager
def reading(path: Path | str, kind: str = "a file of its kind") -> Iterator[None]:
    """Turn any error of a library about a foreign file into one sentence.

    Parameters
    ----------
    path : path
        The file, for the message.
    kind : str, default "a file of its kind"
        What it should be: ``"a parquet file"``.

    Raises
    ------
    InputError
        In place of any exception but those of cafe itself, interrupts, and a missing package.

    Examples
    --------
    >>> with reading("labels.json", "JSON"):
    ...     json.loads("[" * 100_000)
    Traceback (most recent call last):
    cafe.errors.InputError: labels.json cannot be read as JSON: it is nested too deeply
    """
    try:
        yield
    except (CafeError, ImportError):
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be read as {kind}: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    r"""Return the first line of an error's message, or the type of an error without one.

    Examples
    --------
    >>> reason_of(ValueError("bad magic\nsee the manual")), reason_of(EOFError())
    ('bad magic', 'EOFError')
    """
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "what it states about itself needs more memory than there is"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def check_regular(path: Path | str, what: str = "file", *, at_most: int | None = None) -> int:
    """Raise an error, before opening it, for a path that is not a regular file: reading a pipe may never end.

    Parameters
    ----------
    path : path
        Links are followed.
    what : str, default "file"
        For the message: ``"image"``.
    at_most : int or None
        Bytes; None for any size.

    Returns
    -------
    int
        Its size in bytes.

    Raises
    ------
    InputError
        If it does not exist, is a folder, pipe, socket or device, or is larger than ``at_most``.
    """
    text = os.fspath(path)
    try:
        status = os.stat(text)  # noqa: PTH116 (a Path of 100,000 rows is slow)
    except FileNotFoundError:
        raise InputError(f"there is no {what} {text}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise InputError(f"the {what} {text!r} cannot be read: {reason_of(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{text} is {_kind_of(status.st_mode)}; a {what} that lies on the disk is needed")
    if at_most is not None and status.st_size > at_most:
        raise InputError(f"{text} has {status.st_size:,} bytes; at most {at_most:,} are read of such a {what}")
    return status.st_size


def _kind_of(mode: int) -> str:
    """Name the kind of a file by its mode."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def read_text(path: Path | str, kind: str = "UTF-8 text") -> str:
    """Read a UTF-8 text file, with or without a byte-order mark.

    Raises
    ------
    InputError
        If it is no regular file, no UTF-8 text, too large for a text, or cannot be read.
    """
    check_regular(path, at_most=MAX_TEXT_BYTES)
    with reading(path, kind):
        return Path(path).read_text(encoding="utf-8-sig")


def parse_json(text: str | bytes, where: Path | str) -> Any:
    """Parse JSON.

    Parameters
    ----------
    text : str or bytes
        The document; bytes are UTF-8.
    where : path or str
        The file, for the message.

    Raises
    ------
    InputError
        If it is no JSON, is nested too deeply, holds a number of more digits than Python reads (4,300), or one that no
        float holds, such as ``1e999``. The message names file and line.

    Examples
    --------
    >>> parse_json('{"label": 3}', "labels.json")
    {'label': 3}
    """
    try:
        return json.loads(text, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, line {error.lineno}: not JSON: {error.msg}") from error
    except Exception as error:
        raise InputError(f"{where} cannot be read as JSON: {reason_of(error)}") from error


def read_json(path: Path | str) -> Any:
    """Read a JSON file; :func:`read_text` and :func:`parse_json` say which files are refused."""
    return parse_json(read_text(path, "JSON"), path)


def check_expansion(path: Path | str, name: str, packed: int, unpacked: int) -> None:
    """Raise an error for a compressed member with an absurd unpacked size: a decompression bomb.

    Parameters
    ----------
    path : path
        The archive, for the message.
    name : str
        The member, for the message.
    packed, unpacked : int
        Bytes in the file and in memory.

    Raises
    ------
    InputError
        If ``unpacked`` is more than 64 MiB and more than 100 times ``packed``.

    Examples
    --------
    >>> check_expansion("a.npz", "labels", 1_000, 900_000)
    """
    if unpacked > SMALL_BYTES and unpacked > MAX_RATIO * max(packed, 1):
        raise InputError(
            f"{path}: {name!r} would grow from {packed:,} to {unpacked:,} bytes; no file of features does, so "
            f"it is not unpacked"
        )


def _finite(text: str) -> float:
    """Parse a number, and raise an error if no float holds it."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"no float holds the number {text[:20]}")
    return value
