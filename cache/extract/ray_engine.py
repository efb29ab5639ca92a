"""Extraction by Ray Data: decoding on any CPU of a cluster, encoders on actors, the shards written here.

This process claims the shards, gives their batches to Ray, and writes every shard as its last batch arrives, exactly as
it would without Ray. A worker or node that is lost takes nothing with it: Ray makes its batches again elsewhere. If
this process is lost, the shards that were written are there, and the same command carries on.

What Ray runs is one encoding batch of one shard, cut at the same fixed places as without Ray (see
:class:`~cafe.cache.extract.shards.Shard`); so features are encoded together with the same neighbours, and the bytes are
the same. Rows of a Ray data set hold numbers, text and bytes only. Ray is imported where it is used alone.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from cafe.cache.extract.decode import Chunk, ImageDecoder
from cafe.cache.extract.encode import encode_rows
from cafe.cache.extract.plan import Extraction
from cafe.cache.extract.progress import Reporter
from cafe.cache.extract.schedule import PAUSE, ClaimedShard, Schedule, take_known_rows
from cafe.cache.extract.shards import Place, Shard, ShardFeatures
from cafe.compute import processors
from cafe.encoders.base import Encoder
from cafe.errors import CafeError, InputError, MissingDependencyError, UnreadableImageError, unknown_name

ENGINES = ("local", "ray")
_PATIENCE = 10.0  # seconds for a cluster to answer

Row = dict[str, Any]


def check_engine(engine: str, address: str | None) -> None:
    """Refuse an engine that is not known, or not installed.

    Raises
    ------
    InputError
        If there is none of that name, or an address without Ray.
    MissingDependencyError
        If its package is not installed.

    Examples
    --------
    >>> check_engine("local", None)
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if address is not None and engine != "ray":
        raise InputError("--ray-address is the address of a Ray cluster; give --engine ray with it")
    if engine == "ray" and (find_spec("ray") is None or find_spec("pyarrow") is None):
        raise MissingDependencyError("ray[data]", "ray", "extraction with --engine ray")


def encode_by_ray(schedule: Schedule, decoder: ImageDecoder, address: str | None, reporter: Reporter) -> int:
    """Encode until no shard is missing; return how many processors Ray has.

    Parameters
    ----------
    schedule : Schedule
        What to encode.
    decoder : ImageDecoder
        With the cropper of every extraction's encoder.
    address : str or None
        Of a cluster; None begins one on this machine.
    reporter : Reporter
        ``encode`` is the time that batches were waited for.

    Raises
    ------
    CafeError
        If the cluster cannot be had, or something fails there.
    """
    extractions, partial = schedule.extractions, schedule.extractions[0].partial
    schedule.start()
    with _cluster(address) as ray:
        n_processors = int(ray.cluster_resources().get("CPU", 1))
        rows = {name: np.asarray(of_split) for name, of_split in extractions[0].rows.items()}
        job = ray.put(DecodingJob(decoder, rows, partial.shards, partial.batch_size))
        encoders = ray.put([(extraction.encoder, extraction.projection is not None) for extraction in extractions])
        while not schedule.is_empty:
            claimed = list(iter(schedule.claim_next, None))
            if claimed:
                batches = _start(ray, _items(claimed, partial.batch_size), job, encoders, extractions)
                _store(schedule, claimed, batches, reporter)
            elif not schedule.is_empty:
                time.sleep(PAUSE)  # other processes encode the rest
    return n_processors


def _items(claimed: Sequence[ClaimedShard], batch_size: int) -> list[Row]:
    """Name every batch of the claimed shards; a shard is claimed twice where another process gave up a part of it."""
    return [
        {"claimed": number, "shard": claim.shard.number, "batch": batch, "croppers": sorted(claim.claims)}
        for number, claim in enumerate(claimed)
        for batch in range(claim.shard.n_batches(batch_size))
    ]


