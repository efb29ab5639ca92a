"""One decoding pass over what is missing, for one encoder or several, beside other processes at the same."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cafe.cache.decoding import Decoded, Piece, Source, pieces_of
from cafe.cache.encoding import OnError, ProgressCallback, ShardEncoding
from cafe.cache.lanes import Lanes
from cafe.cache.locks import Claim
from cafe.cache.opening import open_cache, text_attribute
from cafe.cache.partial import Partial
from cafe.cache.plan import Plan, Target
from cafe.cache.report import Clocks, ExtractionProgress
from cafe.cache.shards import Shard
from cafe.errors import CacheError

_PAUSE = 0.1  # seconds between two looks at what other processes have finished

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


@dataclass
class _Work:
    """A shard that this process is at, for those runs that need it from here."""

    shard: Shard
    claims: dict[int, Claim]
    encodings: dict[int, ShardEncoding] = field(default_factory=dict)


class Pass:
    """Decodes what is missing once, and runs it through every encoder that needs it.

    Parameters
    ----------
    runs : list of Run
        Of equal shards.
    source : callable
        Opens the source of crops; called when there is something to decode.
    on_error, clocks, tell
        As for :class:`~cafe.cache.encoding.ShardEncoding`; ``tell`` is called after every batch.

    Attributes
    ----------
    encoded : int
        Images that were encoded by this process.
    rate : float
        Images per second of this process.
    """

    def __init__(self, runs: list[Run], on_error: OnError, clocks: Clocks, tell: ProgressCallback) -> None:
        self.runs, self._on_error, self._clocks, self._tell = runs, on_error, clocks, tell
        self.encoded = 0
        self.rate = 0.0
        self._done = 0
        self._unreadable = 0
        self._todo = deque(_own_first(runs[0].partial.shards))
        self._pieces: deque[tuple[Piece, _Work]] = deque()
        self._begun: list[_Work] = []
        self._under_way: deque[_Work] = deque()  # the shard of every piece that the source has
        for shard in runs[0].partial.shards:
            if all(run.partial.is_done(shard) for run in runs):
                self._todo.remove(shard)
                self._done += len(shard)
        self.kept = self._done

    @property
    def missing(self) -> list[Shard]:
        """Shards that nobody had finished when this was last looked at."""
        return list(self._todo)

    def run(self, source: Source, lanes: Lanes) -> None:
        """Encode until nothing is missing."""
        self._lanes = lanes
        started = time.perf_counter()
        if self.kept:
            self._report("")
        while True:
            while source.has_room and (next_one := self._next_piece()) is not None:
                source.hand_in(next_one[0])
                self._under_way.append(next_one[1])
            if not source.under_way:
                self._end_shards(started)
                if not self._todo and not self._pieces:
                    return
                time.sleep(_PAUSE)  # the rest is in the hands of other processes
                continue
            with self._clocks.running("read"):
                decoded = source.take()
            self._encode(self._under_way.popleft(), decoded, started)

    def close(self) -> None:
        """Give up what is claimed."""
        for work in self._begun:
            for claim in work.claims.values():
                claim.release()

    def _next_piece(self) -> tuple[Piece, _Work] | None:
        if not self._pieces and (work := self._next_work()) is not None:
            shard = work.shard
            rows = self.runs[0].plan.rows[shard.split][shard.start : shard.stop].tolist()
            pieces = pieces_of(shard.split, rows, shard.views, tuple(work.claims))
            self._pieces.extend((piece, work) for piece in pieces)
        return self._pieces.popleft() if self._pieces else None

    def _next_work(self) -> _Work | None:
        """Claim the next shard that is free; None if all others are done or in other hands."""
        for shard in list(self._todo):
            needing = {i: run for i, run in enumerate(self.runs) if not run.over and not run.partial.is_done(shard)}
            if not needing:
                self._todo.remove(shard)
                self._done += len(shard)
                continue
            claims = {i: claim for i, run in needing.items() if (claim := run.claim(shard)) is not None}
            if claims:
                work = _Work(shard, claims)
                for i in claims:
                    run = self.runs[i]
                    work.encodings[i] = ShardEncoding(
                        run.plan, shard, run.partial.batch_size, self._on_error, self._clocks, self._lanes
                    )
                self._begun.append(work)
                if len(claims) == len(needing):
                    self._todo.remove(shard)
                return work
        return None

    def _encode(self, work: _Work, decoded: Decoded, started: float) -> None:
        for image in decoded:
            ended = False
            for place, encoding in enumerate(work.encodings.values()):
                ended |= encoding.add(image if isinstance(image, Exception) else image[place])
            self._done += 1
            self.encoded += 1
            self.rate = self.encoded / max(time.perf_counter() - started, 1e-9)
            if ended:
                self._report(work.shard.split, max(e.unreadable for e in work.encodings.values()))
        self._keep_what_is_encoded()

    def _end_shards(self, started: float) -> None:
        """Wait for all batches under way."""
        if self._begun:
            self._lanes.drain()
            self._keep_what_is_encoded()
            self.rate = self.encoded / max(time.perf_counter() - started, 1e-9)

    def _keep_what_is_encoded(self) -> None:
        for work in list(self._begun):
            if all(encoding.is_encoded for encoding in work.encodings.values()):
                self._keep(work)

    def _keep(self, work: _Work) -> None:
        for i, encoding in work.encodings.items():
            content = encoding.content()
            with self._clocks.running("write"):
                try:
                    self.runs[i].partial.write(work.shard, content)
                except FileNotFoundError:
                    # Whoever took this process for dead has done the shard, and finished.
                    if not self.runs[i].is_finished_elsewhere():
                        raise
            work.claims[i].release()
        self._unreadable += max(encoding.unreadable for encoding in work.encodings.values())
        self._begun.remove(work)

    def _report(self, split: str, unreadable: int = 0) -> None:
        total = self.runs[0].plan.n_images
        self._tell(
            ExtractionProgress("images", split, self._done, total, self.rate, self._unreadable + unreadable, self.kept)
        )


def _own_first(shards: tuple[Shard, ...]) -> list[Shard]:
    """Begin with the shards of this rank, where a launcher has set one; then help with the others."""
    for rank_name, size_name in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        rank, size = os.environ.get(rank_name, ""), os.environ.get(size_name, "")
        if rank.isdecimal() and size.isdecimal() and int(rank) < int(size):
            own = list(shards[int(rank) :: int(size)])
            return own + [shard for shard in shards if shard not in set(own)]
    return list(shards)
