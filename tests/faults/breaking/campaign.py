"""What a campaign is: many numbered tries, each of which breaks something and says how cafe took it."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# What may come of a try. The first group is what cafe promises, the second what it must never do.
GOOD = {
    "detected": "an error of one sentence that names the file, and the array where the damage lies in one",
    "mended": "done again from what was sound, with the same bytes in every array",
    "meaningless": "everything reads as it did: the damage lies in bytes without meaning",
    "accepted": "what was changed is still a valid input, and the result is sound",
    "unprotected": "in an old file, what its version has no checksum for, or only bare h5py complains of",
}
BAD = {
    "silent": "something else was read, without a word",
    "unnamed": "an error that does not name the file or the array",
    "traceback": "an exception that is not one of cafe's own, or an answer that begins with 'unexpected'",
    "crash": "the process was ended by a signal",
    "hang": "no answer within the time of a try",
    "memory": "more memory than a try may take",
    "harm": "a file was changed, read or removed that was none of cafe's",
    "wrong": "another answer than the case asks for",
}


@dataclass(frozen=True)
class Outcome:
    """How cafe took one try.

    Attributes
    ----------
    verdict : str
        A key of :data:`GOOD` or :data:`BAD`.
    kind : str
        What was broken, in a word or two, for the table.
    detail : str
        What exactly was broken, and what was answered.
    """

    verdict: str
    kind: str
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """One try as it is written to a JSON Lines file.

    Attributes
    ----------
    campaign : str
        Its name.
    seed, number : int
        What the try is made from: the same two give the same try.
    verdict, kind, detail : str
        As of :class:`Outcome`.
    seconds : float
        How long it took.
    """

    campaign: str
    seed: int
    number: int
    verdict: str
    kind: str
    detail: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


class Campaign(ABC):
    """Many tries of one kind.

    Attributes
    ----------
    name : str
        As the command line takes it.
    tries : int
        Of a run at full length.
    short : int
        Of the run within the test suite.
    limit : float
        Seconds that a try may take before it counts as a hang.
    """

    name: str
    tries: int
    short: int
    limit: float = 20.0

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Make what all tries start from, in a folder of its own; called once, before processes are forked."""

    @abstractmethod
    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Break something and look.

        Parameters
        ----------
        number : int
            Of the try, from 0.
        rng : random.Random
            Seeded by the campaign, its seed and the number.
        folder : Path
            Empty; removed afterwards.
        """

    def expected(self, tries: int) -> Sequence[str]:
        """Verdicts that so many tries cannot do without; else the campaign has not broken anything."""
        return ("detected",) if tries >= 5 else ()


def summary(rows: Iterable[Row]) -> str:
    """Write a table of verdicts by what was broken.

    Examples
    --------
    >>> rows = [Row("demo", 1, n, verdict, "bit", "", 0.1) for n, verdict in enumerate(["detected", "silent"])]
    >>> print(summary(rows))
    demo  tries  detected  silent
    bit       2         1       1
    all       2         1       1
    """
    rows = list(rows)
    if not rows:
        return "no tries"
    counts = Counter((row.kind, row.verdict) for row in rows)
    verdicts = [verdict for verdict in (*GOOD, *BAD) if any(row.verdict == verdict for row in rows)]
    kinds = sorted({row.kind for row in rows})
    table = [[rows[0].campaign, "tries", *verdicts]]
    for kind in kinds:
        own = [counts[kind, verdict] for verdict in verdicts]
        table.append([kind, str(sum(own)), *map(str, own)])
    sums = [sum(counts[kind, verdict] for kind in kinds) for verdict in verdicts]
    table.append(["all", str(len(rows)), *map(str, sums)])
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = []
    for line in table:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def failures(rows: Iterable[Row]) -> list[Row]:
    """Return the tries in which cafe did what it must never do."""
    return [row for row in rows if row.verdict in BAD]
