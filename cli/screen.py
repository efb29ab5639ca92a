"""What people see while a verb runs: prose and progress on stderr, the answer on stdout."""

from __future__ import annotations

import contextlib
import json as json_module
import logging
import os
import shutil
import sys
import time
import warnings
from types import TracebackType
from typing import Any, Self, TextIO

from cafe.errors import CafeWarning
from cafe.names import visible, visible_json, visible_name
from cafe.report.rows import plain

_BAR_WIDTH = 24  # columns
CURRENT = "*"  # marks the cache or run that is taken where none is named
_PAUSE = 0.1  # seconds between two drawings
_COLOURS = {"red": "31", "yellow": "33", "green": "32", "bold": "1", "faint": "2"}


def colourful(stream: TextIO) -> bool:
    """Whether colours may be written: a terminal that is not dumb, and no ``NO_COLOR`` (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def takes_unicode(stream: TextIO) -> bool:
    """Whether a stream can show every letter."""
    return "utf" in (getattr(stream, "encoding", None) or "utf-8").lower()


def show(text: str, stream: TextIO, *, mark: str = "", colour: str | None = None) -> None:
    """Write a text that may hold names of strangers: nothing in it is a command to the terminal.

    Every word that cafe writes to a terminal goes through here, but for the progress bar, which does the same.

    Parameters
    ----------
    text : str
        Escape sequences in it are made visible. Letters that the stream cannot show are escaped, so that no name ends a
        verb.
    stream : text stream
        Where it is written.
    mark : str, default ""
        Stands before the text, such as ``"warning:"``.
    colour : str or None
        Of the mark, or of the text where there is no mark; None is bold for a mark.
    """
    shown = visible(text)
    if mark:
        shown = f"{paint(mark, colour or 'bold', stream)} {shown}"
    elif colour:
        shown = paint(shown, colour, stream)
    if not takes_unicode(stream):
        encoding = stream.encoding or "ascii"
        shown = shown.encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=stream, flush=True)


def debugging() -> bool:
    """Whether ``CAFE_DEBUG`` asks for tracebacks, and for the warnings of libraries."""
    return os.environ.get("CAFE_DEBUG", "") not in ("", "0")


def paint(text: str, colour: str, stream: TextIO) -> str:
    """Colour a text where the stream shows colours; leave it as it is elsewhere."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colourful(stream) else text


