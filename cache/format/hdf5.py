"""Reads the part of HDF5 that a cache may use, without the HDF5 library, which hangs or crashes on some damaged files.

A cache may come from a stranger, and one flipped bit can send the library into a loop that nothing but SIGKILL ends
(its global heap has no checksum). This reader takes a file's own word for nothing: every address and length is compared
with the file's size, every checksum with its bytes, no structure is read twice, and all of them together are read only
up to :data:`METADATA_LIMIT`. So time and memory are bounded whatever the file holds. What a cache may not have (chunks,
filters, external files, virtual arrays, soft and external links) is never followed; it is told under the name that it
stands at.

Source: HDF5 File Format Specification, version 3.0 (superblocks 0 to 3, object headers 1 and 2, old and new groups).
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
METADATA_LIMIT: Final = 1 << 23  # bytes; a cache of a thousand splits has 3 MB of headers
DEPTH_LIMIT: Final = 16  # groups within groups; a cache has 2
_UNDEFINED: Final = (1 << 64) - 1  # the address of what is not there
_PREAD = 1 << 30  # bytes at a time; Linux gives at most 2 GiB

# Message types of object headers.
_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _EXTERNAL, _LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
_FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE, _ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15
_SHARED = 0x02  # flag of a message that stands elsewhere


class DamagedFileError(ValueError):
    """What HDF5's own format rules out, or a cache may not use."""


class TruncatedFileError(DamagedFileError):
    """The file is shorter than it says."""


class Attributes(dict[str, Any]):
    """Attributes by name; those that cannot be read are in ``problems``, each with the reason.

    Values are Python's or NumPy's: text as str, whatever its length is stored as; arrays of text as lists of str.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problems: dict[str, str] = {}

    def __missing__(self, name: str) -> Any:
        raise DamagedFileError(self.problems.get(name, f"attribute {name} is missing"))


@dataclass(frozen=True)
class StoredArray:
    """An array in a file: where its bytes stand, and how to read them.

    Attributes
    ----------
    path : str
        Within the file.
    shape : tuple of int
        As stored.
    dtype : dtype
        Little-endian numbers, bool, or ``S`` for text.
    offset : int
        Of its first byte within the file.
    attrs : Attributes
        Its own.
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
        """Bytes of all elements; an exact number, however absurd the shape."""
        n = self.dtype.itemsize
        for length in self.shape:
            n *= length
        return n

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | tuple[()]) -> NDArray[Any]:
        """Read all (``[()]``) or rows ``a:b``. Raises DamagedFileError if the array cannot be read."""
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


class StoredFile:
    """An open file, all of whose structure was read and checked; the arrays themselves are read when asked for.

    Parameters
    ----------
    descriptor : int
        Open for reading; the caller closes it.

    Attributes
    ----------
    attrs : Attributes
        Of the root.
    arrays : dict of str to StoredArray
        Every array by its path, sorted; also those that cannot be read.
    groups : dict of str to Attributes
        Attributes of every group by its path, the root apart.
    problems : dict of str to str
        Names that lead nowhere a cache may lead, each with the reason.
    unchecked : set of str
        What it has of older structures, over which HDF5 has no checksum; a file of format version 2 has none.

    Raises
    ------
    DamagedFileError
        If the file is truncated, damaged, or no HDF5 file.
    """

    def __init__(self, descriptor: int) -> None:
        self._source = _Source(descriptor)
        self.arrays: dict[str, StoredArray] = {}
        self.groups: dict[str, Attributes] = {}
        self.problems: dict[str, str] = {}
        self.attrs = self._walk("", _root_address(self._source), (), 0)
        self.arrays = dict(sorted(self.arrays.items()))
        self.unchecked = self._source.unchecked

    def __contains__(self, path: str) -> bool:
        return path in self.arrays or path in self.groups or path in self.problems

    def __getitem__(self, path: str) -> StoredArray:
        """Return an array. Raises DamagedFileError if there is none of that name."""
        if path in self.arrays:
            return self.arrays[path]
        if path in self.problems:
            raise DamagedFileError(f"{path} {self.problems[path]}")
        raise DamagedFileError(f"array {path} is missing")

    def _walk(self, path: str, address: int, above: tuple[int, ...], depth: int) -> Attributes:
        """Read an object and all below it; return its attributes."""
        messages = list(_messages(self._source, address))
        attributes = _attributes(self._source, messages)
        kinds = {kind for kind, _, _ in messages}
        if _LAYOUT in kinds or _DATASPACE in kinds:
            if not path:
                raise DamagedFileError("the root is an array")
            self.arrays[path] = _array(self._source, path, messages, attributes)
            return attributes
        if path and not kinds & {_LINK_INFO, _LINK, _SYMBOL_TABLE}:
            self.problems[path] = "is neither an array nor a group"
            return attributes
        if path:
            self.groups[path] = attributes
        for name, target in _links(self._source, messages):
            below = f"{path}/{name}" if path else name
            if below in self:
                raise DamagedFileError(f"the name {below} is there twice")
            if isinstance(target, str):
                self.problems[below] = target
            elif target == address or target in above or depth == DEPTH_LIMIT:
                self.problems[below] = "leads back to a group above it"
            else:
                self._walk(below, target, (*above, address), depth + 1)
        return attributes


