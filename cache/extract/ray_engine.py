"""Extraction by Ray Data: decoding on any CPU of a cluster, encoders on actors, the shards written here.

This process claims the shards, hands their batches to Ray, and writes every shard as its last batch arrives, exactly as
it would without Ray. A worker or node that is lost takes nothing with it: Ray makes its batches again elsewhere. If
this process is lost, the shards that were written are there, and the same command carries on.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from cafe.cache.extract.assembly import OnError, Place, ShardAssembly
from cafe.cache.extract.decoding import Decoding, processors
from cafe.cache.extract.encoding import ProgressCallback
from cafe.cache.extract.ray_workers import Decode, DecodingJob, Encode, batches_of
from cafe.cache.extract.report import Clocks
from cafe.cache.extract.run import Run
from cafe.cache.extract.running import Pass, Work
from cafe.cache.extract.shards import Shard
from cafe.errors import CafeError, InputError, MissingDependencyError, UnreadableImageError, unknown_name

ENGINES = ("local", "ray")
_PAUSE = 0.1  # seconds between two looks at what other processes have finished
_PATIENCE = 10.0  # seconds for a cluster to answer


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


class _Assembly(ShardAssembly):
    """A shard whose batches come in any order."""

    def __init__(self, run: Run, shard: Shard, on_error: OnError) -> None:
        super().__init__(run.plan, shard, on_error)
        self._missing = set(batches_of(shard, run.partial.batch_size))

    @property
    def is_encoded(self) -> bool:
        return not self._missing

    def take(self, row: dict[str, Any], column: int) -> None:
        """Take a batch, once."""
        if row["batch"] not in self._missing:
            return
        self._missing.discard(row["batch"])
        places: list[Place] = [(view, position) for view, position in json.loads(row["places"])]
        for _, position in places:
            self.found(position, None)
        for position, (sample_id, reason) in json.loads(row["unreadable"]).items():
            self.found(int(position), UnreadableImageError(sample_id, reason))
        if places:
            features = np.frombuffer(row[f"features_{column}"], dtype=np.float32)
            self.store(features.reshape(len(places), -1), places)


class RayPass(Pass):
    """One pass over what is missing, by Ray.

    Parameters
    ----------
    runs, on_error, clocks, tell
        As for :class:`~cafe.cache.extract.running.Pass`.
    decoding : Decoding
        What decoding tasks do.
    """

    def __init__(
        self, runs: list[Run], on_error: OnError, clocks: Clocks, tell: ProgressCallback, decoding: Decoding
    ) -> None:
        super().__init__(runs, on_error, clocks, tell)
        self._decoding = decoding

    def run_on(self, address: str | None) -> int:
        """Encode until nothing is missing; return how many processors Ray has.

        Raises
        ------
        CafeError
            If the cluster cannot be had, or something fails there.
        """
        self._begin()
        with _cluster(address) as ray:
            processors_there = int(ray.cluster_resources().get("CPU", 1))
            partial = self.runs[0].partial
            rows = {name: np.asarray(one) for name, one in self.runs[0].plan.rows.items()}
            job = ray.put(DecodingJob(self._decoding, rows, partial.shards, partial.batch_size))
            encoders = ray.put([(run.plan.encoder, run.plan.projection is not None) for run in self.runs])
            while self._todo:
                works = {work.shard.number: work for work in iter(self._next_work, None)}
                if works:
                    self._encode_works(works, _pipeline(ray, self._items(works), job, encoders, self.runs))
                elif self._todo:
                    time.sleep(_PAUSE)  # the rest is in the hands of other processes
        return processors_there

    def _encoding(self, run: Run, shard: Shard) -> ShardAssembly:
        return _Assembly(run, shard, self._on_error)

    def _items(self, works: dict[int, Work]) -> list[dict[str, Any]]:
        size = self.runs[0].partial.batch_size
        return [
            {"shard": number, "batch": batch, "croppers": sorted(work.claims)}
            for number, work in works.items()
            for batch in batches_of(work.shard, size)
        ]

    def _encode_works(self, works: dict[int, Work], rows: Iterator[dict[str, Any]]) -> None:
        with self._clocks.running("encode"):
            row = next(rows, None)
        while row is not None:
            work = works[int(row["shard"])]
            for column, number in enumerate(row["croppers"]):
                work.encodings[int(number)].take(row, column)
            self._report(work.shard.split)
            self._keep_what_is_encoded()
            with self._clocks.running("encode"):
                row = next(rows, None)


def _pipeline(
    ray: Any, items: list[dict[str, Any]], job: Any, encoders: Any, runs: Sequence[Run]
) -> Iterator[dict[str, Any]]:
    """Let Ray Data work, and yield every batch as it comes; it makes what a lost worker had again by itself."""
    there = ray.cluster_resources()
    on_cpu = runs[0].plan.encoder.device == "cpu"
    cores = int(there.get("CPU", 1))
    # Encoding is most of the work on a CPU; some cores must be left for decoding, or nothing would ever begin.
    most = max(1, cores - max(1, cores // 8)) if on_cpu else max(1, int(there.get("GPU", 0)))
    found = (
        ray.data.from_items(items, override_num_blocks=len(items))
        # Less than a core, and so not the same as encoding: Ray would fuse steps of equal wishes into one.
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
        for batch in found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from batch.to_pylist()
    except ray.exceptions.RayError as error:
        raise _told(error) from error


def _told(error: Exception) -> CafeError:
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(inner, CafeError):
            return inner
        cause = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return CafeError(f"Ray could not encode all images: {lines[-1] if lines else type(error).__name__}")


def _knock(address: str) -> None:
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
    ours = not ray.is_initialized()
    if ours:
        shared: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address is None:
                ray.init("local", num_cpus=max(2, processors()), **shared)
            else:
                _knock(address)
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            where = "on this machine" if address is None else f"at {address}"
            first = str(error).strip().partition("\n")[0]
            raise CafeError(f"no Ray cluster could be had {where}: {first}") from error
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
