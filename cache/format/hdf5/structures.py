"""Bytes of an HDF5 file, read within bounds and compared with their checksums."""

from __future__ import annotations

import os
import struct
from typing import Final

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
METADATA_LIMIT: Final = 1 << 23  # bytes of all structures; a cache of a thousand splits has 3 MB of headers
DEPTH_LIMIT: Final = 16  # levels of groups or tree nodes; a cache has 2 levels of groups
UNDEFINED: Final = (1 << 64) - 1  # HDF5's address of a structure that does not exist


class DamagedFileError(ValueError):
    """The file breaks a rule of HDF5, or has a feature of HDF5 that a cache may not have."""


class TruncatedFileError(DamagedFileError):
    """The file is shorter than its superblock says."""


class ByteReader:
    """Reads structures of a file: never outside of it, and no more than a limit in all.

    Parameters
    ----------
    descriptor : int
        Open for reading.
    metadata_limit : int
        Bytes of all structures together.

    Attributes
    ----------
    descriptor : int
        As given.
    size : int
        Bytes of the file.
    unchecked : set of str
        Kinds of structures read that have no checksum.
    """

    def __init__(self, descriptor: int, metadata_limit: int = METADATA_LIMIT) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.unchecked = set[str]()
        self._limit = self._left = metadata_limit
        self._heaps: dict[int, dict[int, bytes]] = {}

    def read(self, address: int, length: int, what: str) -> bytes:
        """Read the bytes of a structure, which messages call ``what``.

        Raises
        ------
        DamagedFileError
            If the bytes lie outside the file, or all structures read so far exceed the limit.
        """
        if address + length > self.size:
            raise DamagedFileError(f"{what} lies outside the file")
        self._left -= length + 8  # empty structures are counted too
        if self._left < 0:
            raise DamagedFileError(f"its structure is longer than {self._limit >> 20} MB, which no cache needs")
        data = os.pread(self.descriptor, length, address)
        if len(data) != length:
            raise DamagedFileError(f"{what} is cut off")
        return data

    def checked(self, address: int, length: int, what: str, signature: bytes) -> Cursor:
        """Read a structure that begins with a signature and ends with a checksum."""
        data = self.read(address, length, what)
        if length < len(signature) + 4 or not data.startswith(signature):
            raise DamagedFileError(f"{what} has not the signature {signature.decode()}")
        if checksum(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise DamagedFileError(f"{what} differs from its checksum")
        return Cursor(data[len(signature) : -4], what)

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
        """Read the objects of a block of the global heap; every step goes forward, so that reading ends."""
        what = f"the heap block at {address}"
        head = Cursor(self.read(address, 16, what), what)
        if head.take(4) != b"GCOL" or head.number(1) != 1:
            raise DamagedFileError(f"{what} has not the signature GCOL")
        head.take(3)
        size = head.number(8)
        if size < 16:
            raise DamagedFileError(f"{what} gives itself {size} bytes")
        block, objects = Cursor(self.read(address + 16, size - 16, what), what), dict[int, bytes]()
        while block.left >= 16:
            index, _, _, length = block.number(2), block.number(2), block.take(4), block.number(8)
            if index == 0:  # free space, up to the end
                break
            if index in objects:
                raise DamagedFileError(f"{what} has its object {index} twice")
            objects[index] = block.take(length)
            block.take(min(-length % 8, block.left))
        return objects


class Cursor:
    """The bytes of one structure, taken from front to back."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._position, self._what = data, 0, what

    @property
    def left(self) -> int:
        """Number of bytes that are left."""
        return len(self._data) - self._position

    def take(self, length: int) -> bytes:
        """Take bytes."""
        if length > self.left:
            raise DamagedFileError(f"{self._what} is shorter than what it should hold")
        self._position += length
        return self._data[self._position - length : self._position]

    def number(self, width: int) -> int:
        """Take an unsigned little-endian number of ``width`` bytes."""
        return int.from_bytes(self.take(width), "little")

    def text(self, length: int) -> str:
        """Take a text, which ends at its first NUL."""
        return self.take(length).partition(b"\0")[0].decode("utf-8", "surrogateescape")


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
