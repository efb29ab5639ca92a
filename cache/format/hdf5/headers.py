"""The superblock of an HDF5 file and the messages of its object headers, of both versions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from cafe.cache.format.hdf5.structures import (
    SIGNATURE,
    ByteReader,
    Cursor,
    DamagedFileError,
    TruncatedFileError,
)

# Types of messages in object headers.
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15
SHARED = 0x02  # flag of a message whose content is in another object

Message = tuple[int, int, bytes]  # type, flags, content


def root_address(reader: ByteReader) -> int:
    """Read the superblock, and return the address of the root group's object header."""
    what = "the superblock"
    start = reader.read(0, min(9, reader.size), what)
    if start[:8] != SIGNATURE[: len(start)]:
        raise DamagedFileError("it is not an HDF5 file")
    if len(start) < 9:
        raise TruncatedFileError(f"only {reader.size} bytes are there")
    version = start[8]
    if reader.size < 48:  # the shortest superblock
        raise TruncatedFileError(f"only {reader.size} bytes are there")
    if version in (2, 3):
        cursor = reader.checked(0, 48, what, SIGNATURE[:4])
        cursor.take(5)
        widths, _flags = (cursor.number(1), cursor.number(1)), cursor.number(1)
        base, _extension, end, root = (cursor.number(8) for _ in range(4))
    elif version in (0, 1):
        reader.unchecked.add(f"a superblock of version {version}")
        length = 96 if version == 0 else 100
        if reader.size < length:
            raise TruncatedFileError(f"only {reader.size} bytes are there")
        cursor = Cursor(reader.read(0, length, what), what)
        cursor.take(13)
        widths = cursor.number(1), cursor.number(1)
        cursor.take(9 if version == 0 else 13)
        base, _free, end, _driver, _name, root = (cursor.number(8) for _ in range(6))
    else:
        raise DamagedFileError(f"its superblock has version {version}, which no writer of caches makes")
    if widths != (8, 8) or base != 0:
        raise DamagedFileError("its addresses are not of 8 bytes from the start of the file")
    if end > reader.size:
        raise TruncatedFileError(f"only {reader.size} of {end} bytes are there")
    return root


def header_messages(reader: ByteReader, address: int) -> Iterator[Message]:
    """Read all messages of an object header, of either version."""
    what = f"the object header at {address}"
    start = reader.read(address, min(16, max(0, reader.size - address)), what)
    if start[:4] != b"OHDR":
        yield from _messages_of_version_1(reader, Cursor(start, what), address, what)
        return
    head = Cursor(start, what)
    head.take(4)
    version, flags = head.number(1), head.number(1)
    if version != 2:
        raise DamagedFileError(f"{what} has version {version}")
    skipped = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(reader.read(address + skipped, width, what), "little")
    cursor = reader.checked(address, skipped + width + length + 4, what, b"OHDR")
    cursor.take(skipped + width - 4)
    blocks, seen = deque([cursor]), {address}
    overhead = 6 if flags & 0x04 else 4
    while blocks:
        cursor = blocks.popleft()
        while cursor.left >= overhead:  # fewer bytes than that are a gap
            kind, size, message_flags = cursor.number(1), cursor.number(2), cursor.number(1)
            cursor.take(overhead - 4)
            content = cursor.take(size)
            if kind != CONTINUATION:
                yield kind, message_flags, content
                continue
            block = _continuation(content, seen, what)
            blocks.append(reader.checked(*block, f"{what}, continued at {block[0]},", b"OCHK"))


def _messages_of_version_1(reader: ByteReader, head: Cursor, address: int, what: str) -> Iterator[Message]:
    """Read all messages of an object header of version 1, which has no checksum."""
    version, _, n_messages, _, length = (head.number(width) for width in (1, 1, 2, 4, 4))
    if version != 1:
        raise DamagedFileError(f"{what} is damaged: it has no signature and version {version}")
    reader.unchecked.add("object headers of version 1")
    blocks, seen = deque([Cursor(reader.read(address + 16, length, what), what)]), {address}
    while blocks:
        cursor = blocks.popleft()
        while cursor.left >= 8 and n_messages:
            kind, size, message_flags = cursor.number(2), cursor.number(2), cursor.number(1)
            cursor.take(3)
            content = cursor.take(size)
            n_messages -= 1
            if kind != CONTINUATION:
                yield kind, message_flags, content
                continue
            block = _continuation(content, seen, what)
            blocks.append(Cursor(reader.read(*block, what), what))
    if n_messages:
        raise DamagedFileError(f"{what} has fewer messages than it says")


def _continuation(content: bytes, seen: set[int], what: str) -> tuple[int, int]:
    """Return address and length of the block in which a header continues; no block is read twice."""
    cursor = Cursor(content, what)
    address, length = cursor.number(8), cursor.number(8)
    if address in seen:
        raise DamagedFileError(f"{what} continues in itself")
    seen.add(address)
    return address, length
