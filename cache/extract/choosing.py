"""Chooses where images are decoded, threads or processes and how many, by a short measurement."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.decoding import Decoding, Piece, Source, ThreadSource, pieces_ahead, processors
from cafe.cache.extract.plan import Plan
from cafe.errors import CafeError, InputError, UnreadableImageError

Workers = int | Literal["auto"]

_SAMPLE = 12  # images that are decoded to measure
_WORTH = 30.0  # seconds of decoding below which processes, each of which takes some seconds to start, gain nothing
_MOST_MEMORY = 1 << 28  # bytes of crops that are held ready


@dataclass(frozen=True)
class Sample:
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


def open_source(decoding: Decoding, plans: Sequence[Plan], batch_size: int, workers: Workers) -> tuple[Source, int]:
    """Open the source of crops for a pass.

    Parameters
    ----------
    decoding : Decoding
        What workers do.
    plans : sequence of Plan
        One for every encoder, of the same images.
    batch_size : int
        Of the encoders; two batches of crops are held ready, as far as 256 MB go.
    workers : int or "auto"
        Processes; 0 is threads of this process. ``"auto"`` measures a few images, and an encoding batch where the
        encoder runs on a device of its own.

    Returns
    -------
    Source, int
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
    plan = plans[0]
    views = max(plan.views_of(split) for split in plan.splits)
    sample = _measure(decoding, plan, views) if workers != 0 else Sample(0.0, ())
    number = _number(decoding, plans, sample) if workers == "auto" else workers
    if number and sample.crops:
        try:
            return _processes(decoding, plans, batch_size, views, number, sample), number
        except CafeError:
            if workers != "auto":
                raise
    ahead = pieces_ahead(_ready(batch_size, sample), views, processors())
    return ThreadSource(decoding, ahead), 0


def _measure(decoding: Decoding, plan: Plan, views: int) -> Sample:
    split = "train" if views else plan.splits[-1]
    rows = plan.rows[split]
    piece = Piece(split, (), views, tuple(range(len(decoding.croppers))))
    seconds: list[float] = []
    crops: tuple[NDArray[np.uint8], ...] = ()
    for row in rows[np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).astype(int)].tolist():
        started = perf_counter()
        found = decoding.crops(piece, row)
        if not isinstance(found, UnreadableImageError):
            seconds.append(perf_counter() - started)
            crops = tuple(found)
    # The median: the first one pays for imports.
    return Sample(float(np.median(seconds)) if seconds else 0.0, crops)


def _number(decoding: Decoding, plans: Sequence[Plan], sample: Sample) -> int:
    plan = plans[0]
    if sample.seconds * plan.n_images < _WORTH:
        return 0
    try:
        pickle.dumps(decoding)
    except Exception:  # pickle raises nearly anything
        return 0
    if plan.encoder.device == "cpu":
        return processors()  # decoding fills whatever time the encoder leaves
    per_image = sum(_encoding_seconds(plan, crops) for plan, crops in zip(plans, sample.crops, strict=True))
    enough = int(np.ceil(1.25 * sample.seconds / max(per_image, 1e-9)))
    return max(1, min(enough, processors() - 1))


def _encoding_seconds(plan: Plan, crops: NDArray[np.uint8]) -> float:
    """Seconds of one image with its views: the second of two equal batches."""
    batch = np.repeat(crops[:1], plan.encoder.batch_size, axis=0)
    plan.encoder.encode_images(batch)
    started = perf_counter()
    plan.encoder.encode_images(batch)
    return (perf_counter() - started) / len(batch) * len(crops)


def _ready(batch_size: int, sample: Sample) -> int:
    """Crops to hold ready: two batches, as far as memory goes."""
    each = sum(crops[0].nbytes for crops in sample.crops) or 1
    return max(1, min(2 * batch_size, _MOST_MEMORY // each)) if sample.crops else 2 * batch_size


def _processes(
    decoding: Decoding, plans: Sequence[Plan], batch_size: int, views: int, number: int, sample: Sample
) -> Source:
    import os

    if os.name != "posix":
        raise CafeError("decoding in processes needs a POSIX system; use --workers 0")
    from cafe.cache.extract.workers import ProcessSource

    return ProcessSource(
        decoding,
        tuple((crops.shape[1], crops.shape[2]) for crops in sample.crops),
        views=views,
        ahead=pieces_ahead(_ready(batch_size, sample), views, number),
        workers=number,
        beside_encoder=any(plan.encoder.device == "cpu" for plan in plans),
    )
