"""Runs ``cafe`` within the process, as a user would see it, and judges the answer."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from breaking.campaign import Outcome

_TEXT_SHOWN = 400
# Everything below the space apart from tab and line end, DEL, the C1 controls, and marks that turn the order of text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Answer:
    """What a user sees of one command.

    Attributes
    ----------
    code : int
        Exit code.
    out, err : str
        What was written to stdout and to stderr.
    """

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The last line that begins with ``cafe:``, without that; empty if there is none."""
        lines = [line for line in self.err.splitlines() if line.startswith("cafe: ")]
        return lines[-1].removeprefix("cafe: ") if lines else ""

    def fault(self) -> str | None:
        """Return the verdict on an answer that breaks the rules of every command; None if it keeps them.

        An answer is 0, 1, 2 or 130, with one sentence on stderr if it is not 0; no traceback, nothing unexpected, and
        no control character on the screen.
        """
        if "Traceback (most recent call last)" in self.err or "unexpected" in self.complaint.split(":")[0].split(" "):
            return "traceback"
        if self.code not in (0, 1, 2, 130) or (self.code in (1, 2) and not self.complaint):
            return "traceback"
        if _CONTROLS.search(self.out + self.err):
            return "wrong"
        return None

    def shown(self) -> str:
        """Write the code and the complaint, or the end of what was printed."""
        text = self.complaint or self.err.strip() or self.out.strip()
        return f"exit code {self.code}: {text[-_TEXT_SHOWN:]}"


@contextmanager
def _captured(folder: Path) -> Iterator[list[str]]:
    """Send both streams of the process to files, those of C libraries included; give their texts at the end."""
    texts = ["", ""]
    names = [folder / "stdout.txt", folder / "stderr.txt"]
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    streams = sys.stdout, sys.stderr
    files = [os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600) for name in names]
    try:
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        yield texts
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = streams
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (*kept, *files):
            os.close(descriptor)
        texts[:] = [name.read_bytes().decode("utf-8", "backslashreplace") for name in names]
        for name in names:
            name.unlink()


def run_cafe(folder: Path, *words: object) -> Answer:
    """Run one command line in this process.

    Parameters
    ----------
    folder : Path
        For what is captured, outside everything that the command looks at; also the cache folder, below ``caches``.
    words : objects
        What stands after ``cafe``.
    """
    from cafe.cli.app import call

    os.environ["CAFE_CACHE"] = str(folder / "caches")
    os.environ.pop("CAFE_DEBUG", None)
    with _captured(folder.parent) as texts:
        code = call([str(word) for word in words])
    return Answer(code, *texts)


def judge(answer: Answer, kind: str, what: str, *, named: Sequence[str] = (), failing: bool = False) -> Outcome:
    """Judge an answer to input that may be wrong.

    Parameters
    ----------
    answer : Answer
        What a user saw.
    kind, what : str
        What was broken, for the table, and exactly.
    named : sequence of str
        What the complaint must name, if there is one.
    failing : bool, default False
        Whether exit code 1 is right as well: something failed on the way, such as a disk.

    Returns
    -------
    Outcome
        ``accepted`` for code 0, ``detected`` for a complaint; or what was wrong with it.
    """
    detail = f"{what}; {answer.shown()}"
    fault = answer.fault()
    if fault is not None:
        return Outcome(fault, kind, detail)
    if answer.code == 0:
        return Outcome("accepted", kind, detail)
    if answer.code == 1 and not failing:
        return Outcome("wrong", kind, f"{detail} (exit code 1 for wrong input)")
    missing = [name for name in named if name not in answer.complaint]
    if missing:
        return Outcome("unnamed", kind, f"{detail} (does not name {missing[0]})")
    return Outcome("detected", kind, detail)
