"""Small problems run on one thread.

A step of a few-shot fit is a handful of small products. Two threads gain nothing on them, and on a machine
that is busy elsewhere they cost much: each waits, spinning, for the other to be scheduled (a demo that took
30 s alone took 200 s beside another program).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Multiply-adds below which a second thread costs more than it gains; about 2 ms on one core.
SMALL = 50_000_000


@contextmanager
def threads_for(multiply_adds: float) -> Iterator[None]:
    """Run the body on one thread if each of its steps is small, else leave threads as they are.

    Parameters
    ----------
    multiply_adds : float
        Of one step, whatever repeats inside the body.

    Examples
    --------
    >>> with threads_for(1000):
    ...     pass
    """
    if multiply_adds >= SMALL:
        yield
        return
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