def _store(schedule: Schedule, claimed: Sequence[ClaimedShard], batches: Iterator[Row], reporter: Reporter) -> None:
    """Store batches as they come, in any order."""
    while True:
        with reporter.timing("encode"):
            row = next(batches, None)
        if row is None:
            schedule.wait_for_writes()
            return
        claimed_shard = claimed[int(row["claimed"])]
        for column, number in enumerate(row["croppers"]):
            _store_batch(schedule.extractions[int(number)], claimed_shard.features[int(number)], row, column)
        schedule.report(claimed_shard.shard.split)
        schedule.write_complete()


def _store_batch(extraction: Extraction, features: ShardFeatures, row: Row, column: int) -> None:
    hashes = {int(position): bytes.fromhex(sha256) for position, sha256 in json.loads(row["sha256"]).items()}
    for position, sha256 in hashes.items():
        features.recognise(position, sha256)
    for position in json.loads(row["known"]):
        if not features.is_done(position):  # its views came with another batch
            take_known_rows(extraction, features, position, hashes[position])
    for position, (sample_id, reason) in json.loads(row["unreadable"]).items():
        features.skip(int(position), UnreadableImageError(sample_id, reason))
    places: list[Place] = [(view, position) for view, position in json.loads(row["places"])]
    if places:
        rows = np.frombuffer(row[f"features_{column}"], dtype=np.float32)
        features.store(rows.reshape(len(places), -1), places)  # (b, width)


