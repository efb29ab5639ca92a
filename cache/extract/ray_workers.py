"""What Ray runs elsewhere: decoding tasks, and actors that hold the encoders. Nothing here imports Ray at its top.

A unit of work is one encoding batch of one shard, cut at the same fixed places as without Ray (see
:class:`~cafe.cache.extract.assembly.ShardAssembly`); so features are encoded together with the same neighbours, and
the bytes are the same. Rows of a Ray data set hold numbers, text and bytes only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cafe.cache.extract.assembly import Place
from cafe.cache.extract.decoding import Decoding, Piece
from cafe.cache.extract.plan import encode_rows
from cafe.cache.extract.shards import Shard
from cafe.encoders.base import Encoder
from cafe.errors import CafeError, UnreadableImageError

Row = dict[str, Any]


@dataclass(frozen=True)
class DecodingJob:
    """What every decoding task needs.

    Attributes
    ----------
    decoding : Decoding
        Data set and croppers.
    rows : dict of str to ndarray of int64
        Rows of each split, as of the plan.
    shards : tuple of Shard
        All of them.
    batch_size : int
        Places of one batch.
    """

    decoding: Decoding
    rows: dict[str, Any]
    shards: tuple[Shard, ...]
    batch_size: int


def batches_of(shard: Shard, batch_size: int) -> range:
    """Return the numbers of a shard's batches."""
    return range(-(-len(shard) * (1 + shard.views) // batch_size))


def places_of(shard: Shard, batch: int, batch_size: int) -> list[Place]:
    """Return the places (view, position) of a batch.

    Examples
    --------
    >>> places_of(Shard(0, "train", 8, 11, 1), 1, 4)
    [(0, 2), (1, 2)]
    """
    last = min((batch + 1) * batch_size, len(shard) * (1 + shard.views))
    return [divmod(place, 1 + shard.views)[::-1] for place in range(batch * batch_size, last)]


class Decode:
    """The decoding task: a row that names a batch becomes one that holds its crops for every encoder.

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
        places = places_of(shard, row["batch"], job.batch_size)
        croppers = tuple(row["croppers"])
        crops: list[list[Any]] = [[] for _ in croppers]
        kept: list[Place] = []
        reasons: dict[int, tuple[str, str]] = {}
        for position, views in _by_image(places):
            index = int(job.rows[shard.split][shard.start + position])
            piece = Piece(shard.split, (index,), shard.views, croppers)
            found = job.decoding.crops(piece, index)
            if isinstance(found, UnreadableImageError):
                reasons[position] = (found.sample_id, found.reason)
                continue
            for own, of_image in zip(crops, found, strict=True):
                own += [of_image[view] for view in views]
            kept += [(view, position) for view in views]
        answer = {**row, "places": json.dumps(kept), "unreadable": json.dumps(reasons)}
        for n, own in enumerate(crops):
            answer[f"crops_{n}"] = np.stack(own).tobytes() if own else b""
            answer[f"shape_{n}"] = json.dumps([len(own), *(own[0].shape if own else ())])
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
    """The actor: it holds the encoders, and turns crops into features.

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
        answer = {name: row[name] for name in ("shard", "batch", "croppers", "places", "unreadable")}
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
