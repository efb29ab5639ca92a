"""Runs one campaign, or all of them, and prints a table of verdicts; every try is a line of a JSON Lines file.

    python tests/faults/run.py cache-flips --tries 10000 --seed 1 --resume flips.jsonl

Without ``--tries`` it has its full length; with ``--resume`` the tries that stand in the file are not made again.
The exit code is 1 if cafe did in any try what it must never do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parents[2]
for folder in (str(Path(__file__).resolve().parent), str(ROOT)):
    if folder not in sys.path:
        sys.path.insert(0, folder)

from breaking.campaign import Campaign, Row, failures, summary  # noqa: E402
from breaking.pool import run_tries  # noqa: E402
from breaking.registry import campaigns  # noqa: E402

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
        stream = None if resume is None else resume.open("a", encoding="utf-8")
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


def main() -> int:
    """Run what was asked for."""
    known = campaigns()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", choices=[*known, "all"])
    parser.add_argument("--tries", type=int, help="how many; by default the campaign's full length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--resume", type=Path, metavar="FILE", help="rows, read and added to")
    parser.add_argument("--show", type=int, default=10, help="failures to print")
    arguments = parser.parse_args()
    failed = False
    for name in known if arguments.campaign == "all" else [arguments.campaign]:
        campaign = known[name]
        began = time.monotonic()
        rows = run_campaign(
            campaign, tries=arguments.tries or campaign.tries, seed=arguments.seed, workers=arguments.workers,
            resume=arguments.resume, tell=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
        print(summary(rows))
        print(f"{len(rows)} tries in {time.monotonic() - began:.0f} s, longest {max(r.seconds for r in rows):.1f} s")
        for row in failures(rows)[: arguments.show]:
            print(f"  {row.number}: {row.verdict}, {row.kind}: {row.detail}")
        failed |= bool(failures(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
