"""Several arrays in one file, every byte of which lies under a SHA-256: the parts of an unfinished extraction.

The file begins with what it is, the length of its record, the record itself and a SHA-256 of all these; the bytes of
the arrays follow, one after another, up to the end. The record is a JSON object: ``about``, what the writer has to say,
and ``arrays``, for each its ``name``, ``dtype``, ``shape`` and ``sha256``. So whatever is altered in the file is found
when it is read, by the record or by the array that it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.format.checksums import bytes_of, memory_sha256
from cafe.files import write_all, writing
from cafe.foreign import check_regular

SUFFIX = ".arrays"
_MAGIC = b"cafe arrays 1\n\0\0"  # 16 bytes
_LONGEST_RECORD = 1 << 26  # bytes; a record of a shard all of whose images are unreadable has less than 1 MB
_DTYPE = re.compile(r"<[fi][248]|\|u1")


def write_array_file(path: Path, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays in one step, to a folder that must be there.

    Parameters
    ----------
    path : Path
        The file to make or replace.
    about : mapping
        JSON values that belong to the arrays.
    arrays : mapping of str to ndarray
        Little-endian numbers of two to eight bytes, or uint8.

    Raises
    ------
    FileNotFoundError
        If the folder is gone.
    OSError
        If the disk has too little space or fails.
    """
    described = [
        {"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "sha256": memory_sha256(array)}
        for name, array in arrays.items()
    ]
    record = json.dumps({"about": dict(about), "arrays": described}, sort_keys=True).encode()
    head = _MAGIC + len(record).to_bytes(8, "little") + record
    head += hashlib.sha256(head).digest()
    size = len(head) + sum(array.nbytes for array in arrays.values())
    with writing(path, size, prepare=False) as stream:
        write_all(stream, head)
        for array in arrays.values():
            write_all(stream, bytes_of(array))


class ArrayFile:
    """A file of arrays; its record was read and checked, and each array is when it is asked for.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    about : dict
        What the writer had to say.

    Raises
    ------
    OSError
        If it cannot be opened.
    ValueError
        If it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        check_regular(path)  # a pipe would wait for its writer; InputError is a ValueError
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            head = stream.read(len(_MAGIC) + 8)
            length = int.from_bytes(head[len(_MAGIC) :], "little")
            if head[: len(_MAGIC)] != _MAGIC or length > min(size, _LONGEST_RECORD):
                raise ValueError("it is no file of arrays")
            record = stream.read(length)
            if stream.read(32) != hashlib.sha256(head + record).digest():
                raise ValueError("its record differs from its checksum")
        # From here on the bytes are those that were written; whether this version wrote them is another question.
        content = json.loads(record)
        self.about: dict[str, Any] = content["about"]
        self._arrays: dict[str, tuple[int, np.dtype[Any], tuple[int, ...], str]] = {}
        offset = len(head) + length + 32
        for array in content["arrays"]:
            if not _DTYPE.fullmatch(array["dtype"]) or any(n < 0 for n in array["shape"]):
                raise ValueError(f"array {array['name']} has an unknown type or shape")
            dtype, shape = np.dtype(array["dtype"]), tuple(array["shape"])
            self._arrays[array["name"]] = offset, dtype, shape, array["sha256"]
            offset += math.prod(shape) * dtype.itemsize
        if offset != size:
            raise ValueError(f"it has {size} bytes, but its arrays ask for {offset}")

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def shape(self, name: str) -> tuple[int, ...]:
        """Return an array's shape. Raises KeyError if there is none of that name."""
        return self._arrays[name][2]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return an array's dtype. Raises KeyError if there is none of that name."""
        return self._arrays[name][1]

    def read(self, name: str) -> NDArray[Any]:
        """Read an array.

        Raises
        ------
        KeyError
            If there is none of that name.
        OSError
            If it cannot be read.
        ValueError
            If it differs from its checksum.
        """
        offset, dtype, shape, digest = self._arrays[name]
        with self._path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(math.prod(shape) * dtype.itemsize)
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"array {name} differs from its checksum")
        return np.frombuffer(data, dtype=dtype).reshape(shape)

    def map(self, name: str) -> NDArray[Any]:
        """Return an array whose bytes stay on the disk, after they were compared with their checksum once.

        Raises
        ------
        KeyError, OSError, ValueError
            As :meth:`read`.
        """
        offset, dtype, shape, digest = self._arrays[name]
        if not math.prod(shape):
            return self.read(name)
        array = np.memmap(self._path, dtype=dtype, mode="r", offset=offset, shape=shape)
        if memory_sha256(array) != digest:
            raise ValueError(f"array {name} differs from its checksum")
        return array
