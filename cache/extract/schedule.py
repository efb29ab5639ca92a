"""Which shards this process encodes, beside other processes that may be at work on the same cache."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from cafe.cache.extract.plan import Extraction
from cafe.cache.extract.progress import ExtractionProgress, Reporter
from cafe.cache.extract.shards import OnError, Shard, ShardFeatures
from cafe.cache.extract.unfinished import UnfinishedCache
from cafe.cache.locks import Claim

PAUSE = 0.1  # seconds between two looks at what other processes have finished
_MOST_WRITING = 2  # complete shards that may wait for the disk before encoding waits for it as well


@dataclass(frozen=True)
class ClaimedShard:
    """A shard that this process encodes.

    Attributes
    ----------
    shard : Shard
        Which one.
    claims : dict of int to Claim
        For those extractions, by number, that need it and that no other process encodes it for.
    features : dict of int to ShardFeatures
        Its features for each of them, as they are computed.
    """

    shard: Shard
    claims: dict[int, Claim]
    features: dict[int, ShardFeatures]


class Schedule:
    """Gives out the shards that are missing, writes those that are complete, and reports progress.

    Shards are written in a thread of their own: the disk needs 10 to 30 ms to confirm one, in which a small tower
    encodes a hundred images.

    Parameters
    ----------
    extractions : sequence of Extraction
        Of equal shards; images are decoded once for all of them.
    on_error : str
        What an unreadable image does: ``"skip"`` or ``"fail"``.
    reporter : Reporter
        Told after every batch.

    Attributes
    ----------
    encoded : list of int
        For each extraction, images that this process has encoded.
    kept : int
        Images that were encoded when it began.
    images_per_second : float
        Of this process.
    """

    def __init__(self, extractions: Sequence[Extraction], on_error: OnError, reporter: Reporter) -> None:
        self.extractions = extractions
        self.encoded = [0] * len(extractions)
        self.images_per_second = 0.0
        self._on_error, self._reporter = on_error, reporter
        self._n_images = extractions[0].n_images
        self._n_done = 0
        self._n_unreadable = 0
        self._claimed: list[ClaimedShard] = []  # until they are written
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._writing: deque[tuple[ClaimedShard, Future[None]]] = deque()
        self._write_failed = False
        self._missing = deque(_own_share_first(extractions[0].partial.shards))
        for shard in extractions[0].partial.shards:
            if all(extraction.partial.is_done(shard) for extraction in extractions):
                self._missing.remove(shard)
                self._n_done += len(shard)
        self.kept = self._n_reported = self._n_done
        self._started = time.perf_counter()
        self._clock_runs = False

    @property
    def is_empty(self) -> bool:
        """Whether there was no shard to be claimed when this was last looked at."""
        return not self._missing

    def start(self) -> None:
        """Let the clock of :attr:`images_per_second` run, and report what is kept."""
        self._started = time.perf_counter()
        if self.kept:
            progress = ExtractionProgress("images", "", self._n_done, self._n_images, kept=self.kept)
            self._reporter.report(progress)

    def start_clock(self) -> None:
        """Let the clock of :attr:`images_per_second` begin with the first decoded images: processes take time to start.

        Later calls change nothing.
        """
        if not self._clock_runs:
            self._started, self._clock_runs = time.perf_counter(), True

    def claim_next(self) -> ClaimedShard | None:
        """Claim the next shard that is free; None if all others are done or claimed by other processes."""
        for shard in list(self._missing):
            needing = {
                number: extraction
                for number, extraction in enumerate(self.extractions)
                if not extraction.partial.finished_elsewhere and not extraction.partial.is_done(shard)
            }
            if not needing:
                self._missing.remove(shard)
                self._n_done += len(shard)
                continue
            attempts = {number: extraction.partial.claim(shard) for number, extraction in needing.items()}
            claims = {number: claim for number, claim in attempts.items() if claim is not None}
            if claims:
                claimed = ClaimedShard(shard, claims, {n: self._features(needing[n], shard) for n in claims})
                self._claimed.append(claimed)
                if len(claims) == len(needing):
                    self._missing.remove(shard)
                return claimed
        return None

    def _features(self, extraction: Extraction, shard: Shard) -> ShardFeatures:
        rows = extraction.rows[shard.split][shard.start : shard.stop]
        return ShardFeatures(shard, rows, extraction.row_width, extraction.stored_dtype, self._on_error)

    def write_complete(self) -> None:
        """Begin to write the shards whose features have all come; wait only where the disk falls behind.

        Raises
        ------
        OSError
            If a shard could not be written.
        CacheError
            If another process has removed the folder and begun one for something else.
        """
        being_written = {id(claimed) for claimed, _ in self._writing}
        for claimed in self._claimed:
            is_complete = all(features.is_complete for features in claimed.features.values())
            if is_complete and id(claimed) not in being_written:
                self._writing.append((claimed, self._writer.submit(self._write, claimed)))
        while self._writing and (self._writing[0][1].done() or len(self._writing) > _MOST_WRITING):
            self._finish_oldest_write()

    def wait_for_writes(self) -> None:
        """Wait until every complete shard is on the disk. Raises like :meth:`write_complete`."""
        self.write_complete()
        while self._writing:
            self._finish_oldest_write()

    def _write(self, claimed: ClaimedShard) -> None:
        """Write a shard for each extraction that needs it; nothing, once an earlier shard could not be written."""
        if self._write_failed:
            return
        try:
            for number, features in claimed.features.items():
                self._write_for(self.extractions[number].partial, features)
                claimed.claims[number].release()
        except BaseException:
            self._write_failed = True
            raise

    def _write_for(self, partial: UnfinishedCache, features: ShardFeatures) -> None:
        try:
            partial.write(features)
        except FileNotFoundError:
            # Whoever took this process for dead has done the shard, and finished.
            if not partial.look_for_cache():
                raise

    def _finish_oldest_write(self) -> None:
        """Wait for the shard that was submitted first, and count its images as done."""
        claimed, written = self._writing.popleft()
        with self._reporter.timing("write"):
            written.result()
        for number, features in claimed.features.items():
            self.encoded[number] += features.n_encoded
        self._n_unreadable += max(features.n_unreadable for features in claimed.features.values())
        self._n_done += len(claimed.shard)
        self._claimed.remove(claimed)

    def report(self, split: str) -> None:
        """Report how far this is, if it got further."""
        in_work = [list(claimed.features.values()) for claimed in self._claimed]
        n_in_work = sum(min(each.n_done for each in features) for features in in_work)
        n_encoded = max(self.encoded) + sum(max(each.n_encoded for each in features) for features in in_work)
        self.images_per_second = n_encoded / max(time.perf_counter() - self._started, 1e-9)
        if self._n_done + n_in_work == self._n_reported:
            return
        self._n_reported = self._n_done + n_in_work
        n_unreadable = self._n_unreadable + sum(max(each.n_unreadable for each in features) for features in in_work)
        progress = ExtractionProgress(
            "images", split, self._n_reported, self._n_images, self.images_per_second, n_unreadable, self.kept
        )
        self._reporter.report(progress)

    def close(self) -> None:
        """Let the disk finish the shards that are complete, and give up what is claimed."""
        self._writer.shutdown()
        for claimed in self._claimed:
            for claim in claimed.claims.values():
                claim.release()


def sample_id_of(extraction: Extraction, shard: Shard, position: int) -> str:
    """Return the sample id of the image at a position of a shard."""
    row = extraction.rows[shard.split][shard.start + position]
    return str(extraction.dataset.splits[shard.split].sample_ids[row])


def take_known_rows(extraction: Extraction, features: ShardFeatures, position: int, sha256: bytes) -> None:
    """Keep the rows of an image whose bytes a cache at hand has the features of."""
    shard = features.shard
    sample_id, with_projection = sample_id_of(extraction, shard, position), extraction.projection is not None
    rows = extraction.known.take(sha256, sample_id, shard.views, with_projection=with_projection)
    features.take(position, rows)  # (1 + views, width)


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


def _own_share_first(shards: tuple[Shard, ...]) -> list[Shard]:
    """Begin with the shards of this rank, where a launcher has set one; then help with the others."""
    rank, size = share(os.environ)
    return sorted(shards, key=lambda shard: shard.number % size != rank)  # a stable sort
