"""Which campaigns there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from breaking.caches import CacheFlips, CachePages
from breaking.campaign import Campaign, failures, summary
from breaking.ends import Circumstances, FullDisks, Kills
from breaking.foreign import Images, Imports, Models, Sources
from breaking.links import Links
from breaking.running import run_campaign
from breaking.runs import RunFlips, RunPages
from breaking.shards import ShardFlips, ShardPages


def campaigns() -> dict[str, Campaign]:
    """Return every campaign by its name."""
    all_of_them: list[Campaign] = [
        CacheFlips(), CachePages(), RunFlips(), RunPages(), ShardFlips(), ShardPages(),
        Imports(), Sources(), Models(), Images(), Kills(), FullDisks(), Circumstances(), Links(),
    ]  # fmt: skip
    return {campaign.name: campaign for campaign in all_of_them}


RUN = Path(__file__).resolve().parents[1] / "run.py"


def check_short_forms(*names: str, limit: float = 300.0) -> None:
    """Run the short forms of campaigns in a process of their own.

    They fork children that leave as programs do. The process of the test suite may have threads by then, of Ray for
    example, which a forked child lacks and whose locks it waits for without end.

    Parameters
    ----------
    *names : str
        Of campaigns.
    limit : float, default 300
        Seconds that all may take; the slowest take 55 on two cores.

    Raises
    ------
    AssertionError
        With what the process wrote, if one of them failed.
    """
    ended = subprocess.run(
        [sys.executable, str(RUN), *names, "--short"], capture_output=True, text=True, errors="replace", timeout=limit
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def check_short_form(name: str) -> None:
    """Run a campaign in the length that the test suite has, and fail if cafe did what it must never do.

    Raises
    ------
    AssertionError
        With every such try; or if tries are missing, or none had a verdict that the campaign cannot do without, so
        that it has broken nothing.
    """
    campaign = campaigns()[name]
    rows = run_campaign(campaign, tries=campaign.short, workers=1)
    wrong = [f"{row.number}: {row.verdict}, {row.kind}: {row.detail}" for row in failures(rows)]
    assert not wrong, "\n".join([summary(rows), *wrong])
    assert [row.number for row in rows] == list(range(campaign.short))
    seen = {row.verdict for row in rows}
    assert seen >= set(campaign.expected(campaign.short)), summary(rows)
