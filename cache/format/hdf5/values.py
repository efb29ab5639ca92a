"""Arrays and attributes of an HDF5 file: their types, shapes, places and values."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cafe.cache.format.hdf5.headers import (
    ATTRIBUTE,
    ATTRIBUTE_INFO,
    DATASPACE,
    DATATYPE,
    EXTERNAL,
    FILTERS,
    LAYOUT,
    SHARED,
    Message,
)
from cafe.cache.format.hdf5.indexes import indexed_records
from cafe.cache.format.hdf5.structures import UNDEFINED, ByteReader, Cursor, DamagedFileError

_BYTES_AT_ONCE: Final = 1 << 30  # Linux reads at most 2 GiB in one call
# Bit offset, precision, place and size of the exponent, place and size of the mantissa, bias: IEEE 754.
_FLOATS: Final = {2: (0, 16, 10, 5, 0, 10, 15), 4: (0, 32, 23, 8, 0, 23, 127), 8: (0, 64, 52, 11, 0, 52, 1023)}


class Attributes(dict[str, Any]):
    """Attributes by name; ``problems`` has the reason for each that cannot be read.

    Values are Python's or NumPy's: text as str, whatever its length is stored as; arrays of text as lists of str.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problems: dict[str, str] = {}

    def __missing__(self, name: str) -> Any:
        raise DamagedFileError(self.problems.get(name, f"attribute {name} is missing"))


@dataclass(frozen=True)
class StoredArray:
    """An array in a file: shape, type and place of its bytes, which are read when asked for.

    Attributes
    ----------
    path : str
        Path within the file.
    shape : tuple of int
        As stored.
    dtype : dtype
        Little-endian numbers, bool, or ``S`` for text.
    offset : int
        Of its first byte within the file.
    attrs : Attributes
        Attributes of the array.
    problem : str or None
        Why it cannot be read; shape, dtype and offset are then meaningless.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    attrs: Attributes
    descriptor: int = field(repr=False)
    problem: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, as an exact integer even for an absurd shape."""
        n = self.dtype.itemsize
        for length in self.shape:
            n *= length
        return n

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | tuple[()]) -> NDArray[Any]:
        """Read all elements (``[()]``) or rows ``a:b``. Raises DamagedFileError if the array cannot be read."""
        if self.problem is not None:
            raise DamagedFileError(f"array {self.path} {self.problem}")
        shape, offset = self.shape, self.offset
        if isinstance(rows, slice):
            start, stop, step = rows.indices(shape[0])
            if step != 1:
                raise IndexError("rows are read in their order, without gaps")
            row_bytes = self.nbytes // shape[0] if shape[0] else 0
            shape, offset = (max(0, stop - start), *shape[1:]), offset + start * row_bytes
        values = np.empty(shape, dtype=self.dtype)
        if values.size:
            _read_into(self.descriptor, offset, values.reshape(-1).view(np.uint8), self.path)
        return values


def _read_into(descriptor: int, offset: int, target: NDArray[np.uint8], what: str) -> None:
    """Fill a buffer with the bytes of a file from an offset on."""
    view, done = target.data, 0
    while done < len(view):
        data = os.pread(descriptor, min(_BYTES_AT_ONCE, len(view) - done), offset + done)
        if not data:
            raise DamagedFileError(f"array {what} is cut off: the file has become shorter while it was read")
        view[done : done + len(data)] = data
        done += len(data)


def read_array(reader: ByteReader, path: str, messages: list[Message], attributes: Attributes) -> StoredArray:
    """Read type, shape and place of an array; its ``problem`` says why it may not be in a cache."""
    try:
        content: dict[int, bytes] = {}
        for kind, flags, data in messages:
            if kind == EXTERNAL:
                raise DamagedFileError("has its bytes in another file, which is never read")
            if kind == FILTERS and data[1:2] != b"\0":
                raise DamagedFileError("is compressed or filtered")
            if kind in (DATASPACE, DATATYPE, LAYOUT):
                if flags & SHARED:
                    raise DamagedFileError("has a type that is stored elsewhere")
                content[kind] = data
        if len(content) != 3:
            raise DamagedFileError("has no shape, type or place")
        shape = _read_shape(Cursor(content[DATASPACE], path))
        if shape is None:
            raise DamagedFileError("is empty, without a shape")
        stored_type = _read_type(Cursor(content[DATATYPE], path))
        if stored_type.variable:
            raise DamagedFileError("holds text of variable length")
        offset, stored = _read_place(Cursor(content[LAYOUT], path))
        array = StoredArray(path, shape, stored_type.dtype, offset, attributes, reader.descriptor)
        if array.nbytes == 0:
            return array
        if stored is not None and stored != array.nbytes:
            raise DamagedFileError(f"takes {stored} bytes, but its shape asks for {array.nbytes}")
        if offset == UNDEFINED:
            raise DamagedFileError("was never written")
        if offset + array.nbytes > reader.size:
            raise DamagedFileError("lies outside the file")
        return array
    except DamagedFileError as error:
        return StoredArray(path, (), np.dtype("u1"), 0, attributes, reader.descriptor, problem=str(error))


def read_attributes(reader: ByteReader, messages: list[Message]) -> Attributes:
    """Read all attributes of an object, from its header or from a heap."""
    attributes = Attributes()
    for kind, flags, data in messages:
        if kind == ATTRIBUTE:
            _add_attribute(reader, attributes, data, flags)
        elif kind == ATTRIBUTE_INFO:
            for heap, record in indexed_records(reader, Cursor(data, "the attributes"), 2, kind=8, record_size=17):
                _add_attribute(reader, attributes, heap.get(record[:8]), record[8])
    return attributes


