"""Ends what a thread computes between two layers of a tower, once it is told to.

A batch of a large tower takes a CPU tens of seconds, and whoever presses Ctrl-C should not wait for its end. A thread
looks at its own event before every module of torch, and before every layer of a tower that is made of functions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

_of_this_thread = threading.local()


class StoppedError(Exception):
    """The thread was told to end; raised by :func:`check_stopped` in that thread."""


def stop_this_thread_on(event: threading.Event) -> None:
    """Make :func:`check_stopped` raise in this thread once the event is set."""
    _of_this_thread.event = event


def check_stopped(*_: Any) -> None:
    """Raise StoppedError if this thread was told to end; any arguments are taken, so that it can be a hook of torch.

    Examples
    --------
    >>> check_stopped()  # nobody has told this thread to end
    """
    event = getattr(_of_this_thread, "event", None)
    if event is not None and event.is_set():
        raise StoppedError


def check_before_every_module() -> Callable[[], None]:
    """Call :func:`check_stopped` before every module of torch; what is returned ends that."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    return register_module_forward_pre_hook(check_stopped).remove
