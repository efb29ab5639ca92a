"""How long the threads of a product wait for each other awake, on a machine that others use too."""

from __future__ import annotations

from collections.abc import MutableMapping

# Turns of the loop in which a thread of GNU's OpenMP, which PyTorch's wheels for Linux bring, waits before it sleeps.
# Its own default is 300,000, some milliseconds: with other programs at work the thread it waits for is not running, and
# each of the two dozen barriers of a step takes that long. 2,000 last longer than what lies between two operations of
# a step, so that on an idle machine no thread sleeps; the figures are in docs/performance.md.
SPINS = 2000
# Who sets one of them has decided.
_DECIDED = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Let threads sleep soon when they wait, where the environment does not say how; before torch is imported.

    Parameters
    ----------
    environment : mutable mapping of str to str
        ``os.environ``; read by OpenMP when it is loaded, and handed on to processes that are started.

    Examples
    --------
    >>> environment = {}
    >>> wait_briefly(environment)
    >>> environment
    {'GOMP_SPINCOUNT': '2000'}
    """
    if not any(name in environment for name in _DECIDED):
        environment["GOMP_SPINCOUNT"] = str(SPINS)
