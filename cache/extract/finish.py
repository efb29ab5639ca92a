"""Makes the one file of a cache from the shards of its extraction, without holding them in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.plan import Extraction
from cafe.cache.extract.progress import ExtractionProgress, Reporter
from cafe.cache.extract.shards import StoredShard
from cafe.cache.extract.text import encode_text
from cafe.cache.format.layout import (
    IMAGE_FEATURES,
    IMAGE_SHA256,
    PROJECTION_FEATURES,
    SPLITS,
    VIEW_FEATURES,
    arrays_to_store,
    attributes_to_store,
    sample_arrays,
)
from cafe.cache.format.writer import Part, StreamedArray, write_arrays
from cafe.errors import InputError
from cafe.features import Features
from cafe.files import check_free_space

_Shards = Mapping[str, Sequence[StoredShard]]  # of each split


def finish(extraction: Extraction, reporter: Reporter) -> Extraction:
    """Encode the text, write the cache and remove the shards; or see that another process has done so.

    Parameters
    ----------
    extraction : Extraction
        All of whose shards are done.
    reporter : Reporter
        Of all stages.

    Returns
    -------
    Extraction
        With a note for each class that a split has lost.

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
    partial = extraction.partial
    with partial.claim_all():
        if partial.look_for_cache():
            return extraction
        check_free_space(extraction.path.parent, extraction.bytes_needed())
        shards: dict[str, list[StoredShard]] = {name: [] for name in extraction.splits}
        for shard in partial.shards:
            shards[shard.split].append(partial.read(shard))
        positions = {name: np.concatenate([shard.positions for shard in own]) for name, own in shards.items()}
        try:
            notes = _lost_classes(extraction, positions)
        except InputError:
            partial.remove()
            raise
        text = encode_text(extraction, reporter)
        with reporter.timing("write"):
            _write(extraction, shards, positions, text, reporter.seconds)
        partial.remove()
        reporter.report(ExtractionProgress("write", "", 1, 1))
    return replace(extraction, notes=(*extraction.notes, *notes))


def _lost_classes(extraction: Extraction, positions: Mapping[str, NDArray[np.int64]]) -> list[str]:
    """Refuse a class that has no readable image left at all; name those that a single split has lost.

    Raises
    ------
    InputError
        If no image of a split, or of a class in any split, could be read.
    """
    dataset, notes = extraction.dataset, []
    before, after = set[int](), set[int]()
    for name, readable in positions.items():
        if not len(readable):
            raise InputError(f"no image of split {name!r} of {dataset.name} can be read")
        labels = dataset.splits[name].labels[extraction.rows[name]]
        had, has = set(labels.tolist()), set(labels[readable].tolist())
        before, after = before | had, after | has
        for label in sorted(had - has):
            notes.append(f"no image of class {dataset.class_names[label]!r} in split {name!r} could be read")
    lost = [dataset.class_names[label] for label in sorted(before - after)]
    if lost:
        raise InputError(
            f"no image of class {', '.join(map(repr, lost))} of {dataset.name} can be read; "
            f"repair the images, or remove the class"
        )
    return notes


def _write(
    extraction: Extraction,
    shards: _Shards,
    positions: Mapping[str, NDArray[np.int64]],
    text: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> None:
    """Write the cache: text and what identifies the samples from memory, features streamed from the shards."""
    encoder = extraction.encoder
    features = Features(
        {},
        tuple(extraction.dataset.class_names),
        **text,
        logit_scale=encoder.logit_scale,
        logit_bias=encoder.logit_bias,
    )
    unreadable = [image for of_split in shards.values() for shard in of_split for image in shard.unreadable]
    # The batches of images are those of the run that began the shards.
    recorded = {"image": extraction.partial.recorded, "text": extraction.recorded}
    provenance = replace(extraction.provenance(unreadable), recorded=recorded)
    arrays: dict[str, NDArray[Any] | StreamedArray] = dict(
        arrays_to_store(features, provenance, extraction.stored_dtype, None, extraction.projection)
    )
    for name in extraction.splits:
        for key, array in _split_arrays(extraction, name, positions[name], shards[name]).items():
            arrays[f"{SPLITS}/{name}/{key}"] = array
    times = {name: seconds[name] for name in ("read", "encode")}
    attributes = attributes_to_store(features, provenance, False, times, None)
    attributes[SPLITS] = list(extraction.splits)
    write_arrays(extraction.path, arrays, attributes, _parts(extraction, shards))


def _split_arrays(
    extraction: Extraction, name: str, positions: NDArray[np.int64], shards: Sequence[StoredShard]
) -> dict[str, NDArray[Any] | StreamedArray]:
    """Return the arrays of a split by their names in the cache, those of features as shapes that are streamed later.

    ``positions`` (n,) are the readable images' places among the images of the split that were to be extracted.
    """
    split = extraction.dataset.splits[name]
    labels = np.asarray(split.labels, dtype=np.int64)  # of the whole split
    rows = extraction.rows[name][positions]  # (n,), rows of the split
    drawn = extraction.draws is not None and name in ("train", "val")
    n, d, dtype = len(rows), extraction.encoder.dim, np.dtype(extraction.stored_dtype).newbyteorder("<")
    arrays: dict[str, NDArray[Any] | StreamedArray] = {
        IMAGE_FEATURES: StreamedArray((n, d), dtype),
        **sample_arrays(
            name,
            labels[rows],
            [split.sample_ids[row] for row in rows.tolist()],
            np.asarray(split.sizes, dtype=np.int64)[rows],
            labels if drawn else None,
            rows if drawn else None,
        ),
    }
    hashes = [shard.image_sha256 for shard in shards if shard.image_sha256 is not None]
    if len(hashes) == len(shards):  # images in memory have no hashes
        arrays[IMAGE_SHA256] = np.concatenate(hashes)  # (n, 32)
    if views := extraction.views_of(name):
        arrays[VIEW_FEATURES] = StreamedArray((views, n, d), dtype)
    if extraction.projection is not None:
        arrays[PROJECTION_FEATURES] = StreamedArray((n, len(extraction.projection)), dtype)
    return arrays


def _parts(extraction: Extraction, shards: _Shards) -> Iterator[Part]:
    """Read every byte of the shards once, and give the parts of each array in the order of its bytes."""
    d = extraction.encoder.dim
    for name, of_split in shards.items():
        folder = f"{SPLITS}/{name}"
        for view in range(1 + extraction.views_of(name)):  # view 0 is the image itself
            stop = 0
            for shard in of_split:
                features = shard.next_view()  # (k, d), or (k, d + w) with what goes into the projection
                start, stop = stop, stop + len(features)
                if view:
                    yield f"{folder}/{VIEW_FEATURES}", (view - 1, slice(start, stop)), features[:, :d]
                    continue
                yield f"{folder}/{IMAGE_FEATURES}", slice(start, stop), features[:, :d]
                if extraction.projection is not None:
                    yield f"{folder}/{PROJECTION_FEATURES}", slice(start, stop), features[:, d:]
