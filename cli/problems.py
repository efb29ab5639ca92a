"""Turns whatever stops a verb into one sentence on stderr and an exit code."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from cafe.cli.screen import debugging, show
from cafe.errors import CafeError

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
_INTERRUPTED = "interrupted; what was finished before is whole, and the same command can be run again"

# Typer carries click's exceptions inside, or uses click's own, depending on its version;
# the class above its public BadParameter is the usage error in both.
_PYDANTIC_INTEGER = "Input should be a valid integer, unable to parse string as an integer"
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class InterruptedVerbError(Exception):
    """Ctrl-C or a signal ended a verb; the message says what is kept, where the verb knows."""


def run(call: Callable[[], Any]) -> int:
    """Run a command and return the exit code; never raises what a user could see as a traceback.

    Parameters
    ----------
    call : callable
        The command; may return an exit code, or None for 0.

    Returns
    -------
    int
        0 done, 1 failed on the way, 2 wrong usage or bad input, 130 interrupted.

    Examples
    --------
    >>> run(lambda: None)
    0
    """
    try:
        code = call()
    except (KeyboardInterrupt, InterruptedVerbError) as error:
        _say(str(error) or _INTERRUPTED)
        return INTERRUPTED
    except typer.Abort:
        _say(_INTERRUPTED)
        return INTERRUPTED
    except CafeError as error:
        return _report(str(error), error.exit_code)
    except _UsageError as error:
        return _report(_usage_message(error), WRONG)
    except OSError as error:
        return _report(_os_message(error), FAILED)
    except MemoryError:
        return _report("not enough memory; close other programs, or use a smaller data set or model", FAILED)
    except Exception as error:
        return _report(_unexpected(error), FAILED)
    if code == INTERRUPTED:
        _say(_INTERRUPTED)
    return code if isinstance(code, int) else DONE


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C within this block: finished work is kept, and a message says so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _report(message: str, code: int) -> int:
    if debugging():
        traceback.print_exc(file=sys.stderr)
    _say(message)
    return code


def _say(message: str) -> None:
    show(message, sys.stderr, mark="cafe:", colour="red")


def _usage_message(error: Any) -> str:
    message = str(error.format_message()).rstrip(".")
    message = message.replace(_PYDANTIC_INTEGER, "it takes a whole number") + _got(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "cafe"
    return f"{message[:1].lower()}{message[1:]}; see: {path} --help"


def _got(error: Any) -> str:
    """Return "; got VALUE" where Typer's message lacks the value, which its cause, an error of pydantic, has."""
    details = getattr(error.__cause__ or error.__context__, "errors", None)
    values = [repr(detail["input"]) for detail in details() if "input" in detail] if callable(details) else []
    return f"; got {', '.join(values)}" if values else ""


def _os_message(error: OSError) -> str:
    if error.strerror is None:
        return _unexpected(error)
    where = f": {error.filename}" if error.filename is not None else ""
    return f"{error.strerror[:1].lower()}{error.strerror[1:]}{where}"


def _unexpected(error: Exception) -> str:
    first_line = str(error).partition("\n")[0]
    what = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    return f"unexpected {what}; set CAFE_DEBUG=1 to see where"