class Screen:
    """The screen of one verb, as a context manager.

    While it is open, warnings of cafe come out as one line each on stderr, those of libraries, which speak to their
    developers, only with ``CAFE_DEBUG``; whatever a library prints goes to stderr, so that stdout holds the answer and
    nothing else.

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
        warnings.showwarning = self._show_warning
        if not debugging():
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", CafeWarning)
            os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when it is imported
            # Python prints what a library logs, from warnings up, where no program has a handler.
            silent = logging.NullHandler()
            logging.getLogger().addHandler(silent)
            self._stack.callback(logging.getLogger().removeHandler, silent)
        if self.quiet or not sys.stderr.isatty():
            # The bars of the hub's libraries follow the same rule as ours. Read when they are imported.
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def say(self, text: str = "", colour: str | None = None) -> None:
        """Write prose to stderr, unless quiet."""
        if not self.quiet:
            show(text, sys.stderr, colour=colour)

    def next_steps(self, *commands: str) -> None:
        """Name commands to go on with, on stderr, unless quiet."""
        for command in commands:
            self.say(f"  {command}", colour="bold")

    def warn(self, text: str) -> None:
        """Write a warning to stderr; the same one only once."""
        if text not in self._warned:
            self._warned.add(text)
            show(text, sys.stderr, mark="warning:", colour="yellow")

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
            ascii_alone = not takes_unicode(self._stdout)
            text = json_module.dumps(plain(document), indent=2, allow_nan=False, ensure_ascii=ascii_alone)
            print(visible_json(text), file=self._stdout, flush=True)
        else:
            show(text.rstrip("\n"), self._stdout)

    def result(self, text: str) -> None:
        """Write one line of an answer that comes piece by piece to stdout; nothing there if JSON was asked for."""
        if not self.json:
            show(text, self._stdout)

    @property
    def shows_results(self) -> bool:
        """Whether lines of :meth:`result` and a bar would run into each other on one terminal."""
        return not self.json and self._stdout.isatty()

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


class Progress:
    """One line that is drawn again and again; a context manager, so that the line always ends.

    Parameters
    ----------
    unit : str
        What is counted, such as ``"images"``.
    stream : text stream
        Where it is drawn.
    shown : bool
        False draws nothing.
    bold : bool, default False
        Whether the bar may be drawn bold.
    """

    def __init__(self, unit: str, stream: TextIO, *, shown: bool, bold: bool = False) -> None:
        self._unit = unit
        self._stream = stream
        self._shown = shown
        self._bold = bold
        self._started: float | None = None
        self._first = 0
        self._drawn_at = 0.0
        self._open_line = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_line()

    def __call__(self, done: int, total: int, label: str = "") -> None:
        """Show that ``done`` of ``total`` are done; ``label`` says what is going on."""
        if not self._shown:
            return
        now = time.monotonic()
        if self._started is None:
            # Speed is counted from the first report, so that opening a model does not slow it down,
            # and from its count then, so that resumed work does not speed it up.
            self._started, self._first = now, done
        if now - self._drawn_at < _PAUSE and done < total:
            return
        self._drawn_at = now
        text = line(done, total, now - self._started, self._unit, label, first=self._first, ascii_only=self._ascii())
        width = shutil.get_terminal_size().columns - 1
        shown = visible_name(text)[:width]
        self._stream.write("\r" + (f"\x1b[1m{shown}\x1b[0m" if self._bold else shown) + " " * (width - len(shown)))
        self._stream.flush()
        self._open_line = True
        if done >= total:
            self._end_line()

    def _end_line(self) -> None:
        if self._open_line:
            self._stream.write("\n")
            self._stream.flush()
        self._open_line, self._started = False, None

    def _ascii(self) -> bool:
        return "utf" not in (getattr(self._stream, "encoding", "") or "").lower()


def line(
    done: int, total: int, seconds: float, unit: str, label: str = "", *, first: int = 0, ascii_only: bool = False
) -> str:
    """Write one state of the bar.

    Parameters
    ----------
    done, total : int
        How many are done, of how many.
    seconds : float
        Time since ``first`` were done.
    unit, label : str
        What is counted, and what is going on.
    first : int, default 0
        How many were done when the clock started.
    ascii_only : bool, default False
        For terminals that cannot show block characters.

    Examples
    --------
    >>> line(300, 1200, 2.0, "images", "train", ascii_only=True)
    'train [######------------------] 300/1,200  150 images/s  6 s left'
    """
    full, empty, edges = ("#", "-", "[]") if ascii_only else ("█", "░", "  ")
    filled = _BAR_WIDTH * done // total if total else _BAR_WIDTH
    bar = edges[0] + full * filled + empty * (_BAR_WIDTH - filled) + edges[1]
    parts = [f"{label} {bar} {done:,}/{total:,}".strip()]
    speed = (done - first) / seconds if seconds > 0 else 0.0
    if speed > 0:
        parts.append(f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.1f} {unit}/s")
        parts.append(f"{duration((total - done) / speed)} left" if done < total else f"in {duration(seconds)}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Write a duration for people.

    Examples
    --------
    >>> duration(4.2), duration(95), duration(7260), duration(0.31)
    ('4 s', '1 min 35 s', '2 h 1 min', '0.3 s')
    """
    if seconds < 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(n_bytes: int) -> str:
    """Write a number of bytes for people.

    Examples
    --------
    >>> size(45_800), size(512)
    ('45.8 KB', '512 B')
    """
    value = float(n_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
