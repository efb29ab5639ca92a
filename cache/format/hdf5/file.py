"""A whole HDF5 file: its groups, walked from the root, and all arrays below them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from cafe.cache.format.hdf5.headers import (
    DATASPACE,
    LAYOUT,
    LINK,
    LINK_INFO,
    SYMBOL_TABLE,
    Message,
    header_messages,
    root_address,
)
from cafe.cache.format.hdf5.indexes import indexed_records
from cafe.cache.format.hdf5.structures import (
    DEPTH_LIMIT,
    METADATA_LIMIT,
    ByteReader,
    Cursor,
    DamagedFileError,
)
from cafe.cache.format.hdf5.values import Attributes, StoredArray, read_array, read_attributes

_LINK_KINDS: Final = {
    1: "is a soft link, which is not followed",
    64: "is a link to another file, which is not followed",
}


class StoredFile:
    """An open file whose structures were all read and checked; the elements of arrays are read when asked for.

    Parameters
    ----------
    descriptor : int
        Open for reading; the caller closes it.
    metadata_limit : int, default=METADATA_LIMIT
        Bytes of all structures together, beyond which a file is refused.

    Attributes
    ----------
    attrs : Attributes
        Attributes of the root.
    arrays : dict of str to StoredArray
        Every array by its path, sorted, those that cannot be read included.
    groups : dict of str to Attributes
        Attributes of every group but the root, by its path.
    problems : dict of str to str
        The reason for each name that is neither an array nor a group, or leads out of the file.
    unchecked : set of str
        Older structures of the file, over which HDF5 has no checksum; a cache of format version 2 has none.

    Raises
    ------
    DamagedFileError
        If the file is truncated, damaged, or no HDF5 file.
    """

    def __init__(self, descriptor: int, metadata_limit: int = METADATA_LIMIT) -> None:
        self._reader = ByteReader(descriptor, metadata_limit)
        self.arrays: dict[str, StoredArray] = {}
        self.groups: dict[str, Attributes] = {}
        self.problems: dict[str, str] = {}
        self.attrs = self._walk("", root_address(self._reader), (), 0)
        self.arrays = dict(sorted(self.arrays.items()))
        self.unchecked = self._reader.unchecked

    def __contains__(self, path: str) -> bool:
        return path in self.arrays or path in self.groups or path in self.problems

    def __getitem__(self, path: str) -> StoredArray:
        """Return the array of a name. Raises DamagedFileError if the file has no such array."""
        if path in self.arrays:
            return self.arrays[path]
        if path in self.problems:
            raise DamagedFileError(f"{path} {self.problems[path]}")
        raise DamagedFileError(f"array {path} is missing")

    def _walk(self, path: str, address: int, above: tuple[int, ...], depth: int) -> Attributes:
        """Read an object and all objects below it, and return its attributes; ``above`` are the groups it lies in."""
        messages = list(header_messages(self._reader, address))
        attributes = read_attributes(self._reader, messages)
        kinds = {kind for kind, _, _ in messages}
        if LAYOUT in kinds or DATASPACE in kinds:
            if not path:
                raise DamagedFileError("the root is an array")
            self.arrays[path] = read_array(self._reader, path, messages, attributes)
            return attributes
        if path and not kinds & {LINK_INFO, LINK, SYMBOL_TABLE}:
            self.problems[path] = "is neither an array nor a group"
            return attributes
        if path:
            self.groups[path] = attributes
        for name, target in _read_links(self._reader, messages):
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


def _read_links(reader: ByteReader, messages: list[Message]) -> Iterator[tuple[str, int | str]]:
    """Yield the links of a group: each name with its object's address, or with a text on why none can be read."""
    for kind, _, data in messages:
        if kind == LINK:
            yield _read_link(data)
        elif kind == LINK_INFO:
            for heap, record in indexed_records(
                reader, Cursor(data, "the names of a group"), 8, kind=5, record_size=11
            ):
                yield _read_link(heap.get(record[4:]))
        elif kind == SYMBOL_TABLE:
            cursor = Cursor(data, "the names of a group")
            yield from _links_of_symbol_table(reader, cursor.number(8), cursor.number(8))


def _read_link(data: bytes) -> tuple[str, int | str]:
    """Return the name that a link message holds, with its object's address, or with a text on why none can be read."""
    cursor = Cursor(data, "a name")
    version, flags = cursor.number(1), cursor.number(1)
    if version != 1:
        raise DamagedFileError("a name in a group is of an unknown kind")
    kind = cursor.number(1) if flags & 0x08 else 0
    cursor.take((8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0))
    name = cursor.text(cursor.number(1 << (flags & 3)))
    if kind == 0:
        return name, cursor.number(8)
    return name, _LINK_KINDS.get(kind, "is a link of an unknown kind")


def _links_of_symbol_table(reader: ByteReader, tree: int, heap_address: int) -> Iterator[tuple[str, int | str]]:
    """Yield the links of a group in HDF5's old form (symbol tables, a heap of names), as :func:`_read_links` does."""
    what = f"the group at {tree}"
    head = Cursor(reader.read(heap_address, 32, what), what)
    if head.take(5) != b"HEAP\0":
        raise DamagedFileError(f"{what} has not the signature HEAP")
    head.take(3)
    length, _free, address = (head.number(8) for _ in range(3))
    names = reader.read(address, length, what)
    nodes, seen = deque([tree]), set[int]()
    while nodes:
        address = nodes.popleft()
        if address in seen:
            raise DamagedFileError(f"{what} leads back to itself")
        seen.add(address)
        head = Cursor(reader.read(address, 24, what), what)
        signature = head.take(4)
        if signature == b"TREE":
            _kind, _level, used = head.number(1), head.number(1), head.number(2)
            body = Cursor(reader.read(address + 24, 8 + 16 * used, what), what)
            body.take(8)
            for _ in range(used):
                nodes.append(body.number(8))
                body.take(8)
        elif signature == b"SNOD":
            _version, _, used = head.number(1), head.number(1), head.number(2)
            body = Cursor(reader.read(address + 8, 40 * used, what), what)
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
