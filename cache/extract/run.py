"""The extraction of one cache, beside other processes at the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cafe.cache.extract.partial import Partial
from cafe.cache.extract.plan import Plan
from cafe.cache.extract.shards import Shard
from cafe.cache.extract.target import Target
from cafe.cache.format.reader import open_cache, text_attribute
from cafe.cache.locks import Claim
from cafe.errors import CacheError

Signature = tuple[int, int, int] | None


@dataclass
class Run:
    """The extraction of one cache.

    Attributes
    ----------
    plan, target, partial : Plan, Target, Partial
        What is extracted, into which file, by way of which folder.
    before : tuple or None
        What stood at the target when the run began, by inode, time and size.
    reopen : callable
        Opens the folder again, where another process has removed it.
    over : bool
        Whether another process has finished the cache meanwhile.
    """

    plan: Plan
    target: Target
    partial: Partial
    before: Signature
    reopen: Callable[[], Partial]
    over: bool = False

    def is_finished_elsewhere(self) -> bool:
        """Whether the cache has been put in place since this run began."""
        if signature(self.target.path) in (None, self.before):
            return self.over
        with suppress(CacheError), open_cache(self.target.path) as file:
            wanted = self.plan.provenance().image_fingerprint
            self.over = text_attribute(file.attrs["image_fingerprint"]) == wanted
        return self.over

    def claim(self, shard: Shard) -> Claim | None:
        """Claim a shard that is not done; None if somebody else is at it, or has finished."""
        while not self.over:
            try:
                claim = self.partial.claim(shard)
            except FileNotFoundError:
                if not self.is_finished_elsewhere():
                    self.partial = self.reopen()
                continue
            if claim is not None and self.partial.is_done(shard):  # done between the look and the claim
                claim.release()
                return None
            return claim
        return None


def signature(path: Path) -> Signature:
    """Return what tells one file at a path from the next; None if there is none."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return None
    return there.st_ino, there.st_mtime_ns, there.st_size
