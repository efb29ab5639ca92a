"""What people see while a verb runs: prose and progress on stderr, the answer on stdout."""

from __future__ import annotations

import contextlib
import json as json_module
import os
import sys
import warnings
from types import TracebackType
from typing import Any, Self, TextIO

from cafe.cli.progress import Progress
from cafe.report.plain import plain

_COLOURS = {"red": "31", "yellow": "33", "green": "32", "bold": "1", "faint": "2"}


def colourful(stream: TextIO) -> bool:
    """Whether colours may be written: a terminal that is not dumb, and no ``NO_COLOR`` (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO) -> str:
    """Colour a text where the stream shows colours; leave it as it is elsewhere."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colourful(stream) else text


class Screen:
    """The screen of one verb, as a context manager.

    While it is open, Python's own warnings come out as one line each on stderr, and whatever a library
    prints goes to stderr, so that stdout holds the answer and nothing else.

    Parameters
    ----------
    json : bool, default False
        The answer is one JSON document.
    quiet : bool, default False
        No prose and no progress. Warnings stay: they are about the result.

    Examples
    --------
    >>> with Screen(json=True) as screen:
    ...     screen.answer({"acc1": float("nan")}, "never shown")
    {
      "acc1": null
    }
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self._stdout = sys.stdout
        self._stack = contextlib.ExitStack()
        self._warned: set[str] = set()

    def __enter__(self) -> Self:
        self._stdout = sys.stdout
        self._stack.enter_context(warnings.catch_warnings())
        self._stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        # Those are for the developers of the libraries; what is about the user's data is a UserWarning.
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = self._show_warning
        if self.quiet or not sys.stderr.isatty():
            # The bars of the hub's libraries follow the same rule as ours. Read when they are imported.
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def say(self, text: str = "") -> None:
        """Write prose to stderr, unless quiet."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def next_steps(self, *commands: str) -> None:
        """Name commands to go on with, on stderr, unless quiet."""
        for command in commands:
            self.say(f"  {paint(command, 'bold', sys.stderr)}")

    def warn(self, text: str) -> None:
        """Write a warning to stderr; the same one only once."""
        if text not in self._warned:
            self._warned.add(text)
            print(f"{paint('warning:', 'yellow', sys.stderr)} {text}", file=sys.stderr, flush=True)

    def progress(self, unit: str) -> Progress:
        """Return a progress bar; it is silent without a terminal and when quiet.

        Parameters
        ----------
        unit : str
            What is counted, such as ``"images"``.
        """
        return Progress(unit, sys.stderr, shown=not self.quiet and sys.stderr.isatty(), bold=colourful(sys.stderr))

    def answer(self, document: Any, text: str) -> None:
        """Write the answer to stdout: the document if JSON was asked for, else the text."""
        if self.json:
            text = json_module.dumps(plain(document), indent=2, allow_nan=False, ensure_ascii=False)
        print(text.rstrip("\n"), file=self._stdout, flush=True)

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        self.warn(" ".join(str(message).split()))
