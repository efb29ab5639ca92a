"""Sees extractions through: what is kept, one pass over what is missing, the files, and a calm end if it is cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from cafe.cache.extract.assembly import OnError, unreadable_under_fail
from cafe.cache.extract.choosing import Workers, open_source
from cafe.cache.extract.decoding import Decoding
from cafe.cache.extract.encoding import ProgressCallback
from cafe.cache.extract.finishing import finish
from cafe.cache.extract.lanes import Lanes
from cafe.cache.extract.report import Clocks, ExtractionInterrupted
from cafe.cache.extract.run import Run
from cafe.cache.extract.running import Pass
from cafe.cache.format.fingerprint import differing_fields
from cafe.errors import CafeError
from cafe.files import check_free_space


class Job(Protocol):
    """An extraction, and how it went."""

    run: Run | None
    encoded: int
    kept: int
    rate: float
    workers: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class How:
    """By what means images are decoded and encoded; none of it changes a byte.

    Attributes
    ----------
    workers : int or "auto"
        Decoding processes of this machine.
    engine : str
        ``"local"`` or ``"ray"``.
    ray_address : str or None
        Of the cluster; None begins one on this machine.
    """

    workers: Workers = "auto"
    engine: str = "local"
    ray_address: str | None = None


def encode_all(jobs: Sequence[Job], on_error: OnError, how: How, clocks: Clocks, tell: ProgressCallback) -> None:
    """Encode what is missing of several extractions of equal shards, and finish each.

    Raises
    ------
    InputError, CafeError, ExtractionInterrupted
        As :func:`cafe.cache.extract.extraction.extract_many`; what is done is kept.
    """
    runs = [job.run for job in jobs if job.run is not None]
    try:
        with _cut_off(runs):
            for job, run in zip(jobs, runs, strict=True):
                job.notes = (*job.notes, *_look_at_what_is_kept(run, on_error))
                run.is_finished_elsewhere()
                _check_space(run)
            done, workers = _encode(runs, on_error, how, clocks, tell)
            for job, run in zip(jobs, runs, strict=True):
                job.encoded, job.kept, job.rate, job.workers = done.encoded, done.kept, done.rate, workers
                job.notes = (*job.notes, *finish(run, clocks, tell))
    finally:
        for run in runs:
            with suppress(OSError):  # whatever went wrong is on its way already
                run.partial.remove_if_empty()


def _encode(runs: list[Run], on_error: OnError, how: How, clocks: Clocks, tell: ProgressCallback) -> tuple[Pass, int]:
    """Encode what is missing; return how it went, and how many decoding workers there were."""
    plans = [run.plan for run in runs]
    decoding = Decoding(plans[0].dataset, tuple(p.encoder.cropper for p in plans), plans[0].views, plans[0].decoder)
    for run in runs:
        run.plan.encoder.batch_size = run.partial.batch_size
    if how.engine == "ray":
        from cafe.cache.extract.ray_engine import RayPass

        by_ray = RayPass(runs, on_error, clocks, tell, decoding)
        with closing(by_ray):
            return by_ray, by_ray.run_on(how.ray_address) if by_ray.missing else 0
    one = Pass(runs, on_error, clocks, tell)
    if not one.missing:
        return one, 0
    source, workers = open_source(decoding, plans, runs[0].partial.batch_size, how.workers)
    try:
        with closing(Lanes(plans, _batches(runs[0]))) as lanes:
            one.run(source, lanes)
    finally:
        source.close()
        one.close()
    return one, workers


def _batches(run: Run) -> int:
    return sum(-(-len(shard) * (1 + shard.views) // run.partial.batch_size) for shard in run.partial.shards)


def _look_at_what_is_kept(run: Run, on_error: OnError) -> list[str]:
    """Drop shards that are damaged or foreign; refuse unreadable images where they are an error; say what differs."""
    kept = False
    for shard in run.partial.shards:
        content = run.partial.read(shard) if run.partial.is_done(shard) else None
        kept |= content is not None
        if content is not None and content.unreadable and on_error == "fail":
            raise unreadable_under_fail(**content.unreadable[0])
    if not kept:
        return []
    now = {**run.plan.recorded, "batch_size": run.partial.batch_size}
    return [
        f"the part that was there was made with {clause}"
        for clause in differing_fields(run.partial.recorded, now, ending="is here now")
    ]


def _check_space(run: Run) -> None:
    """Refuse to begin what the disk cannot hold: the shards that are missing, and the file made from all of them."""
    missing = sum(len(shard) * (1 + shard.views) for shard in run.partial.shards if not run.partial.is_done(shard))
    width = run.plan.row_width * (2 if run.plan.stored_dtype == "float16" else 4)
    check_free_space(run.target.path.parent, run.plan.bytes_needed() + missing * (width + 8))


@contextmanager
def _cut_off(runs: Sequence[Run]) -> Iterator[None]:
    """Say what is kept when a run ends before its time."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise ExtractionInterrupted(f"interrupted; {kept_of(runs)}") from error
    except OSError as error:
        what = (error.strerror or str(error)).lower()
        raise CafeError(f"{runs[0].partial.folder} could not be written: {what}; {kept_of(runs)}") from error


def kept_of(runs: Sequence[Run]) -> str:
    """Write how many images are kept, and how to carry on."""
    run = runs[0]
    done = sum(len(shard) for shard in run.partial.shards if run.partial.is_done(shard))
    if not done:
        return "nothing was done yet that could be kept"
    return (
        f"{done:,} of {run.plan.n_images:,} images are kept in {run.partial.folder}, and the same command carries on "
        f"from there"
    )
