"""One decoding pass over what is missing, for one encoder or several, beside other processes at the same."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cafe.cache.extract.assembly import OnError, ShardAssembly
from cafe.cache.extract.decoding import Decoded, Piece, Source, pieces_of
from cafe.cache.extract.encoding import ProgressCallback, ShardEncoding
from cafe.cache.extract.lanes import Lanes
from cafe.cache.extract.report import Clocks, ExtractionProgress
from cafe.cache.extract.run import Run
from cafe.cache.extract.shards import Shard
from cafe.cache.locks import Claim

_PAUSE = 0.1  # seconds between two looks at what other processes have finished


@dataclass
class Work:
    """A shard that this process is at, for those runs that need it from here."""

    shard: Shard
    claims: dict[int, Claim]
    encodings: dict[int, Any] = field(default_factory=dict)


class Pass:
    """Decodes what is missing once, and runs it through every encoder that needs it.

    Parameters
    ----------
    runs : list of Run
        Of equal shards.
    on_error, clocks, tell
        As for :class:`~cafe.cache.extract.encoding.ShardEncoding`; ``tell`` is called after every batch.

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
        self._told = 0
        self._started = time.perf_counter()
        self._todo = deque(_own_first(runs[0].partial.shards))
        self._pieces: deque[tuple[Piece, Work]] = deque()
        self._begun: list[Work] = []
        self._under_way: deque[Work] = deque()  # the shard of every piece that the source has
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
        self._begin()
        while True:
            while source.has_room and (next_one := self._next_piece()) is not None:
                source.hand_in(next_one[0])
                self._under_way.append(next_one[1])
            if not source.under_way:
                self._end_shards()
                if not self._todo and not self._pieces:
                    return
                time.sleep(_PAUSE)  # the rest is in the hands of other processes
                continue
            with self._clocks.running("read"):
                decoded = source.take()
            self._encode(self._under_way.popleft(), decoded)

    def close(self) -> None:
        """Give up what is claimed."""
        for work in self._begun:
            for claim in work.claims.values():
                claim.release()

    def _next_piece(self) -> tuple[Piece, Work] | None:
        if not self._pieces and (work := self._next_work()) is not None:
            shard = work.shard
            rows = self.runs[0].plan.rows[shard.split][shard.start : shard.stop].tolist()
            pieces = pieces_of(shard.split, rows, shard.views, tuple(work.claims))
            self._pieces.extend((piece, work) for piece in pieces)
        return self._pieces.popleft() if self._pieces else None

    def _next_work(self) -> Work | None:
        """Claim the next shard that is free; None if all others are done or in other hands."""
        for shard in list(self._todo):
            needing = {i: run for i, run in enumerate(self.runs) if not run.over and not run.partial.is_done(shard)}
            if not needing:
                self._todo.remove(shard)
                self._done += len(shard)
                continue
            claims = {i: claim for i, run in needing.items() if (claim := run.claim(shard)) is not None}
            if claims:
                work = Work(shard, claims)
                for i in claims:
                    work.encodings[i] = self._encoding(self.runs[i], shard)
                self._begun.append(work)
                if len(claims) == len(needing):
                    self._todo.remove(shard)
                return work
        return None

    def _encoding(self, run: Run, shard: Shard) -> ShardAssembly:
        return ShardEncoding(
            run.plan, shard, self._on_error,
            batch_size=run.partial.batch_size, clocks=self._clocks, lanes=self._lanes,
        )  # fmt: skip

    def _encode(self, work: Work, decoded: Decoded) -> None:
        for image in decoded:
            ended = False
            for place, encoding in enumerate(work.encodings.values()):
                ended |= encoding.add(image if isinstance(image, Exception) else image[place])
            if ended:
                self._report(work.shard.split)
        self._keep_what_is_encoded()

    def _end_shards(self) -> None:
        """Wait for all batches under way."""
        if self._begun:
            self._lanes.drain()
            self._keep_what_is_encoded()
            self._report(self.runs[0].partial.shards[-1].split)

    def _keep_what_is_encoded(self) -> None:
        for work in list(self._begun):
            if all(encoding.is_encoded for encoding in work.encodings.values()):
                self._keep(work)

    def _keep(self, work: Work) -> None:
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
        self._done += len(work.shard)
        self.encoded += len(work.shard)
        self._begun.remove(work)

    def _begin(self) -> None:
        self._started = time.perf_counter()
        self._told = self.kept
        if self.kept:
            self._tell(ExtractionProgress("images", "", self._done, self.runs[0].plan.n_images, kept=self.kept))

    def _report(self, split: str) -> None:
        """Say how far it is, if it got further."""
        under_way = [list(work.encodings.values()) for work in self._begun]
        through = sum(encodings[0].done for encodings in under_way)
        self.rate = (self.encoded + through) / max(time.perf_counter() - self._started, 1e-9)
        if self._done + through == self._told:
            return
        self._told = self._done + through
        unreadable = self._unreadable + sum(max(one.unreadable for one in encodings) for encodings in under_way)
        total = self.runs[0].plan.n_images
        self._tell(ExtractionProgress("images", split, self._told, total, self.rate, unreadable, self.kept))


# (rank, size) of launchers: torchrun; one task of several of a SLURM job; one job of a SLURM array.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
)


def share(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return which share of the shards this process begins with, and of how many.

    Ids of a SLURM array begin at SLURM_ARRAY_TASK_MIN, in steps of SLURM_ARRAY_TASK_STEP where it is set.

    Examples
    --------
    >>> share({"RANK": "1", "WORLD_SIZE": "4"}), share({})
    ((1, 4), (0, 1))
    >>> share({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "8"})
    (2, 8)
    """
    for rank_name, size_name in _LAUNCHERS:
        rank, size = environment.get(rank_name, ""), environment.get(size_name, "")
        if not rank.isdecimal() or not size.isdecimal() or int(size) < 2:
            continue
        place = int(rank)
        if rank_name == "SLURM_ARRAY_TASK_ID":
            first, step = (environment.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("MIN", "STEP"))
            place -= int(first) if first.isdecimal() else 0
            place //= int(step) if step.isdecimal() and int(step) else 1
        return place % int(size), int(size)
    return 0, 1


def _own_first(shards: tuple[Shard, ...]) -> list[Shard]:
    """Begin with the shards of this rank, where a launcher has set one; then help with the others."""
    rank, size = share(os.environ)
    own = list(shards[rank::size])
    taken = set(own)
    return own + [shard for shard in shards if shard not in taken]
