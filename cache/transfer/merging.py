"""Merges caches that hold different splits of one data set, encoded by one encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cafe.cache.format.fingerprint import differing_fields
from cafe.cache.format.provenance import Provenance
from cafe.cache.format.reader import load_projection, load_sizes, read_features
from cafe.cache.format.writer import write_cache
from cafe.errors import CacheError, InputError
from cafe.features import Features

_ORDER = ("train", "val", "test")


def merge_caches(paths: Sequence[Path | str], out: Path | str) -> Path:
    """Write one cache with the splits of several; every array is copied unchanged.

    Parts of one data set extracted one after another become the cache that extracting them together would have made:
    it has the same fingerprint.

    Parameters
    ----------
    paths : sequence of path
        Caches with different splits. Only some of them need text features.
    out : path
        The cache to make.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    InputError
        If there are fewer than two, ``out`` exists, or two hold a split of the same name or the same sample.
    CacheError
        If the caches come from different data sets or encoders; the message names every field that differs.
    """
    out = Path(out)
    if len(paths) < 2:
        raise InputError("merging takes at least two caches")
    if out.exists():
        raise InputError(f"{out} exists already; name a new file")
    loaded = [(Path(path), read_features(path, memmap="auto")) for path in paths]
    first_path, first = loaded[0]
    for path, features in loaded[1:]:
        _require_same_origin(first_path, first, path, features)
    owners = _cache_of_split(loaded)
    with_text = next((features for _, features in loaded if features.text_features is not None), first)
    splits = {name: features.splits[name] for name, (_, features) in owners.items()}
    sizes = {name: load_sizes(path)[name] for name, (path, _) in owners.items()}
    projections = [array for array in map(load_projection, paths) if array is not None]
    return write_cache(
        out,
        replace(with_text, splits=splits),
        _provenance([features for _, features in loaded], list(splits), with_text),
        stored_dtype=first.provenance["image"]["stored_dtype"],
        sizes=sizes,
        projection=projections[0] if projections else None,
        normalised=first.provenance["normalised"],
    )


def _cache_of_split(loaded: Sequence[tuple[Path, Features]]) -> dict[str, tuple[Path, Features]]:
    """Return the cache of each split, in the order train, val, test."""
    owners: dict[str, tuple[Path, Features]] = {}
    samples: dict[str, Path] = {}
    for path, features in loaded:
        for name, split in features.splits.items():
            if name in owners:
                raise InputError(
                    f"{owners[name][0]} and {path} both hold a split {name!r}; merging joins different ones"
                )
            owners[name] = path, features
            for sample in split.sample_ids.tolist():
                if samples.setdefault(sample, path) != path:
                    raise InputError(f"{samples[sample]} and {path} both hold sample {sample!r}")
    return dict(sorted(owners.items(), key=lambda item: _ORDER.index(item[0]) if item[0] in _ORDER else len(_ORDER)))


def _require_same_origin(first_path: Path, first: Features, path: Path, features: Features) -> None:
    """Raise an error if two caches differ in data set, encoder or another shared field."""
    clauses = differing_fields(_shared_fields(first), _shared_fields(features), ending=f"is in {path}")
    if first.text_features is not None and features.text_features is not None:
        clauses += differing_fields(
            first.provenance["text"], features.provenance["text"], "text", ending=f"is in {path}"
        )
    if clauses:
        raise CacheError(f"{first_path} and {path} are no parts of one cache: in {first_path}, {'; '.join(clauses)}")


def _shared_fields(features: Features) -> dict[str, Any]:
    """Return all fields in which two parts of one cache must agree."""
    provenance = features.provenance
    image = {key: value for key, value in provenance["image"].items() if key not in ("splits", "imported")}
    image["dataset"] = {key: value for key, value in image.get("dataset", {}).items() if key != "splits"}
    return {
        "dataset": provenance["dataset"],
        "encoder": provenance["encoder"],
        "image": image,
        "class_names": list(features.class_names),
        "logit_scale": features.logit_scale,
        "logit_bias": features.logit_bias,
        "normalised": provenance["normalised"],
    }


def _provenance(parts: Sequence[Features], order: Sequence[str], with_text: Features) -> Provenance:
    """Merge the provenance of all parts."""
    images = [part.provenance["image"] for part in parts]
    hashes: dict[str, Any] = {}
    for image in images:
        hashes.update(image.get("dataset", {}).get("splits", {}))
    image = {**images[0], "splits": list(order)}
    image["dataset"] = {
        **images[0].get("dataset", {}),
        "splits": {name: hashes[name] for name in order if name in hashes},
    }
    imports = [image["imported"] for image in images if image.get("imported")]
    if imports:
        image["imported"] = _merged_imports(imports)
    recorded = dict(with_text.provenance["recorded"])
    recorded_images = [part.provenance["recorded"].get("image") for part in parts]
    if any(recorded_image != recorded_images[0] for recorded_image in recorded_images):
        recorded["image_of_parts"] = recorded_images
    return replace(
        Provenance.of(with_text.provenance),
        image=image,
        recorded=recorded,
        seeds=sorted({seed for part in parts for seed in part.provenance["seeds"]}),
        unreadable=[item for part in parts for item in part.provenance["unreadable"]],
    )


def _merged_imports(imports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the records of imported files."""
    files = {file["sha256"]: file for origin in imports for file in origin["files"]}
    splits = {name: source for origin in imports for name, source in origin["splits"].items()}
    return {
        "format": ", ".join(sorted({origin["format"] for origin in imports})),
        "files": list(files.values()),
        "splits": splits,
        "dropped_similar": next((origin["dropped_similar"] for origin in imports if origin["dropped_similar"]), None),
    }
