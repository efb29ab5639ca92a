"""Extraction on this machine: images are decoded in threads or processes ahead of the encoders, which run here."""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.decode import (
    IMAGES_PER_CHUNK,
    Chunk,
    DecodedImage,
    DecoderPool,
    DecoderThreads,
    ImageDecoder,
    chunks_of,
)
from cafe.cache.extract.encode import BatchEncoder, PackedBatches, ShardBatches, Target, store_rows
from cafe.cache.extract.plan import Extraction
from cafe.cache.extract.progress import Reporter
from cafe.cache.extract.schedule import PAUSE, ClaimedShard, Schedule, sample_id_of, take_known_rows
from cafe.cache.extract.shards import ShardFeatures
from cafe.compute import processors
from cafe.errors import CafeError, InputError

Workers = int | Literal["auto"]

_SAMPLE = 12  # images that are decoded to measure
_WORTH = 30.0  # seconds of decoding below which processes, each of which takes some seconds to start, gain nothing
_MOST_MEMORY = 1 << 28  # bytes of crops that are held ready


def encode_locally(schedule: Schedule, decoder: ImageDecoder, workers: Workers, reporter: Reporter) -> int:
    """Encode until no shard is missing; return how many decoding processes there were.

    Parameters
    ----------
    schedule : Schedule
        What to encode.
    decoder : ImageDecoder
        With the cropper of every extraction's encoder.
    workers : int or "auto"
        Decoding processes; 0 is threads of this process. ``"auto"`` measures a few images, and an encoding batch where
        the encoder runs on a device of its own.
    reporter : Reporter
        ``read`` is the time that decoded images were waited for, ``encode`` that features were.

    Raises
    ------
    InputError
        If ``workers`` is negative, or an image is unreadable where that is an error.
    CafeError
        If processes were asked for and cannot be had.
    """
    extractions = schedule.extractions
    batch_size = extractions[0].partial.batch_size
    n_batches = sum(shard.n_batches(batch_size) for shard in extractions[0].partial.shards)
    pool, n_processes = open_pool(decoder, extractions, batch_size, workers)
    with closing(pool), closing(BatchEncoder(extractions, n_batches)) as encoder:
        _Pipeline(schedule, pool, encoder, reporter).run()
    return n_processes


@dataclass(frozen=True)
class _ShardInWork:
    """A claimed shard, and the batches into which it is cut, for each extraction that needs it."""

    claimed: ClaimedShard
    batches: dict[int, ShardBatches]
    positions: Iterator[int]  # within the shard, of the images to come


