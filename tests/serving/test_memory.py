"""Freed memory goes back to the system, where the C library can be asked."""

import ctypes
import os
import sys
from pathlib import Path

import pytest

from cafe.serving.memory import give_back_free_memory


def resident():
    """Bytes of this process in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")), reason="the C library is not glibc"
)
def test_free_memory_between_pieces_in_use_is_given_back():
    pieces = [bytearray(64 * 1024) for _ in range(1024)]  # too small for glibc to map each for itself
    kept = pieces[::64]
    before = resident()
    del pieces
    assert give_back_free_memory()
    assert resident() < before - 32 * 2**20
    assert all(len(piece) == 64 * 1024 for piece in kept)
