"""Memory that was freed and not given back: the C library keeps it in pieces, of which a server gathers more and more.

Images, crops and answers of many sizes are taken and freed by several threads, and each leaves gaps that the next does
not fill. glibc gives a gap back only at the end of its heap, unless it is asked.
"""

from __future__ import annotations

import ctypes

# Between two questions. One takes some milliseconds, in which other threads wait where they ask for memory.
SECONDS_BETWEEN = 10.0


def give_back_free_memory() -> bool:
    """Ask the C library to give whole pages that nobody uses back to the system.

    Returns
    -------
    bool
        Whether it gave any; False where the C library is not glibc, and has no such call.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    return bool(trim(ctypes.c_size_t(0)))