class _Pipeline:
    """Chunks of images to the decoders, decoded images into batches, batches to the encoders, rows to their shards."""

    def __init__(self, schedule: Schedule, pool: DecoderPool, encoder: BatchEncoder, reporter: Reporter) -> None:
        self._schedule, self._pool, self._encoder, self._reporter = schedule, pool, encoder, reporter
        self._chunks: deque[tuple[Chunk, _ShardInWork]] = deque()  # not yet submitted
        self._decoding: deque[_ShardInWork] = deque()  # the shard of every chunk that the pool has
        self._encoding: deque[tuple[Callable[[], NDArray[np.float32]], list[Target]]] = deque()
        # Where rows are known, what is missing is packed; else batches are cut at fixed places of every shard.
        self._packed = {
            number: PackedBatches(extraction.partial.batch_size, reuse=not encoder.keeps_crops)
            for number, extraction in enumerate(schedule.extractions)
            if len(extraction.known)
        }

    def run(self) -> None:
        self._schedule.start()
        while True:
            while not self._pool.is_full and self._has_chunk():
                chunk, shard = self._chunks.popleft()
                self._pool.submit(chunk)
                self._decoding.append(shard)
            if self._pool.n_pending:
                with self._reporter.timing("read"):
                    decoded = self._pool.next_result()
                self._schedule.start_clock()
                self._add(self._decoding.popleft(), decoded)
                continue
            self._encode_rest()
            self._finish_batches()
            if self._schedule.is_empty:
                return
            time.sleep(PAUSE)  # other processes encode the rest

    def _has_chunk(self) -> bool:
        """Whether there is something to decode; claims another shard if need be."""
        if not self._chunks and (claimed := self._schedule.claim_next()) is not None:
            self._chunks.extend(self._chunks_of(claimed))
        return bool(self._chunks)

    def _chunks_of(self, claimed: ClaimedShard) -> list[tuple[Chunk, _ShardInWork]]:
        shard, extractions = claimed.shard, self._schedule.extractions
        rows = extractions[0].rows[shard.split][shard.start : shard.stop].tolist()
        reuse = not self._encoder.keeps_crops
        batches = {
            number: ShardBatches(extractions[number].partial.batch_size, reuse=reuse) for number in claimed.features
        }
        in_work = _ShardInWork(claimed, batches, iter(range(len(shard))))
        return [(chunk, in_work) for chunk in chunks_of(shard.split, rows, shard.views, tuple(claimed.features))]

    def _add(self, shard: _ShardInWork, decoded: list[DecodedImage]) -> None:
        """Add decoded images to batches, and the rows of those that are known to their shard."""
        for image in decoded:
            position, is_batch_complete = next(shard.positions), False
            for number, crops in zip(shard.batches, image.crops or (None,) * len(shard.batches), strict=True):
                features = shard.claimed.features[number]
                features.recognise(position, image.sha256)
                if image.unreadable is not None:
                    features.skip(position, image.unreadable)
                elif number in self._packed:
                    self._take_or_note(number, features, position, image.sha256, is_known=crops is None)
                is_batch_complete |= self._add_crops(number, shard, position, crops)
            if is_batch_complete or self._packed:
                self._schedule.report(shard.claimed.shard.split)
        self._schedule.write_complete()

    def _add_crops(self, number: int, shard: _ShardInWork, position: int, crops: NDArray[np.uint8] | None) -> bool:
        """Add the crops of one image, if there are any, to the batches of an extraction; return whether one ended."""
        batches, ended = self._packed.get(number, shard.batches[number]), False
        for batch, targets in batches.add(crops, shard.claimed.features[number], position):
            ended = True
            if targets:
                self._encode(number, batch, targets)
        return ended

    def _take_or_note(
        self, number: int, features: ShardFeatures, position: int, sha256: bytes | None, *, is_known: bool
    ) -> None:
        """Take the rows of an image that are known; note one that is encoded again for its views."""
        extraction, shard = self._schedule.extractions[number], features.shard
        if is_known:
            assert sha256 is not None
            take_known_rows(extraction, features, position, sha256)
        else:
            sample_id = sample_id_of(extraction, shard, position)
            extraction.known.note_encoded_again(sha256, sample_id, shard.views)

    def _encode_rest(self) -> None:
        """Encode what is left of packed batches: nothing that would fill them is to come now."""
        for number, packed in self._packed.items():
            for batch, targets in packed.last_batch():
                self._encode(number, batch, targets)

    def _encode(self, number: int, crops: NDArray[np.uint8], targets: list[Target]) -> None:
        """Begin to encode a batch, and wait for the oldest ones while there are too many."""
        with self._reporter.timing("encode"):
            wait = self._encoder.start(self._schedule.extractions[number], crops)
        self._encoding.append((wait, targets))
        while len(self._encoding) >= self._encoder.n_ahead:
            self._store_oldest()

    def _store_oldest(self) -> None:
        wait, targets = self._encoding.popleft()
        with self._reporter.timing("encode"):
            rows = wait()  # (b, width)
        store_rows(rows, targets)

    def _finish_batches(self) -> None:
        """Wait for all batches that have begun."""
        while self._encoding:
            self._store_oldest()
        self._schedule.wait_for_writes()
        self._schedule.report(self._schedule.extractions[0].partial.shards[-1].split)


@dataclass(frozen=True)
class _Sample:
    """What a few images told.

    Attributes
    ----------
    seconds : float
        Of one core, to decode and crop one image, with its views if any have them; 0 if none could be read.
    crops : tuple of ndarray
        One image, cropped for every encoder: (1 + views, height, width, 3), uint8; empty if none could be read.
    """

    seconds: float
    crops: tuple[NDArray[np.uint8], ...]