def _start(ray: Any, items: list[Row], job: Any, encoders: Any, extractions: Sequence[Extraction]) -> Iterator[Row]:
    """Let Ray Data work, and yield every batch as it comes; it makes what a lost worker had again by itself."""
    resources = ray.cluster_resources()
    on_cpu = extractions[0].encoder.device == "cpu"
    cores = int(resources.get("CPU", 1))
    # Encoding is most of the work on a CPU; some cores must be left for decoding, or nothing would ever begin.
    most = max(1, cores - max(1, cores // 8)) if on_cpu else max(1, int(resources.get("GPU", 0)))
    batches = (
        ray.data.from_items(items, override_num_blocks=len(items))
        # Less than a core, and so not the same as encoding: Ray would fuse steps of equal requests into one.
        .map(Decode([job]).__call__, num_cpus=0.5)
        .map(
            Encode,
            fn_constructor_args=[[encoders]],
            concurrency=(1, min(most, len(items))),
            num_cpus=1 if on_cpu else 0,
            num_gpus=0 if on_cpu else 1,
        )
    )
    try:
        for batch in batches.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from batch.to_pylist()
    except ray.exceptions.RayError as error:
        raise _as_cafe_error(error) from error


def _as_cafe_error(error: Exception) -> CafeError:
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(inner, CafeError):
            return inner
        cause = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return CafeError(f"Ray could not encode all images: {lines[-1] if lines else type(error).__name__}")


def _check_answers(address: str) -> None:
    """Refuse an address where nobody answers, which Ray would try for ever. Raises OSError or ValueError."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdecimal():
        raise ValueError("an address is auto or HOST:PORT")
    with socket.create_connection((host, int(port)), timeout=_PATIENCE):
        pass


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Join a Ray cluster, or begin one on this machine; leave or end it afterwards.

    Its dashboard, usage statistics and progress bars stay off, and it logs errors only, to stderr.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its own files tell more than stderr should
    import ray
    import ray.data

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    begins_here = not ray.is_initialized()
    if begins_here:
        shared: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address is None:
                ray.init("local", num_cpus=max(2, processors()), **shared)
            else:
                _check_answers(address)
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            where = "on this machine" if address is None else f"at {address}"
            first = str(error).strip().partition("\n")[0]
            raise CafeError(f"no Ray cluster could be had {where}: {first}") from error
    try:
        yield ray
    finally:
        if begins_here:
            ray.shutdown()


@dataclass(frozen=True)
class DecodingJob:
    """What every decoding task needs.

    Attributes
    ----------
    decoder : ImageDecoder
        Data set and croppers.
    rows : dict of str to ndarray of int64
        Rows of each split that are extracted.
    shards : tuple of Shard
        All of them.
    batch_size : int
        Places of one batch.
    """

    decoder: ImageDecoder
    rows: dict[str, Any]
    shards: tuple[Shard, ...]
    batch_size: int


class Decode:
    """A decoding task: a row that names a batch becomes one that holds its crops for every encoder.

    Parameters
    ----------
    job : list of one Ray reference
        To a :class:`DecodingJob`; within a list, so that it is fetched once for each worker and not for each task.
    """

    _fetched: tuple[Any, DecodingJob] | None = None  # of this worker

    def __init__(self, job: list[Any]) -> None:
        self._reference = job

    def __call__(self, row: Row) -> Row:
        """Decode the images of a batch."""
        job = self._job()
        shard = job.shards[row["shard"]]
        places = shard.places(row["batch"], job.batch_size)
        croppers = tuple(row["croppers"])
        crops: list[list[Any]] = [[] for _ in croppers]
        kept: list[Place] = []
        reasons: dict[int, tuple[str, str]] = {}
        hashes: dict[int, str] = {}
        known: list[int] = []
        for position, views in _by_image(places):
            index = int(job.rows[shard.split][shard.start + position])
            chunk = Chunk(shard.split, (index,), shard.views, croppers)
            decoded = job.decoder.decode(chunk, index)
            if decoded.sha256 is not None:
                hashes[position] = decoded.sha256.hex()
            if decoded.unreadable is not None:
                reasons[position] = (decoded.unreadable.sample_id, decoded.unreadable.reason)
                continue
            if all(of_image is None for of_image in decoded.crops):
                known.append(position)
                continue
            if any(of_image is None for of_image in decoded.crops):
                # Places are the same for all encoders here, so what one of them lacks is encoded by all.
                decoded = replace(job.decoder, known=()).decode(chunk, index)
            for of_encoder, of_image in zip(crops, decoded.crops, strict=True):
                assert of_image is not None
                of_encoder += [of_image[view] for view in views]
            kept += [(view, position) for view in views]
        answer = {**row, "places": json.dumps(kept), "unreadable": json.dumps(reasons)}
        answer |= {"sha256": json.dumps(hashes), "known": json.dumps(known)}
        for n, of_encoder in enumerate(crops):
            answer[f"crops_{n}"] = np.stack(of_encoder).tobytes() if of_encoder else b""
            answer[f"shape_{n}"] = json.dumps([len(of_encoder), *(of_encoder[0].shape if of_encoder else ())])
        return answer

    def _job(self) -> DecodingJob:
        import ray

        reference = self._reference[0]
        if Decode._fetched is None or Decode._fetched[0] != reference:
            Decode._fetched = (reference, ray.get(reference))
        return Decode._fetched[1]


def _by_image(places: Sequence[Place]) -> Iterator[tuple[int, list[int]]]:
    views: dict[int, list[int]] = {}
    for view, position in places:
        views.setdefault(position, []).append(view)
    yield from views.items()


class Encode:
    """An actor: it holds the encoders, and turns crops into features.

    Parameters
    ----------
    encoders : list of one Ray reference
        To a list of (encoder, unprojected), in the order of the croppers.
    """

    def __init__(self, encoders: list[Any]) -> None:
        import ray

        self._encoders: list[tuple[Encoder, bool]] = ray.get(encoders[0])

    def __call__(self, row: Row) -> Row:
        """Encode a batch."""
        answer = {name: row[name] for name in ("claimed", "croppers", "places", "unreadable", "sha256", "known")}
        for n, number in enumerate(row["croppers"]):
            shape = json.loads(row[f"shape_{n}"])
            features = b""
            if shape[0]:
                encoder, unprojected = self._encoders[number]
                if shape[0] > encoder.batch_size:
                    raise CafeError(f"a batch of {shape[0]} images where {encoder.batch_size} are encoded together")
                crops = np.frombuffer(row[f"crops_{n}"], dtype=np.uint8).reshape(shape)
                features = encode_rows(encoder, crops, unprojected=unprojected).tobytes()
            answer[f"features_{n}"] = features
        return answer
