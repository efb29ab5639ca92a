"""Turns the shards of an extraction into the one file of its cache, without holding them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.encoding import ProgressCallback
from cafe.cache.extract.losses import lost_classes
from cafe.cache.extract.partial import Partial
from cafe.cache.extract.plan import Plan
from cafe.cache.extract.remembering import remembered
from cafe.cache.extract.report import Clocks, ExtractionProgress
from cafe.cache.extract.run import Run
from cafe.cache.extract.shards import Shard
from cafe.cache.extract.text import encode_text
from cafe.cache.format.layout import (
    IMAGE_FEATURES,
    PROJECTION_FEATURES,
    SPLITS,
    VIEW_FEATURES,
    arrays_to_store,
    attributes_to_store,
    sample_arrays,
)
from cafe.cache.format.writer import Part, StreamedArray, write_arrays
from cafe.errors import CacheError, InputError
from cafe.features import Features
from cafe.files import check_free_space


def finish(run: Run, clocks: Clocks, tell: ProgressCallback) -> list[str]:
    """Encode the text, write the cache and remove the shards; or see that another process has done so.

    Parameters
    ----------
    run : Run
        All of whose shards are done.
    clocks, tell
        As for extraction.

    Returns
    -------
    list of str
        Classes that a split has lost, one sentence each.

    Raises
    ------
    InputError
        If no image of a split or class could be read; the shards are removed then, since repaired images make
        another data set.
    CacheError
        If a shard is damaged; it is removed, and made again by the next run.
    CafeError
        If the disk has too little space or fails; the shards are kept.
    """
    partial = run.partial
    with partial.whole():
        if run.is_finished_elsewhere():
            return []
        check_free_space(run.target.path.parent, run.plan.bytes_needed())
        positions, unreadable = _what_is_there(run.plan, partial)
        try:
            notes = lost_classes(run.plan, positions)
        except InputError:
            partial.remove()
            raise
        text = encode_text(remembered(run.plan, partial), clocks, tell)
        with clocks.running("write"):
            _write(run, positions, unreadable, text, clocks)
        partial.remove()
        tell(ExtractionProgress("write", "", 1, 1))
    return notes


def _what_is_there(plan: Plan, partial: Partial) -> tuple[dict[str, NDArray[np.int64]], list[Mapping[str, str]]]:
    """Return the positions of the readable images of each split, and the unreadable ones."""
    found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in plan.splits}
    unreadable: list[Mapping[str, str]] = []
    for shard in partial.shards:
        content = partial.read(shard)
        if content is None:
            raise damaged(partial, shard)
        found[shard.split].append(content.positions)
        unreadable.extend(content.unreadable)
    return {name: np.concatenate(parts) for name, parts in found.items()}, unreadable


def _write(
    run: Run,
    positions: Mapping[str, NDArray[np.int64]],
    unreadable: list[Mapping[str, str]],
    text: Mapping[str, Any],
    clocks: Clocks,
) -> None:
    plan, encoder = run.plan, run.plan.encoder
    features = Features(
        {},
        tuple(plan.dataset.class_names),
        **text,
        logit_scale=encoder.logit_scale,
        logit_bias=encoder.logit_bias,
    )
    recorded = run.partial.recorded  # of the run that began it, whose batches these are
    provenance = replace(
        plan.provenance(unreadable), recorded={"image": recorded, "text": {**plan.recorded, **_batch(recorded)}}
    )
    arrays: dict[str, NDArray[Any] | StreamedArray] = dict(
        arrays_to_store(features, provenance, plan.stored_dtype, None, plan.projection)
    )
    for name in plan.splits:
        for key, array in _split_arrays(plan, name, positions[name]).items():
            arrays[f"{SPLITS}/{name}/{key}"] = array
    seconds = {name: clocks.seconds[name] for name in ("read", "encode")}
    attributes = attributes_to_store(features, provenance, False, seconds, None)
    splits = attributes[SPLITS]
    attributes[SPLITS] = np.array(list(plan.splits), dtype=splits.dtype)
    write_arrays(run.target.path, arrays, attributes, _parts(plan, run.partial))


def _batch(recorded: Mapping[str, Any]) -> dict[str, Any]:
    return {"batch_size": recorded["batch_size"]}


def _split_arrays(plan: Plan, name: str, positions: NDArray[np.int64]) -> dict[str, NDArray[Any] | StreamedArray]:
    given = plan.dataset.splits[name]
    rows = plan.rows[name][positions]
    drawn = plan.draws is not None and name in ("train", "val")
    n, d, dtype = len(rows), plan.encoder.dim, np.dtype(plan.stored_dtype).newbyteorder("<")
    arrays: dict[str, NDArray[Any] | StreamedArray] = {
        IMAGE_FEATURES: StreamedArray((n, d), dtype),
        **sample_arrays(
            name,
            np.asarray(given.labels, dtype=np.int64)[rows],
            [given.sample_ids[row] for row in rows.tolist()],
            np.asarray(given.sizes, dtype=np.int64)[rows],
            np.asarray(given.labels, dtype=np.int64) if drawn else None,
            rows if drawn else None,
        ),
    }
    if views := plan.views_of(name):
        arrays[VIEW_FEATURES] = StreamedArray((views, n, d), dtype)
    if plan.projection is not None:
        arrays[PROJECTION_FEATURES] = StreamedArray((n, len(plan.projection)), dtype)
    return arrays


def _parts(plan: Plan, partial: Partial) -> Iterable[Part]:
    """Read each shard once, and give what it holds of each array."""
    d = plan.encoder.dim
    starts = dict.fromkeys(plan.splits, 0)
    for shard in partial.shards:
        content = partial.read(shard)
        if content is None:
            raise damaged(partial, shard)
        start = starts[shard.split]
        rows = slice(start, start + len(content.positions))
        starts[shard.split] = rows.stop
        if rows.stop == rows.start:
            continue
        folder = f"{SPLITS}/{shard.split}"
        images, views = content.features[0], content.features[1:]  # (rows, d + w) and (views, rows, d + w)
        yield f"{folder}/{IMAGE_FEATURES}", rows, images[:, :d]
        if plan.projection is not None:
            yield f"{folder}/{PROJECTION_FEATURES}", rows, images[:, d:]
        if plan.views_of(shard.split):
            yield f"{folder}/{VIEW_FEATURES}", (slice(None), rows), views[..., :d]


def damaged(partial: Partial, shard: Shard) -> CacheError:
    """Make the error for a shard that was done and cannot be read."""
    return CacheError(
        f"{shard.name} in {partial.folder} was damaged and is removed; the same command makes it again and carries on"
    )
