"""Looks through the caches at hand, and extractions that are not finished, for what need not be encoded again.

Nothing is taken from a cache or shard of which an array that is needed differs from its checksum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.array_file import ArrayFile
from cafe.cache.extract.known import KnownRows, KnownSplit
from cafe.cache.extract.plan import Extraction
from cafe.cache.extract.unfinished import SUFFIX as PARTIAL
from cafe.cache.extract.unfinished import encoded_shards, partial_folder
from cafe.cache.format import layout
from cafe.cache.format.checksums import memory_sha256
from cafe.cache.format.fingerprint import canonical_json, differing_fields
from cafe.cache.format.reader import load_sizes, open_cache, read_features, read_provenance
from cafe.cache.locate import list_caches
from cafe.errors import CacheError, CafeError
from cafe.features import Features, Split

# What may change the last bits of a feature without being part of its identity.
_RECORDED = ("device", "batch_size", "libraries")


def find_known_rows(extraction: Extraction, folders: Iterable[Path], *, any_size: bool = False) -> KnownRows:
    """Look for caches of the same encoder, preprocessing, decoder and dtype that hold images of the same sizes.

    Shards of extractions that are not finished are looked through as well, for the images themselves without views.

    Parameters
    ----------
    extraction : Extraction
        What is wanted.
    folders : iterable of Path
        Where caches are looked for.
    any_size : bool, default=False
        Images of any size, where those that are wanted are not known yet.

    Returns
    -------
    KnownRows
        Empty if there are none.
    """
    folders, wanted = list(folders), None
    if not any_size:
        wanted = np.unique(np.concatenate([extraction.dataset.splits[name].sizes for name in extraction.splits]))
        wanted = wanted[wanted > 0]
    sources: list[tuple[KnownSplit, NDArray[np.int64]]] = []
    damaged: list[str] = []
    for path in _caches_in(folders):
        try:
            sources += _sources_of(path, extraction, wanted)
        except _DamagedError as error:
            damaged.append(str(error))
        except CafeError:  # it cannot be read at all; `cafe cache ls` says so
            continue
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for partial in sorted(folder.glob(f"[!.]*{PARTIAL}")):
            if not partial.is_symlink():
                sources += _sources_in_shards(partial, extraction)
    return KnownRows(sources, damaged)


def find_known_text(extraction: Extraction, folders: Iterable[Path]) -> Features | None:
    """Look for a cache with the text features that are wanted, each array of them as its checksum has it."""
    wanted = canonical_json(extraction.text)
    for path in _caches_in(folders):
        try:
            with open_cache(path) as file:
                text = read_provenance(file)["text"]
            if text is None or canonical_json(text) != wanted:
                continue
            features = read_features(path, memmap=True)  # text is read, images are not
            arrays = {
                layout.TEXT_FEATURES: features.text_features,
                layout.PROMPT_FEATURES: features.prompt_features,
                layout.PROMPT_CLASSES: features.prompt_classes,
            }
            _check(path, {name: array for name, array in arrays.items() if array is not None})
        except CafeError:
            continue
        return features
    return None


def _caches_in(folders: Iterable[Path]) -> list[Path]:
    """Return the caches that can be read, the newest of each folder first."""
    distinct = dict.fromkeys(folder.resolve() for folder in folders)
    return [summary.path for folder in distinct for summary in list_caches(folder) if summary.damaged is None]


class _DamagedError(CacheError):
    """A cache that must not be copied from."""


def _sources_of(
    path: Path, extraction: Extraction, wanted_sizes: NDArray[np.int64] | None
) -> list[tuple[KnownSplit, NDArray[np.int64]]]:
    """Return the splits of a cache that can be copied from, each with its rows of the wanted sizes, or of all."""
    with open_cache(path) as file:
        provenance = read_provenance(file)
    if not _same_encoding(provenance, extraction.image):
        return []
    try:
        sizes, features = load_sizes(path), read_features(path, memmap=True)
    except CacheError as error:
        raise _DamagedError(f"nothing was taken from a cache at hand: {error}") from error
    views = _same_views(provenance["image"].get("views"), extraction.image.get("views"))
    differences = _recorded_otherwise(provenance["recorded"].get("image", {}), extraction)
    sources, arrays = [], dict[str, NDArray[Any]]()
    for name, split in features.splits.items():
        own_sizes = sizes[name]
        rows = np.flatnonzero(own_sizes > 0 if wanted_sizes is None else np.isin(own_sizes, wanted_sizes))
        if split.image_sha256 is None or not len(rows) or split.image_features.shape[1] != extraction.encoder.dim:
            continue
        folder = f"{layout.SPLITS}/{name}"
        arrays[f"{folder}/{layout.IMAGE_SHA256}"] = split.image_sha256
        arrays[f"{folder}/{layout.IMAGE_FEATURES}"] = split.image_features
        if extraction.projection is not None:
            if split.projection_features is None:
                continue
            arrays[f"{folder}/{layout.PROJECTION_FEATURES}"] = split.projection_features
        if views and split.view_features is not None:
            arrays[f"{folder}/{layout.VIEW_FEATURES}"] = split.view_features
            arrays[f"{folder}/{layout.SAMPLE_IDS}"] = _stored_ids(path, name)
        copied = split if views else Split(
            split.image_features, split.labels, split.sample_ids,
            projection_features=split.projection_features, image_sha256=split.image_sha256,
        )  # fmt: skip
        sources.append((KnownSplit(path, copied, differences), rows))
    _check(path, arrays)
    return sources


def _sources_in_shards(folder: Path, extraction: Extraction) -> list[tuple[KnownSplit, NDArray[np.int64]]]:
    """Return the rows of shards that can be copied, of each run that was at work in the folder."""
    sources = []
    for encoded in encoded_shards(folder):
        if folder == partial_folder(extraction.path.resolve()) and encoded.image == extraction.image:
            continue  # it is carried on itself
        if not _same_encoding({"image": encoded.image, "normalised": False}, extraction.image):
            continue
        differences = _recorded_otherwise(encoded.recorded, extraction)
        for path in encoded.shards:
            # Whatever is wrong with a shard, its images are encoded again.
            with suppress(OSError, ValueError, KeyError, TypeError):
                split = _split_of_shard(path, encoded.run, extraction)
                if split is not None:
                    sources.append((KnownSplit(folder, split, differences), np.arange(len(split), dtype=np.int64)))
    return sources


def _split_of_shard(path: Path, run: str, extraction: Extraction) -> Split | None:
    """Map the images of a shard; None if they have no hashes, or lack what goes into the projection."""
    file, d, width = ArrayFile(path), extraction.encoder.dim, extraction.row_width
    if file.about["run"] != run or "image_sha256" not in file:
        return None
    hashes, features = file.read("image_sha256"), file.map("view-0")  # (k, 32), (k, d) or (k, d + w)
    k, stored_width = features.shape
    if stored_width < width or hashes.shape != (k, 32) or features.dtype != np.dtype(extraction.stored_dtype):
        return None
    return Split(
        features[:, :d],
        np.zeros(k, dtype=np.int64),
        np.full(k, ""),  # the sample ids are not kept
        projection_features=features[:, d:] if width > d else None,
        image_sha256=hashes,
    )


def _recorded_otherwise(recorded: Mapping[str, Any], extraction: Extraction) -> tuple[str, ...]:
    """Say what features were made with that is otherwise now, without changing their identity."""
    return tuple(
        differing_fields(
            {key: recorded[key] for key in _RECORDED if key in recorded},
            {key: extraction.recorded[key] for key in _RECORDED if key in recorded},
            ending="is here now",
        )
    )


def _stored_ids(path: Path, split: str) -> NDArray[Any]:
    with open_cache(path) as file:
        return file.arrays[f"{layout.SPLITS}/{split}/{layout.SAMPLE_IDS}"][()]


def _check(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Compare arrays, and the provenance that says what they are, with their checksums. Raises _DamagedError."""
    with open_cache(path) as file:
        sums = {name: file.arrays[name].attrs[layout.ARRAY_SHA256] for name in (*arrays, layout.PROVENANCE)}
        to_check = {**arrays, layout.PROVENANCE: file.arrays[layout.PROVENANCE][()]}
    for name, array in to_check.items():
        if memory_sha256(array) != sums[name]:
            raise _DamagedError(
                f"nothing was taken from cache {path}: array {name} differs from its checksum, so it is damaged"
            )


def _same_encoding(provenance: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """Whether a cache's image features are those that would be computed of the same bytes now."""
    identity = provenance["image"]
    if provenance["normalised"] or "imported" in identity:
        return False
    fields = ("encoder", "stored_dtype", "decoder")
    return canonical_json([identity.get(key) for key in fields]) == canonical_json([image.get(key) for key in fields])


def _same_views(views: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None) -> bool:
    """Whether the views of a cache begin with the wanted ones: the same but for their number, which is no smaller."""
    if views is None or wanted is None:
        return False
    same = canonical_json({**views, "n": 0}) == canonical_json({**wanted, "n": 0})
    return same and int(views["n"]) >= int(wanted["n"])