def open_pool(
    decoder: ImageDecoder, extractions: Sequence[Extraction], batch_size: int, workers: Workers
) -> tuple[DecoderPool, int]:
    """Choose where images are decoded, threads or processes and how many, by a short measurement.

    Parameters
    ----------
    decoder : ImageDecoder
        What workers run.
    extractions : sequence of Extraction
        One for every encoder, of the same images.
    batch_size : int
        Of the encoders; two batches of crops are held ready, as far as 256 MB go.
    workers : int or "auto"
        As of :func:`encode_locally`.

    Returns
    -------
    DecoderPool, int
        And how many processes it has.

    Raises
    ------
    InputError
        If ``workers`` is negative.
    CafeError
        If processes were asked for and cannot be had.
    """
    if workers != "auto" and workers < 0:
        raise InputError(f"--workers takes auto, 0 (threads) or a number of processes, got {workers}")
    extraction = extractions[0]
    views = max(extraction.views_of(split) for split in extraction.splits)
    sample = _measure(decoder, extraction, views) if workers != 0 else _Sample(0.0, ())
    number = _choose_number(decoder, extractions, sample) if workers == "auto" else workers
    n_ready = _crops_ahead(batch_size, sample)
    if number and sample.crops:
        try:
            return _open_processes(decoder, extractions, n_ready, views, number, sample), number
        except CafeError:
            if workers != "auto":
                raise
    return DecoderThreads(decoder, _chunks_ahead(n_ready, views, processors())), 0


def _measure(decoder: ImageDecoder, extraction: Extraction, views: int) -> _Sample:
    decoder = replace(decoder, known=())
    split = "train" if views else extraction.splits[-1]
    rows = extraction.rows[split]
    chunk = Chunk(split, (), views, tuple(range(len(decoder.croppers))))
    seconds: list[float] = []
    crops: tuple[NDArray[np.uint8], ...] = ()
    for row in rows[np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).astype(int)].tolist():
        started = perf_counter()
        decoded = decoder.decode(chunk, row)
        if decoded.unreadable is None:
            seconds.append(perf_counter() - started)
            crops = tuple(each for each in decoded.crops if each is not None)
    # The median: the first one pays for imports.
    return _Sample(float(np.median(seconds)) if seconds else 0.0, crops)


def _choose_number(decoder: ImageDecoder, extractions: Sequence[Extraction], sample: _Sample) -> int:
    n_missing = max(extraction.n_images - len(extraction.known) for extraction in extractions)
    if sample.seconds * n_missing < _WORTH:
        return 0
    try:
        pickle.dumps(decoder)
    except Exception:  # pickle raises nearly anything
        return 0
    if extractions[0].encoder.device == "cpu":
        return processors()  # decoding fills whatever time the encoder leaves
    per_image = sum(map(_encoding_seconds, extractions, sample.crops))
    enough = int(np.ceil(1.25 * sample.seconds / max(per_image, 1e-9)))
    return max(1, min(enough, processors() - 1))


def _encoding_seconds(extraction: Extraction, crops: NDArray[np.uint8]) -> float:
    """Seconds of one image with its views: the second of two equal batches."""
    encoder = extraction.encoder
    batch = np.repeat(crops[:1], encoder.batch_size, axis=0)  # (batch_size, height, width, 3)
    encoder.encode_images(batch)
    started = perf_counter()
    encoder.encode_images(batch)
    return (perf_counter() - started) / len(batch) * len(crops)


def _crops_ahead(batch_size: int, sample: _Sample) -> int:
    """Return how many crops to hold ready: two batches, as far as memory goes."""
    if not sample.crops:
        return 2 * batch_size
    bytes_each = sum(int(crops[0].nbytes) for crops in sample.crops)
    return max(1, min(2 * batch_size, _MOST_MEMORY // bytes_each))


def _chunks_ahead(n_crops: int, views: int, workers: int) -> int:
    """Return how many chunks must be pending to have so many crops ready, and no worker idle."""
    return max(2 * workers, -(-n_crops // (IMAGES_PER_CHUNK * (1 + views))))


def _open_processes(
    decoder: ImageDecoder, extractions: Sequence[Extraction], n_ready: int, views: int, number: int, sample: _Sample
) -> DecoderPool:
    if os.name != "posix":
        raise CafeError("decoding in processes needs a POSIX system; use --workers 0")
    from cafe.cache.extract.decode_processes import DecoderProcesses

    return DecoderProcesses(
        decoder,
        tuple((crops.shape[1], crops.shape[2]) for crops in sample.crops),
        views=views,
        ahead=_chunks_ahead(n_ready, views, number),
        workers=number,
        beside_encoder=any(extraction.encoder.device == "cpu" for extraction in extractions),
    )
