"""B-trees and heaps in which HDF5 keeps the attributes of an object, or the names of a group, if these are many."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from cafe.cache.format.hdf5.structures import DEPTH_LIMIT, UNDEFINED, ByteReader, Cursor, DamagedFileError, checksum


def tree_records(reader: ByteReader, address: int, kind: int, record_size: int) -> Iterator[bytes]:
    """Read all records of a B-tree of version 2."""
    what = f"the tree at {address}"
    head = reader.checked(address, 38, what, b"BTHD")
    version, stored_kind, node_size, stored_size, depth = (head.number(width) for width in (1, 1, 4, 2, 2))
    head.take(2)
    root, n_root, n_all = head.number(8), head.number(2), head.number(8)
    if (version, stored_kind, stored_size) != (0, kind, record_size) or depth > DEPTH_LIMIT or node_size < 64:
        raise DamagedFileError(f"{what} is of an unknown kind")
    # The width of the counts in a node follows from the largest number of records that its children can have.
    most_in_leaf = (node_size - 10) // record_size
    count_width, most_below, widths = _bytes_for(most_in_leaf), most_in_leaf, [0]
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
        node = reader.checked(address, 10 + count * record_size + pointer, what, b"BTIN" if level else b"BTLF")
        node.take(2)
        yield from (node.take(record_size) for _ in range(count))
        for _ in range(count + 1 if level else 0):
            nodes.append((node.number(8), node.number(count_width), level - 1))
            node.take(widths[level - 1])
    if n != n_all:
        raise DamagedFileError(f"{what} has {n} records, but says {n_all}")


class FractalHeap:
    """A fractal heap: stores attributes or names, which it returns by their ids."""

    def __init__(self, reader: ByteReader, address: int) -> None:
        self._source, self._address, self._what = reader, address, f"the heap at {address}"
        head = reader.checked(address, 146, self._what, b"FRHP")
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
        """Return the bytes of an object by its id."""
        # The id's first byte: bits 6 and 7 are the version, 4 and 5 the kind (0 managed, 1 huge, 2 tiny). A tiny object
        # is in its id, and its length less one in bits 0 to 3; a managed one is in a block, at an offset in the heap.
        version, kind = identity[0] >> 6, identity[0] >> 4 & 3
        if kind == 2 and not version:
            return identity[1 : 2 + (identity[0] & 0x0F)]
        if kind or version:
            raise DamagedFileError(f"{self._what} has an object that is too large for an attribute of a cache")
        if self._blocks is None:
            self._blocks = sorted(self._read_blocks())
        offset = int.from_bytes(identity[1 : 1 + self._offset_width], "little")
        after_offset = identity[1 + self._offset_width :]
        length = int.from_bytes(after_offset[: self._length_width], "little")
        block = bisect_right(self._blocks, offset, key=lambda block: block[0]) - 1
        if block >= 0:
            start, data = self._blocks[block]
            if offset + length <= start + len(data):
                return data[offset - start : offset - start + length]
        raise DamagedFileError(f"{self._what} lacks an object")

    def _read_blocks(self) -> Iterator[tuple[int, bytes]]:
        """Read all blocks; each comes after its offset within the heap."""
        if self._root == UNDEFINED:
            return
        unread, seen = [(self._root, 0, self._rows, self._start)], set[int]()
        while unread:
            address, start, rows, size = unread.pop()
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
                    if below != UNDEFINED:
                        raise DamagedFileError(f"{self._what} is larger than any cache needs")
                elif below != UNDEFINED:
                    unread.append((below, start, 0, size))
                start += size

    def _direct_block(self, address: int, start: int, size: int) -> bytes:
        """Read one block that holds objects."""
        data = self._source.read(address, size, self._what)
        cursor = Cursor(data, self._what)
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


def _bytes_for(number: int) -> int:
    """Return how many bytes hold numbers up to this one."""
    return (number.bit_length() - 1) // 8 + 1 if number else 1


def indexed_records(
    reader: ByteReader, cursor: Cursor, highest_index_bytes: int, *, kind: int, record_size: int
) -> Iterator[tuple[FractalHeap, bytes]]:
    """Read the records of what an object keeps in a heap: its links, or its attributes.

    Parameters
    ----------
    reader : ByteReader
        The file.
    cursor : Cursor
        At the start of the object's message LINK_INFO or ATTRIBUTE_INFO.
    highest_index_bytes : int
        Of the highest index by order of creation, which is there if the first flag is set.
    kind, record_size : int
        As of :func:`tree_records`.

    Yields
    ------
    heap : FractalHeap
        What the record points into.
    record : bytes
        In the order of the tree; none where the object keeps nothing in a heap.
    """
    _version, flags = cursor.number(1), cursor.number(1)
    cursor.take(highest_index_bytes if flags & 1 else 0)
    heap_address, tree_address = cursor.number(8), cursor.number(8)
    if heap_address == UNDEFINED:
        return
    heap = FractalHeap(reader, heap_address)
    for record in tree_records(reader, tree_address, kind, record_size):
        yield heap, record
