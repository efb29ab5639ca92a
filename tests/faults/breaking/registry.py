"""Which campaigns there are."""

from __future__ import annotations

from breaking.caches import CacheFlips, CachePages
from breaking.campaign import Campaign
from breaking.ends import Circumstances, FullDisks, Kills
from breaking.foreign import Images, Imports, Models, Sources
from breaking.links import Links
from breaking.runs import RunFlips, RunPages
from breaking.shards import ShardFlips, ShardPages


def campaigns() -> dict[str, Campaign]:
    """Return every campaign by its name."""
    all_of_them: list[Campaign] = [
        CacheFlips(), CachePages(), RunFlips(), RunPages(), ShardFlips(), ShardPages(),
        Imports(), Sources(), Models(), Images(), Kills(), FullDisks(), Circumstances(), Links(),
    ]  # fmt: skip
    return {campaign.name: campaign for campaign in all_of_them}