def checksum(data: bytes) -> int:
    """Return HDF5's checksum of its own structures: Bob Jenkins' lookup3 (hashlittle) with initial value 0.

    Examples
    --------
    >>> hex(checksum(b"Four score and seven years ago"))
    '0x17770551'
    """
    if not data:
        return 0xDEADBEEF
    mask = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(data)) & mask
    blocks = -(-len(data) // 12)
    words = struct.unpack(f"<{3 * blocks}I", data.ljust(12 * blocks, b"\0"))
    for i in range(0, 3 * blocks - 3, 3):
        a, b, c = (a + words[i]) & mask, (b + words[i + 1]) & mask, (c + words[i + 2]) & mask
        a = ((a - c) & mask) ^ (c << 4 | c >> 28) & mask
        c = (c + b) & mask
        b = ((b - a) & mask) ^ (a << 6 | a >> 26) & mask
        a = (a + c) & mask
        c = ((c - b) & mask) ^ (b << 8 | b >> 24) & mask
        b = (b + a) & mask
        a = ((a - c) & mask) ^ (c << 16 | c >> 16) & mask
        c = (c + b) & mask
        b = ((b - a) & mask) ^ (a << 19 | a >> 13) & mask
        a = (a + c) & mask
        c = ((c - b) & mask) ^ (b << 4 | b >> 28) & mask
        b = (b + a) & mask
    a, b, c = (a + words[-3]) & mask, (b + words[-2]) & mask, (c + words[-1]) & mask
    c = ((c ^ b) - (b << 14 | b >> 18)) & mask
    a = ((a ^ c) - (c << 11 | c >> 21)) & mask
    b = ((b ^ a) - (a << 25 | a >> 7)) & mask
    c = ((c ^ b) - (b << 16 | b >> 16)) & mask
    a = ((a ^ c) - (c << 4 | c >> 28)) & mask
    b = ((b ^ a) - (a << 14 | a >> 18)) & mask
    digest: int = ((c ^ b) - (b << 24 | b >> 8)) & mask
    return digest


def _read_into(descriptor: int, offset: int, target: NDArray[np.uint8], what: str) -> None:
    view, done = target.data, 0
    while done < len(view):
        data = os.pread(descriptor, min(_PREAD, len(view) - done), offset + done)
        if not data:
            raise DamagedFileError(f"array {what} is cut off: the file has become shorter while it was read")
        view[done : done + len(data)] = data
        done += len(data)


class _Source:
    """The bytes of a file, of which structures are read within bounds."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.unchecked = set[str]()
        self._left = METADATA_LIMIT
        self._heaps: dict[int, dict[int, bytes]] = {}

    def read(self, address: int, length: int, what: str) -> bytes:
        """Read a structure. Raises DamagedFileError if it lies outside the file, or all together are too long."""
        if address + length > self.size:
            raise DamagedFileError(f"{what} lies outside the file")
        self._left -= length + 8  # empty structures are counted too
        if self._left < 0:
            raise DamagedFileError(f"its structure is longer than {METADATA_LIMIT >> 20} MB, which no cache needs")
        data = os.pread(self.descriptor, length, address)
        if len(data) != length:
            raise DamagedFileError(f"{what} is cut off")
        return data

    def checked(self, address: int, length: int, what: str, signature: bytes) -> _Cursor:
        """Read a structure that begins with a signature and ends with a checksum."""
        data = self.read(address, length, what)
        if length < len(signature) + 4 or not data.startswith(signature):
            raise DamagedFileError(f"{what} has not the signature {signature.decode()}")
        if checksum(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise DamagedFileError(f"{what} differs from its checksum")
        return _Cursor(data[len(signature) : -4], what)

    def heap_text(self, address: int, index: int, length: int) -> bytes:
        """Return a text of variable length from a block of the global heap, which has no checksum."""
        self.unchecked.add("text of variable length")
        if address not in self._heaps:
            self._heaps[address] = self._heap_block(address)
        data = self._heaps[address].get(index)
        if data is None or length != len(data):
            raise DamagedFileError(f"its text {index} is not in the heap block at {address}")
        return data

    def _heap_block(self, address: int) -> dict[int, bytes]:
        """Walk a block of the global heap; every step goes forward, so that it ends."""
        what = f"the heap block at {address}"
        head = _Cursor(self.read(address, 16, what), what)
        if head.take(4) != b"GCOL" or head.number(1) != 1:
            raise DamagedFileError(f"{what} has not the signature GCOL")
        head.take(3)
        size = head.number(8)
        if size < 16:
            raise DamagedFileError(f"{what} gives itself {size} bytes")
        block, objects = _Cursor(self.read(address + 16, size - 16, what), what), dict[int, bytes]()
        while block.left >= 16:
            index, _, _, length = block.number(2), block.number(2), block.take(4), block.number(8)
            if index == 0:  # free space, up to the end
                break
            if index in objects:
                raise DamagedFileError(f"{what} has its object {index} twice")
            objects[index] = block.take(length)
            block.take(min(-length % 8, block.left))
        return objects


class _Cursor:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._position, self._what = data, 0, what

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return len(self._data) - self._position

    def take(self, length: int) -> bytes:
        """Take so many bytes."""
        if length > self.left:
            raise DamagedFileError(f"{self._what} is shorter than what it should hold")
        self._position += length
        return self._data[self._position - length : self._position]

    def number(self, width: int) -> int:
        """Take a number of so many bytes."""
        return int.from_bytes(self.take(width), "little")

    def text(self, length: int) -> str:
        """Take a text of so many bytes, up to its first NUL."""
        return self.take(length).partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _root_address(source: _Source) -> int:
    """Read the superblock; return the address of the root's header."""
    what = "the superblock"
    start = source.read(0, min(9, source.size), what)
    if start[:8] != SIGNATURE[: len(start)]:
        raise DamagedFileError("it is not an HDF5 file")
    if len(start) < 9:
        raise TruncatedFileError(f"only {source.size} bytes are there")
    version = start[8]
    if source.size < 48:  # the shortest superblock
        raise TruncatedFileError(f"only {source.size} bytes are there")
    if version in (2, 3):
        cursor = source.checked(0, 48, what, SIGNATURE[:4])
        cursor.take(5)
        widths, _flags = (cursor.number(1), cursor.number(1)), cursor.number(1)
        base, _extension, end, root = (cursor.number(8) for _ in range(4))
    elif version in (0, 1):
        source.unchecked.add(f"a superblock of version {version}")
        length = 96 if version == 0 else 100
        if source.size < length:
            raise TruncatedFileError(f"only {source.size} bytes are there")
        cursor = _Cursor(source.read(0, length, what), what)
        cursor.take(13)
        widths = cursor.number(1), cursor.number(1)
        cursor.take(9 if version == 0 else 13)
        base, _free, end, _driver, _name, root = (cursor.number(8) for _ in range(6))
    else:
        raise DamagedFileError(f"its superblock has version {version}, which no writer of caches makes")
    if widths != (8, 8) or base != 0:
        raise DamagedFileError("its addresses are not of 8 bytes from the start of the file")
    if end > source.size:
        raise TruncatedFileError(f"only {source.size} of {end} bytes are there")
    return root


_Message = tuple[int, int, bytes]  # type, flags, content


def _messages(source: _Source, address: int) -> Iterator[_Message]:
    """Read all messages of an object header, of either version."""
    what = f"the object header at {address}"
    start = source.read(address, min(16, max(0, source.size - address)), what)
    if start[:4] != b"OHDR":
        yield from _messages_1(source, _Cursor(start, what), address, what)
        return
    head = _Cursor(start, what)
    head.take(4)
    version, flags = head.number(1), head.number(1)
    if version != 2:
        raise DamagedFileError(f"{what} has version {version}")
    skipped = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(source.read(address + skipped, width, what), "little")
    cursor = source.checked(address, skipped + width + length + 4, what, b"OHDR")
    cursor.take(skipped + width - 4)
    waiting, seen = deque([cursor]), {address}
    overhead = 6 if flags & 0x04 else 4
    while waiting:
        cursor = waiting.popleft()
        while cursor.left >= overhead:  # what is left over is a gap
            kind, size, message_flags = cursor.number(1), cursor.number(2), cursor.number(1)
            cursor.take(overhead - 4)
            content = cursor.take(size)
            if kind != _CONTINUATION:
                yield kind, message_flags, content
                continue
            block = _continuation(content, seen, what)
            waiting.append(source.checked(*block, f"{what}, continued at {block[0]},", b"OCHK"))


def _messages_1(source: _Source, head: _Cursor, address: int, what: str) -> Iterator[_Message]:
    version, _, n_messages, _, length = (head.number(width) for width in (1, 1, 2, 4, 4))
    if version != 1:
        raise DamagedFileError(f"{what} is damaged: it has no signature and version {version}")
    source.unchecked.add("object headers of version 1")
    waiting, seen = deque([_Cursor(source.read(address + 16, length, what), what)]), {address}
    while waiting:
        cursor = waiting.popleft()
        while cursor.left >= 8 and n_messages:
            kind, size, message_flags = cursor.number(2), cursor.number(2), cursor.number(1)
            cursor.take(3)
            content = cursor.take(size)
            n_messages -= 1
            if kind != _CONTINUATION:
                yield kind, message_flags, content
                continue
            block = _continuation(content, seen, what)
            waiting.append(_Cursor(source.read(*block, what), what))
    if n_messages:
        raise DamagedFileError(f"{what} has fewer messages than it says")


def _continuation(content: bytes, seen: set[int], what: str) -> tuple[int, int]:
    cursor = _Cursor(content, what)
    address, length = cursor.number(8), cursor.number(8)
    if address in seen:
        raise DamagedFileError(f"{what} continues in itself")
    seen.add(address)
    return address, length


def _array(source: _Source, path: str, messages: list[_Message], attributes: Attributes) -> StoredArray:
    """Find out where an array stands and what it holds; or why it may not stand in a cache."""
    try:
        content: dict[int, bytes] = {}
        for kind, flags, data in messages:
            if kind == _EXTERNAL:
                raise DamagedFileError("has its bytes in another file, which is never read")
            if kind == _FILTERS and data[1:2] != b"\0":
                raise DamagedFileError("is compressed or filtered")
            if kind in (_DATASPACE, _DATATYPE, _LAYOUT):
                if flags & _SHARED:
                    raise DamagedFileError("has a type that stands elsewhere")
                content[kind] = data
        if len(content) != 3:
            raise DamagedFileError("has no shape, type or place")
        shape = _shape(_Cursor(content[_DATASPACE], path))
        if shape is None:
            raise DamagedFileError("is empty, without a shape")
        kind_of = _datatype(_Cursor(content[_DATATYPE], path))
        if kind_of.variable:
            raise DamagedFileError("holds text of variable length")
        offset, stored = _place(_Cursor(content[_LAYOUT], path))
        array = StoredArray(path, shape, kind_of.dtype, offset, attributes, source.descriptor)
        if array.nbytes == 0:
            return array
        if stored is not None and stored != array.nbytes:
            raise DamagedFileError(f"takes {stored} bytes, but its shape asks for {array.nbytes}")
        if offset == _UNDEFINED:
            raise DamagedFileError("was never written")
        if offset + array.nbytes > source.size:
            raise DamagedFileError("lies outside the file")
        return array
    except DamagedFileError as error:
        return StoredArray(path, (), np.dtype("u1"), 0, attributes, source.descriptor, problem=str(error))


def _shape(cursor: _Cursor) -> tuple[int, ...] | None:
    """Read a dataspace; None if it holds nothing."""
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


def _place(cursor: _Cursor) -> tuple[int, int | None]:
    """Read where a contiguous array stands, and how many bytes it takes."""
    version, kind = cursor.number(1), cursor.number(1)
    if version not in (3, 4) or kind != 1:
        kinds = {0: "in its header", 2: "in chunks", 3: "as a view of other arrays"}
        raise DamagedFileError(f"is stored {kinds.get(kind, 'in an unknown way')}, not contiguously")
    return cursor.number(8), cursor.number(8)


@dataclass(frozen=True)
class _Datatype:
    dtype: np.dtype[Any]
    variable: bool = False  # text of variable length, in the global heap


def _datatype(cursor: _Cursor) -> _Datatype:
    """Read a type: numbers of NumPy's own, bool as h5py stores it, text of either kind; anything else is refused."""
    head, bits, size = cursor.number(1), cursor.number(3), cursor.number(4)
    kind = head & 0x0F
    if kind == 0 and size in (1, 2, 4, 8) and cursor.number(2) == 0 and cursor.number(2) == 8 * size:
        if not bits & ~0x09:
            order, sign = "<>"[bits & 1], "iu"[not bits & 8]
            return _Datatype(np.dtype(f"{order}{sign}{size}"))
    elif kind == 1 and size in _FLOATS and not bits & 0x40:
        properties = tuple(cursor.number(width) for width in (2, 2, 1, 1, 1, 1, 4))
        if properties == _FLOATS[size] and bits & ~0x0F01 == 0x20 | (8 * size - 1) << 8 & ~0x0F01:
            return _Datatype(np.dtype(f"{'<>'[bits & 1]}f{size}"))
    elif kind == 3 and size > 0:
        return _Datatype(np.dtype(f"S{size}")) if size < 1 << 31 else _refuse_type()
    elif kind == 8 and size == 1 and bits == 2 and _is_bool(cursor, head >> 4):
        return _Datatype(np.dtype(bool))
    elif kind == 9 and bits & 0x0F == 1 and size == 16:
        return _Datatype(np.dtype(object), variable=True)
    return _refuse_type()


# Bit offset, precision, place and size of the exponent, place and size of the mantissa, bias: IEEE 754.
_FLOATS: Final = {2: (0, 16, 10, 5, 0, 10, 15), 4: (0, 32, 23, 8, 0, 23, 127), 8: (0, 64, 52, 11, 0, 52, 1023)}


def _refuse_type() -> _Datatype:
    raise DamagedFileError("has a type that is none of those a cache may use")


def _is_bool(cursor: _Cursor, version: int) -> bool:
    """Whether an enumeration of two is h5py's bool: FALSE 0, TRUE 1 over bytes."""
    if _datatype(cursor).dtype.itemsize != 1:
        return False
    names = (b"FALSE\0", b"TRUE\0")
    if version < 3:  # padded to multiples of 8
        names = (b"FALSE\0\0\0", b"TRUE\0\0\0\0")
    return all(cursor.take(len(name)) == name for name in names) and cursor.take(2) == b"\0\1"


def _attributes(source: _Source, messages: list[_Message]) -> Attributes:
    """Read all attributes of an object, in its header or in a heap beside it."""
    attributes = Attributes()
    for kind, flags, data in messages:
        if kind == _ATTRIBUTE:
            _add_attribute(source, attributes, data, flags)
        elif kind == _ATTRIBUTE_INFO:
            cursor = _Cursor(data, "the attributes")
            _version, info = cursor.number(1), cursor.number(1)
            cursor.take(2 if info & 1 else 0)
            heap_address, tree_address = cursor.number(8), cursor.number(8)
            if heap_address == _UNDEFINED:
                continue
            heap = _FractalHeap(source, heap_address)
            for record in _tree_records(source, tree_address, 8, 17):
                _add_attribute(source, attributes, heap.get(record[:8]), record[8])
    return attributes


def _add_attribute(source: _Source, attributes: Attributes, data: bytes, message_flags: int) -> None:
    cursor = _Cursor(data, "an attribute")
    version, flags, sizes = cursor.number(1), cursor.number(1), [cursor.number(2) for _ in range(3)]
    if version not in (1, 2, 3) or message_flags & _SHARED:
        raise DamagedFileError("an attribute is of an unknown kind")
    if version == 3:
        cursor.take(1)  # the name's character set; it is UTF-8 or ASCII
    taken: list[bytes] = []
    for size in sizes:
        taken.append(cursor.take(size))
        if version == 1:
            cursor.take(min(-size % 8, cursor.left))
    name = taken[0].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    if name in attributes or name in attributes.problems:
        raise DamagedFileError(f"attribute {name} is there twice")
    try:
        if flags and version > 1:
            raise DamagedFileError("has a type that stands elsewhere")
        attributes[name] = _attribute_value(source, _Cursor(taken[1], name), _Cursor(taken[2], name), cursor)
    except DamagedFileError as error:
        attributes.problems[name] = f"attribute {name} {error}"


def _attribute_value(source: _Source, kind: _Cursor, space: _Cursor, data: _Cursor) -> Any:
    found, shape = _datatype(kind), _shape(space)
    if shape is None:
        raise DamagedFileError("is empty, without a value")
    count = 1
    for length in shape:
        count *= length
    if found.variable:
        if 16 * count > data.left:
            raise DamagedFileError("has fewer values than its shape asks for")
        texts = []
        for _ in range(count):
            length, address, index = data.number(4), data.number(8), data.number(4)
            texts.append(source.heap_text(address, index, length) if length else b"")
    else:
        raw = data.take(count * found.dtype.itemsize)
        if found.dtype == np.dtype(bool) and raw.strip(b"\0\1"):
            raise DamagedFileError("is neither true nor false")
        values = np.frombuffer(raw, dtype=found.dtype).reshape(shape)
        if found.dtype.kind != "S":
            return values[()]
        texts = values.reshape(-1).tolist()
    if len(shape) > 1:
        raise DamagedFileError(f"holds text in {len(shape)} axes")
    decoded = [text.decode("utf-8", "surrogateescape") for text in texts]
    return decoded if shape else decoded[0]


def _links(source: _Source, messages: list[_Message]) -> Iterator[tuple[str, int | str]]:
    """Read the names of a group, each with the address of its object, or with what is wrong with it."""
    for kind, _, data in messages:
        if kind == _LINK:
            yield _link(data)
        elif kind == _LINK_INFO:
            cursor = _Cursor(data, "the names of a group")
            _version, flags = cursor.number(1), cursor.number(1)
            cursor.take(8 if flags & 1 else 0)
            heap_address, tree_address = cursor.number(8), cursor.number(8)
            if heap_address == _UNDEFINED:
                continue
            heap = _FractalHeap(source, heap_address)
            for record in _tree_records(source, tree_address, 5, 11):
                yield _link(heap.get(record[4:]))
        elif kind == _SYMBOL_TABLE:
            cursor = _Cursor(data, "the names of a group")
            yield from _old_links(source, cursor.number(8), cursor.number(8))


def _link(data: bytes) -> tuple[str, int | str]:
    cursor = _Cursor(data, "a name")
    version, flags = cursor.number(1), cursor.number(1)
    if version != 1:
        raise DamagedFileError("a name in a group is of an unknown kind")
    kind = cursor.number(1) if flags & 0x08 else 0
    cursor.take((8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0))
    name = cursor.text(cursor.number(1 << (flags & 3)))
    if kind == 0:
        return name, cursor.number(8)
    return name, _LINK_KINDS.get(kind, "is a link of an unknown kind")


_LINK_KINDS: Final = {
    1: "is a soft link, which is not followed",
    64: "is a link to another file, which is not followed",
}


def _old_links(source: _Source, tree: int, heap_address: int) -> Iterator[tuple[str, int | str]]:
    """Read the names of a group of the old kind: a tree of tables of symbols, and a heap of their names."""
    what = f"the group at {tree}"
    head = _Cursor(source.read(heap_address, 32, what), what)
    if head.take(5) != b"HEAP\0":
        raise DamagedFileError(f"{what} has not the signature HEAP")
    head.take(3)
    length, _free, address = (head.number(8) for _ in range(3))
    names = source.read(address, length, what)
    waiting, seen = deque([tree]), set[int]()
    while waiting:
        address = waiting.popleft()
        if address in seen:
            raise DamagedFileError(f"{what} leads back to itself")
        seen.add(address)
        head = _Cursor(source.read(address, 24, what), what)
        signature = head.take(4)
        if signature == b"TREE":
            _kind, _level, used = head.number(1), head.number(1), head.number(2)
            body = _Cursor(source.read(address + 24, 8 + 16 * used, what), what)
            body.take(8)
            for _ in range(used):
                waiting.append(body.number(8))
                body.take(8)
        elif signature == b"SNOD":
            _version, _, used = head.number(1), head.number(1), head.number(2)
            body = _Cursor(source.read(address + 8, 40 * used, what), what)
            for _ in range(used):
                place, target, kind = body.number(8), body.number(8), body.number(4)
                body.take(20)
                stop = names.find(b"\0", place)
                if stop < 0:
                    raise DamagedFileError(f"{what} has a name outside its heap")
                name = names[place:stop].decode("utf-8", "surrogateescape")
                yield name, _LINK_KINDS[1] if kind == 2 else target
        else:
            raise DamagedFileError(f"{what} has neither the signature TREE nor SNOD")


def _tree_records(source: _Source, address: int, kind: int, record_size: int) -> Iterator[bytes]:
    """Read all records of a B-tree of version 2."""
    what = f"the tree at {address}"
    head = source.checked(address, 38, what, b"BTHD")
    version, kind_there, node_size, size_there, depth = (head.number(width) for width in (1, 1, 4, 2, 2))
    head.take(2)
    root, n_root, n_all = head.number(8), head.number(2), head.number(8)
    if (version, kind_there, size_there) != (0, kind, record_size) or depth > DEPTH_LIMIT or node_size < 64:
        raise DamagedFileError(f"{what} is of an unknown kind")
    # How many bytes the counts in a node take follows from how many records its children can have.
    most = (node_size - 10) // record_size
    count_width, most_below, widths = _bytes_for(most), most, [0]
    for _ in range(depth):
        pointer = 8 + count_width + widths[-1]
        inner = (node_size - 10 - pointer) // (record_size + pointer)
        most_below = (inner + 1) * most_below + inner
        widths.append(_bytes_for(most_below))
    n, nodes, seen = 0, [(root, n_root, depth)] if n_root else [], set[int]()
    while nodes:
        address, count, level = nodes.pop()
        if address in seen:
            raise DamagedFileError(f"{what} leads back to itself")
        seen.add(address)
        n += count
        pointer = (8 + count_width + widths[level - 1]) * (count + 1) if level else 0
        node = source.checked(address, 10 + count * record_size + pointer, what, b"BTIN" if level else b"BTLF")
        node.take(2)
        yield from (node.take(record_size) for _ in range(count))
        for _ in range(count + 1 if level else 0):
            nodes.append((node.number(8), node.number(count_width), level - 1))
            node.take(widths[level - 1])
    if n != n_all:
        raise DamagedFileError(f"{what} has {n} records, but says {n_all}")


def _bytes_for(number: int) -> int:
    return (number.bit_length() - 1) // 8 + 1 if number else 1


class _FractalHeap:
    """The heap in which an object with many attributes or names keeps them; its objects by their ids."""

    def __init__(self, source: _Source, address: int) -> None:
        self._source, self._address, self._what = source, address, f"the heap at {address}"
        head = source.checked(address, 146, self._what, b"FRHP")
        version, _id_length, filters, flags, largest = (head.number(width) for width in (1, 2, 2, 1, 4))
        head.take(96)
        self._width, self._start, self._largest_block, bits = (head.number(width) for width in (2, 8, 8, 2))
        head.take(2)
        self._root, self._rows = head.number(8), head.number(2)
        if version or filters or not self._width or not self._start or self._largest_block < self._start or bits > 64:
            raise DamagedFileError(f"{self._what} is of an unknown kind")
        self._has_checksums = bool(flags & 2)
        self._offset_width = (bits + 7) // 8
        # log2, as HDF5 rounds it
        self._length_width = min((self._largest_block.bit_length() - 1 + 7) // 8, _bytes_for(largest))
        self._blocks: list[tuple[int, bytes]] | None = None

    def get(self, identity: bytes) -> bytes:
        """Return an object."""
        kind = identity[0] >> 4 & 3
        if kind == 2 and not identity[0] >> 6:
            return identity[1 : 2 + (identity[0] & 0x0F)]
        if kind or identity[0] >> 6:
            raise DamagedFileError(f"{self._what} has an object that is too large for an attribute of a cache")
        if self._blocks is None:
            self._blocks = sorted(self._read_blocks())
        place = int.from_bytes(identity[1 : 1 + self._offset_width], "little")
        rest = identity[1 + self._offset_width :]
        length = int.from_bytes(rest[: self._length_width], "little")
        block = bisect_right(self._blocks, place, key=lambda block: block[0]) - 1
        if block >= 0:
            start, data = self._blocks[block]
            if place + length <= start + len(data):
                return data[place - start : place - start + length]
        raise DamagedFileError(f"{self._what} lacks an object")

    def _read_blocks(self) -> Iterator[tuple[int, bytes]]:
        """Read all blocks, each with its first offset within the heap."""
        if self._root == _UNDEFINED:
            return
        waiting, seen = [(self._root, 0, self._rows, self._start)], set[int]()
        while waiting:
            address, start, rows, size = waiting.pop()
            if address in seen:
                raise DamagedFileError(f"{self._what} leads back to itself")
            seen.add(address)
            if not rows:
                yield start, self._direct_block(address, start, size)
                continue
            if rows > 64:
                raise DamagedFileError(f"{self._what} has {rows} rows of blocks")
            children = self._width * rows
            node = self._source.checked(address, 17 + self._offset_width + 8 * children, self._what, b"FHIB")
            node.take(9)
            if node.number(self._offset_width) != start:
                raise DamagedFileError(f"{self._what} has a block of another place")
            for child in range(children):
                row = child // self._width
                size = self._start << max(0, row - 1)
                below = node.number(8)
                if size > self._largest_block:
                    if below != _UNDEFINED:
                        raise DamagedFileError(f"{self._what} is larger than any cache needs")
                elif below != _UNDEFINED:
                    waiting.append((below, start, 0, size))
                start += size

    def _direct_block(self, address: int, start: int, size: int) -> bytes:
        data = self._source.read(address, size, self._what)
        cursor = _Cursor(data, self._what)
        if cursor.take(5) != b"FHDB\0" or cursor.number(8) != self._address:
            raise DamagedFileError(f"{self._what} has a block with a wrong signature")
        if cursor.number(self._offset_width) != start:
            raise DamagedFileError(f"{self._what} has a block of another place")
        if not self._has_checksums:
            self._source.unchecked.add("a heap without checksums")
        else:
            place = 13 + self._offset_width
            if cursor.number(4) != checksum(data[:place] + bytes(4) + data[place + 4 :]):
                raise DamagedFileError(f"{self._what} differs from its checksum")
        return data
