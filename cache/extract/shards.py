"""Shards: the pieces in which image features reach the disk, each whole or not there.

A plan is cut into shards at fixed positions, and a shard into encoding batches at fixed positions, so neither speed,
nor the number of workers, nor an interruption changes which images are encoded together.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.plan import Plan, batches
from cafe.files import replacing

BATCHES_PER_SHARD = 8


@dataclass(frozen=True)
class Shard:
    """A run of images of one split.

    Attributes
    ----------
    number : int
        Within the plan, from 0.
    split : str
        Name of the split.
    start, stop : int
        Positions within ``plan.rows[split]``.
    views : int
        Augmentations of each image.
    """

    number: int
    split: str
    start: int
    stop: int
    views: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"shard-{self.number:06d}"


@dataclass(frozen=True)
class ShardContent:
    """What a shard holds.

    Attributes
    ----------
    features : ndarray of shape (1 + views, k, d)
        In the stored dtype: the image itself, then its views, of the k images that could be read.
    positions : ndarray of shape (k,), int64
        Positions of those images within ``plan.rows[split]``, ascending.
    unreadable : sequence of mapping
        The others: ``split``, ``sample_id``, ``reason``.
    """

    features: NDArray[Any]
    positions: NDArray[np.int64]
    unreadable: Sequence[Mapping[str, str]] = ()


def shards_of(plan: Plan, images: int) -> tuple[Shard, ...]:
    """Cut a plan into shards of so many images, split by split."""
    found: list[Shard] = []
    for split in plan.splits:
        for part in batches(len(plan.rows[split]), images):
            found.append(Shard(len(found), split, part.start, part.stop, plan.views_of(split)))
    return tuple(found)


def write_shard(path: Path, run: str, shard: Shard, content: ShardContent) -> None:
    """Write a shard in one step, to a folder that must be there.

    Parameters
    ----------
    path : Path
        The file.
    run : str
        Id of the run that it belongs to.
    shard, content : Shard, ShardContent
        Which one, and what it holds.
    """
    about = {"run": run, "shard": shard.number, "unreadable": [dict(one) for one in content.unreadable]}
    text = np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype=np.uint8)
    with replacing(path, prepare=False) as temporary, temporary.open("wb") as stream:
        np.savez(stream, features=content.features, positions=content.positions, about=text)


def read_shard(path: Path, run: str, shard: Shard) -> ShardContent | None:
    """Read a shard.

    Returns
    -------
    ShardContent or None
        None if it is not there, is damaged (every array has a checksum), or belongs to another run.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            if about["run"] != run or about["shard"] != shard.number:
                return None
            return ShardContent(file["features"], file["positions"], tuple(about["unreadable"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
