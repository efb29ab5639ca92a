"""Runs a campaign: prepares it, makes its tries, keeps their rows, and carries on where it was cut off."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from breaking.campaign import Campaign, Row, failures
from breaking.pool import run_tries

_TOLD_EVERY = 10.0  # seconds


def run_campaign(
    campaign: Campaign, *, tries: int, seed: int = 1, workers: int = 2, resume: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Row]:  # fmt: skip
    """Prepare a campaign, run its tries, and return their rows.

    Parameters
    ----------
    campaign : Campaign
        Any.
    tries : int
        Numbers 0 to tries - 1.
    seed : int, default 1
        The same seed and number make the same try.
    workers : int, default 2
        Processes at a time.
    resume : Path or None
        A file of rows; tries that stand there are not made again, and new ones are added.
    tell : callable
        Called with one line now and then.

    Returns
    -------
    list of Row
        Of all tries, by number, those of the file included.
    """
    rows = [] if resume is None else [row for row in read_rows(resume) if row.campaign == campaign.name]
    rows = [row for row in rows if row.seed == seed and row.number < tries]
    done = {row.number for row in rows}
    folder = scratch_folder()
    told = time.monotonic()
    try:
        (folder / "prepared").mkdir()
        campaign.prepare(folder / "prepared")
        numbers = [number for number in range(tries) if number not in done]
        stream = None if resume is None else _at_the_end(resume)
        for row in run_tries(campaign, numbers, seed=seed, workers=workers, folder=folder):
            rows.append(row)
            if stream is not None:
                print(json.dumps(row.to_json()), file=stream, flush=True)
            if time.monotonic() - told > _TOLD_EVERY:
                told = time.monotonic()
                tell(f"{campaign.name}: {len(rows)} of {tries} tries, {len(failures(rows))} failures")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return sorted(rows, key=lambda row: row.number)


def _at_the_end(path: Path) -> TextIO:
    """Open a file of rows to add to it, behind a line that a kill may have cut off."""
    cut = path.exists() and not path.read_bytes().endswith(b"\n")
    stream = path.open("a", encoding="utf-8")
    if cut and path.stat().st_size:
        stream.write("\n")
    return stream


def read_rows(path: Path) -> list[Row]:
    """Read rows; a last line that a kill has cut off is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(Row(**json.loads(line)))
            except ValueError:
                continue
    return rows


def scratch_folder() -> Path:
    """Make a folder in memory where there is one: tries write thousands of files, which no disk need see."""
    memory = Path("/dev/shm")
    below = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="cafe-faults-", dir=below))
