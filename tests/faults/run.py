"""Runs one campaign, or all of them, and prints a table of verdicts; every try is a line of a JSON Lines file.

    python tests/faults/run.py cache-flips --tries 10000 --seed 1 --resume flips.jsonl

Without ``--tries`` it has its full length, with ``--short`` the one of the test suite; with ``--resume`` the tries that
stand in the file are not made again.
The exit code is 1 if cafe did in any try what it must never do.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parents[2]
for folder in (str(Path(__file__).resolve().parent), str(ROOT)):
    if folder not in sys.path:
        sys.path.insert(0, folder)

from breaking.campaign import failures, summary  # noqa: E402
from breaking.registry import campaigns, check_short_form  # noqa: E402
from breaking.running import run_campaign  # noqa: E402


def main() -> int:
    """Run what was asked for."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that files and processes are cleared away
    known = campaigns()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "campaigns", nargs="+", choices=[*known, "all"], metavar="NAME", help=", ".join([*known, "all"])
    )
    parser.add_argument(
        "--short", action="store_true", help="the length of the test suite, with what it must have seen"
    )
    parser.add_argument("--tries", type=int, help="how many; by default the campaign's full length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--resume", type=Path, metavar="FILE", help="rows, read and added to")
    parser.add_argument("--show", type=int, default=10, help="failures to print")
    arguments = parser.parse_args()
    names = list(known) if "all" in arguments.campaigns else arguments.campaigns
    if arguments.short:
        for name in names:
            check_short_form(name)
        return 0
    failed = False
    for name in names:
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
