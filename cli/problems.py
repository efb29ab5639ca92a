"""Turns whatever stops a verb into one sentence on stderr and an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
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
    """Ctrl-C or a signal ended a verb; its text says what is kept, if the verb has said so."""


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
        return _tell(str(error), error.exit_code)
    except _UsageError as error:
        return _tell(_usage_message(error), WRONG)
    except OSError as error:
        return _tell(_os_message(error), FAILED)
    except MemoryError:
        return _tell("not enough memory; close other programs, or use a smaller data set or model", FAILED)
    except Exception as error:
        return _tell(_unexpected(error), FAILED)
    if code == INTERRUPTED:
        _say(_INTERRUPTED)
    return code if isinstance(code, int) else DONE


def _tell(message: str, code: int) -> int:
    if debugging():
        traceback.print_exc(file=sys.stderr)
    _say(message)
    return code


def _say(message: str) -> None:
    show(message, sys.stderr, mark="cafe:", colour="red")


def _usage_message(error: Any) -> str:
    message = str(error.format_message()).rstrip(".")
    message = message.replace(_PYDANTIC_INTEGER, "it takes a whole number") + _given(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "cafe"
    return f"{message[:1].lower()}{message[1:]}; see: {path} --help"


def _given(error: Any) -> str:
    """Return what was given, where Typer's message leaves it out: it stands in the cause, which pydantic raised."""
    details = getattr(error.__cause__ or error.__context__, "errors", None)
    values = [repr(one["input"]) for one in details() if "input" in one] if callable(details) else []
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