def _add_attribute(reader: ByteReader, attributes: Attributes, data: bytes, message_flags: int) -> None:
    """Read one attribute from its message, or note why it cannot be read."""
    cursor = Cursor(data, "an attribute")
    version, flags, sizes = cursor.number(1), cursor.number(1), [cursor.number(2) for _ in range(3)]
    if version not in (1, 2, 3) or message_flags & SHARED:
        raise DamagedFileError("an attribute is of an unknown kind")
    if version == 3:
        cursor.take(1)  # the name's character set; it is UTF-8 or ASCII
    fields: list[bytes] = []
    for size in sizes:
        fields.append(cursor.take(size))
        if version == 1:  # each field is padded to a multiple of 8 bytes
            cursor.take(min(-size % 8, cursor.left))
    name_field, datatype, dataspace = fields
    name = name_field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    if name in attributes or name in attributes.problems:
        raise DamagedFileError(f"attribute {name} is there twice")
    try:
        if flags and version > 1:
            raise DamagedFileError("has a type that is stored elsewhere")
        attributes[name] = _attribute_value(reader, Cursor(datatype, name), Cursor(dataspace, name), cursor)
    except DamagedFileError as error:
        attributes.problems[name] = f"attribute {name} {error}"


def _attribute_value(reader: ByteReader, kind: Cursor, space: Cursor, data: Cursor) -> Any:
    """Return the value of an attribute from the three parts of its message: type, shape and data."""
    stored, shape = _read_type(kind), _read_shape(space)
    if shape is None:
        raise DamagedFileError("is empty, without a value")
    count = 1
    for length in shape:
        count *= length
    if stored.variable:
        if 16 * count > data.left:
            raise DamagedFileError("has fewer values than its shape asks for")
        texts = []
        for _ in range(count):
            length, address, index = data.number(4), data.number(8), data.number(4)
            texts.append(reader.heap_text(address, index, length) if length else b"")
    else:
        raw = data.take(count * stored.dtype.itemsize)
        if stored.dtype == np.dtype(bool) and raw.strip(b"\0\1"):
            raise DamagedFileError("is neither true nor false")
        values = np.frombuffer(raw, dtype=stored.dtype).reshape(shape)
        if stored.dtype.kind != "S":
            return values[()]
        texts = values.reshape(-1).tolist()
    if len(shape) > 1:
        raise DamagedFileError(f"holds text in {len(shape)} axes")
    decoded = [text.decode("utf-8", "surrogateescape") for text in texts]
    return decoded if shape else decoded[0]


def _read_shape(cursor: Cursor) -> tuple[int, ...] | None:
    """Read a shape (HDF5 calls it dataspace); None if the array is empty."""
    version, n, _flags, kind = (cursor.number(1) for _ in range(4))
    if version == 1:
        cursor.take(4)
    elif version != 2 or kind > 2:
        raise DamagedFileError("has a shape of an unknown kind")
    elif kind == 2:
        return None
    if n > 32:
        raise DamagedFileError(f"has {n} axes")
    return tuple(cursor.number(8) for _ in range(n))


def _read_place(cursor: Cursor) -> tuple[int, int | None]:
    """Read the address of a contiguous array and the number of its bytes."""
    version, kind = cursor.number(1), cursor.number(1)
    if version not in (3, 4) or kind != 1:
        kinds = {0: "in its header", 2: "in chunks", 3: "as a view of other arrays"}
        raise DamagedFileError(f"is stored {kinds.get(kind, 'in an unknown way')}, not contiguously")
    return cursor.number(8), cursor.number(8)


@dataclass(frozen=True)
class _Type:
    dtype: np.dtype[Any]
    variable: bool = False  # text of variable length, in the global heap


def _read_type(cursor: Cursor) -> _Type:
    """Read a type: a number that NumPy has, bool as h5py stores it, or text; anything else is refused."""
    head, bits, size = cursor.number(1), cursor.number(3), cursor.number(4)
    kind = head & 0x0F
    if kind == 0 and size in (1, 2, 4, 8) and cursor.number(2) == 0 and cursor.number(2) == 8 * size:
        if not bits & ~0x09:
            order, sign = "<>"[bits & 1], "iu"[not bits & 8]
            return _Type(np.dtype(f"{order}{sign}{size}"))
    elif kind == 1 and size in _FLOATS and not bits & 0x40:
        properties = tuple(cursor.number(width) for width in (2, 2, 1, 1, 1, 1, 4))
        if properties == _FLOATS[size] and bits & ~0x0F01 == 0x20 | (8 * size - 1) << 8 & ~0x0F01:
            return _Type(np.dtype(f"{'<>'[bits & 1]}f{size}"))
    elif kind == 3 and size > 0:
        return _Type(np.dtype(f"S{size}")) if size < 1 << 31 else _refuse_type()
    elif kind == 8 and size == 1 and bits == 2 and _is_bool(cursor, head >> 4):
        return _Type(np.dtype(bool))
    elif kind == 9 and bits & 0x0F == 1 and size == 16:
        return _Type(np.dtype(object), variable=True)
    return _refuse_type()


def _refuse_type() -> _Type:
    raise DamagedFileError("has a type that is none of those a cache may use")


def _is_bool(cursor: Cursor, version: int) -> bool:
    """Return whether an enumeration of two values is h5py's bool: FALSE is 0 and TRUE is 1, in one byte."""
    if _read_type(cursor).dtype.itemsize != 1:
        return False
    names = (b"FALSE\0", b"TRUE\0")
    if version < 3:  # padded to multiples of 8
        names = (b"FALSE\0\0\0", b"TRUE\0\0\0\0")
    return all(cursor.take(len(name)) == name for name in names) and cursor.take(2) == b"\0\1"
