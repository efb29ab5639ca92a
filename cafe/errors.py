"""The one family of exceptions.

Every error that a user can cause is a :class:`CafeError`, written as a message to a person: what
was given, what is possible, where. The command line prints the message and leaves with
``exit_code``; nothing else in the project decides exit codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class CafeError(Exception):
    """Something failed on the way (exit code 1). Remedy: read the message, mend the cause, run again."""

    exit_code = 1


class InputError(CafeError, ValueError):
    """What was given cannot be used (exit code 2). Remedy: change the option, argument or array named."""

    exit_code = 2


class WrongTypeError(InputError, TypeError):
    """What was given is of a type that cannot be used (exit code 2). Remedy: give what the message names."""


class CacheError(InputError):
    """A cache is truncated, foreign, or made for something else. Remedy: extract again, or name another file."""


class UnreadableImageError(CafeError):
    """One image cannot be decoded. Remedy: repair or remove the file; extraction records it and goes on."""

    def __init__(self, sample_id: str, reason: str) -> None:
        self.sample_id = sample_id
        self.reason = reason
        super().__init__(f"image {sample_id!r} cannot be read: {reason}")

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str]]:
        # Exceptions cross process borders by calling the class with `args`, which hold one string here.
        return (type(self), (self.sample_id, self.reason))


class MissingDependencyError(CafeError, ImportError):
    """An optional package is not installed. Remedy: install the extra that the message names."""

    exit_code = 2

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'cafe-clip[{extra}]'"
        )


class CafeWarning(UserWarning):
    """Something about the user's data that he should know; every warning of cafe is one.

    The command line shows these, and none of the libraries that it uses, which speak to their developers.
    """


def unknown_name(kind: str, given: str, known: Iterable[str]) -> InputError:
    """Make the error for a name that is not known, with the nearest one that is.

    Parameters
    ----------
    kind : str
        What the name should have been, such as ``"method"``.
    given : str
        What was given.
    known : iterable of str
        Every name that is possible.

    Returns
    -------
    InputError
        To be raised by the caller.

    Examples
    --------
    >>> str(unknown_name("method", "zeroshot", ["zero-shot", "clip-adapter"]))
    "unknown method 'zeroshot'; did you mean 'zero-shot'? Possible: clip-adapter, zero-shot"
    """
    names = sorted(known)
    near = get_close_matches(given.lower(), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return InputError(f"unknown {kind} {given!r}{hint} Possible: {', '.join(names)}")
