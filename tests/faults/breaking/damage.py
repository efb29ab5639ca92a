"""Damages bytes: bits, pages and ends; and tells which bytes of a file are what."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import h5py

PAGE = 4096
Span = tuple[int, int]  # from, to


def flip_bit(data: bytes, position: int, bit: int) -> bytes:
    """Return the bytes with one bit flipped.

    Examples
    --------
    >>> flip_bit(b"abc", 1, 0)
    b'acc'
    """
    broken = bytearray(data)
    broken[position] ^= 1 << bit
    return bytes(broken)


def page_damages(data: bytes, rng: random.Random) -> list[tuple[str, bytes]]:
    """Return every truncation at a page, every page of zeros, and swaps of each page with another.

    Only those that differ from the data.
    """
    pages = range(0, len(data), PAGE)
    damages = [(f"truncated to {end}", data[:end]) for end in pages]
    for start in pages:
        size = len(data[start : start + PAGE])
        damages.append((f"zeros from {start}", data[:start] + bytes(size) + data[start + size :]))
    whole = [start for start in pages if start + PAGE <= len(data)]
    for start in whole:
        other = rng.choice(whole)
        first, last = sorted((start, other))
        swapped = bytearray(data)
        swapped[first : first + PAGE], swapped[last : last + PAGE] = (
            data[last : last + PAGE],
            data[first : first + PAGE],
        )
        damages.append((f"pages at {first} and {last} swapped", bytes(swapped)))
    return [(what, broken) for what, broken in damages if broken != data]


def array_spans(path: Path) -> dict[str, Span]:
    """Return where each array of an HDF5 file has its bytes."""
    spans: dict[str, Span] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.id.get_offset() is not None:
            offset = item.id.get_offset()
            spans[name] = (offset, offset + item.id.get_storage_size())

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(visit)
    return spans


def metadata_positions(data: bytes, arrays: Sequence[Span]) -> list[int]:
    """Return the bytes of an HDF5 file that are not zero and belong to no array."""
    taken = bytearray(len(data))
    for start, stop in arrays:
        taken[start:stop] = b"\1" * (stop - start)
    return [i for i, byte in enumerate(data) if byte and not taken[i]]


def heap_positions(data: bytes) -> list[int]:
    """Return the bytes of HDF5's global heap collections, in which text of variable length stands; none in new files.

    A collection is ``GCOL``, a version byte, three of zeros, and its size in eight bytes.
    """
    positions: list[int] = []
    start = data.find(b"GCOL")
    while start >= 0:
        size = int.from_bytes(data[start + 8 : start + 16], "little")
        positions += range(start, min(start + size, len(data)))
        start = data.find(b"GCOL", start + max(size, 4))
    return positions


def header_positions(data: bytes) -> list[int]:
    """Return the bytes of HDF5's object headers: ``OHDR``, with the size of the first chunk in it, and ``OCHK``.

    The size of a continuation does not stand in it; it ends before the next signature or at half a kilobyte.
    """
    positions: set[int] = set()
    start = data.find(b"OHDR")
    while start >= 0:
        flags = data[start + 5]
        begin = start + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(data[begin : begin + width], "little")
        positions.update(range(start, min(begin + width + size + 4, len(data))))
        start = data.find(b"OHDR", start + 4)
    start = data.find(b"OCHK")
    while start >= 0:
        following = [place for mark in (b"OHDR", b"OCHK", b"GCOL") if (place := data.find(mark, start + 4)) >= 0]
        positions.update(range(start, min([start + 512, len(data), *following])))
        start = data.find(b"OCHK", start + 4)
    return sorted(positions)
