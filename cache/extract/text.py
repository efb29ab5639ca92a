"""Encodes the prompts of an extraction; also those for a cache whose image features stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.array_file import SUFFIX, ArrayFile, write_array_file
from cafe.cache.extract.plan import Extraction
from cafe.cache.extract.progress import ExtractionProgress, Reporter
from cafe.cache.extract.sources import find_known_text
from cafe.cache.extract.unfinished import partial_folder
from cafe.cache.format.arrays import as_stored
from cafe.cache.format.checksums import array_sha256
from cafe.cache.format.fingerprint import fingerprint
from cafe.cache.format.layout import ARRAY_SHA256, SPLITS
from cafe.cache.format.provenance import Provenance
from cafe.cache.format.reader import load_projection, load_sizes, open_cache, read_features
from cafe.cache.format.writer import write_cache
from cafe.errors import CacheError
from cafe.prompts import mean_of_prompts, prompts

_CHUNK = "text-"  # how files of chunks begin

_EncodeText = Callable[[Sequence[str]], NDArray[np.float32]]


def encode_text(extraction: Extraction, reporter: Reporter) -> dict[str, Any]:
    """Encode every prompt, chunk by chunk; or take the text features of a cache at hand, where it has the wanted ones.

    Each chunk is kept in the folder of shards until the cache is whole, also where text alone is missing, and one that
    is there already, from a run that was cut off, is read instead of encoded.

    Returns
    -------
    dict
        The text fields of :class:`~cafe.features.Features`: ``templates`` and ``text_features`` (m, c, d) in the
        stored dtype; for prompts written per class ``prompt_features`` (p, d) and ``prompt_classes`` (p,), and
        their class means as ``text_features`` (1, c, d). Nothing where the encoder has no text tower.
    """
    if extraction.text is None:
        return {}
    known = find_known_text(extraction, extraction.known_in)
    if known is not None:
        reporter.report(ExtractionProgress("text", "", 1, 1))
        return {
            "templates": known.templates,
            "text_features": known.text_features,
            "prompt_features": known.prompt_features,
            "prompt_classes": known.prompt_classes,
        }
    encode = _keeping(extraction)
    if extraction.prompts is None:
        return {
            "templates": extraction.templates,
            "text_features": _encode_templates(extraction, encode, reporter),
            "prompt_features": None,
            "prompt_classes": None,
        }
    prompts = [prompt for of_class in extraction.prompts for prompt in of_class]
    features = _encode_prompts(prompts, extraction, encode, reporter)
    n_classes = len(extraction.prompts)
    classes = np.repeat(np.arange(n_classes), list(map(len, extraction.prompts)))  # (p,)
    means = mean_of_prompts(features, classes, n_classes)  # (c, d)
    return {
        "templates": (),
        "text_features": as_stored(means[None], extraction.stored_dtype, "text_features"),
        "prompt_features": features,
        "prompt_classes": classes,
    }


def _encode_templates(extraction: Extraction, encode: _EncodeText, reporter: Reporter) -> NDArray[Any]:
    """Encode one template at a time with every class name: (m, c, d)."""
    classes, templates, dtype = extraction.dataset.class_names, extraction.templates, extraction.stored_dtype
    text = np.empty((len(templates), len(classes), extraction.encoder.dim), dtype=dtype)
    for index, template in enumerate(templates):
        with reporter.timing("encode"):
            encoded = encode(prompts([template], classes))  # (c, d)
        text[index] = as_stored(encoded, dtype, f"text_features of template {template!r}")
        reporter.report(ExtractionProgress("text", "", index + 1, len(templates)))
    return text


def _encode_prompts(texts: list[str], extraction: Extraction, encode: _EncodeText, reporter: Reporter) -> NDArray[Any]:
    """Encode p prompts in chunks cut at fixed positions: (p, d)."""
    features = np.empty((len(texts), extraction.encoder.dim), dtype=extraction.stored_dtype)
    for start in range(0, len(texts), extraction.encoder.batch_size):
        stop = min(start + extraction.encoder.batch_size, len(texts))
        with reporter.timing("encode"):
            encoded = encode(texts[start:stop])  # (stop - start, d)
        what = f"prompt_features {start} to {stop - 1}"
        features[start:stop] = as_stored(encoded, extraction.stored_dtype, what)
        reporter.report(ExtractionProgress("text", "", stop, len(texts)))
    return features


def _keeping(extraction: Extraction) -> _EncodeText:
    """Return what encodes a chunk of prompts, or reads it from the folder of shards if it is there.

    The name of a chunk is a fingerprint of the text tower, the batch size and the prompts themselves.
    """
    assert extraction.text is not None
    folder = partial_folder(extraction.path)
    identity = {
        "text": extraction.text["encoder"],
        "batch_size": extraction.encoder.batch_size,
        "recorded": dict(extraction.recorded),
    }

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        key = fingerprint({**identity, "prompts": list(texts)})
        path = folder / f"{_CHUNK}{key[:24]}{SUFFIX}"
        features = _read_chunk(path, key)
        if features is None:
            features = np.asarray(extraction.encoder.encode_text(texts))
            if extraction.unfinished is None:
                _keep_beside(path, key, features)
            else:
                write_array_file(path, {"key": key}, {"features": features})
        return features

    return encode


def _keep_beside(path: Path, key: str, features: NDArray[np.float32]) -> None:
    """Keep a chunk where text alone is missing, so that there need be no folder of shards; never through a link."""
    if path.parent.is_symlink():
        return
    with suppress(FileNotFoundError):  # another process that did the same has finished, and removed the folder
        path.parent.mkdir(exist_ok=True)
        write_array_file(path, {"key": key}, {"features": features})


def kept_chunks(cache: Path) -> list[Path]:
    """Return the chunks of text that are kept for a cache which is not whole yet."""
    folder = partial_folder(cache)
    return [] if folder.is_symlink() else sorted(folder.glob(f"{_CHUNK}*{SUFFIX}"))


def _remove_chunks(cache: Path) -> None:
    """Remove the chunks of a cache that is whole, and their folder, unless an extraction of images is kept in it."""
    for path in kept_chunks(cache):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # something else is kept in it, or there is none
        partial_folder(cache).rmdir()


def _read_chunk(path: Path, key: str) -> NDArray[np.float32] | None:
    """Return a chunk that is there and whole; None if it is to be encoded."""
    try:
        file = ArrayFile(path)
        return file.read("features") if file.about["key"] == key else None
    except Exception:  # missing, or damaged in whatever way
        return None


def replace_text(extraction: Extraction, reporter: Reporter) -> None:
    """Write a cache with the image arrays of the one that has them, byte for byte, and the text that is wanted.

    Raises
    ------
    CacheError
        If an image array differs from its checksum.
    """
    path = extraction.images_from or extraction.path
    with open_cache(path) as file:
        for name, array in file.arrays.items():
            # A flipped bit must not be copied under a fresh checksum.
            if name.startswith(f"{SPLITS}/") and array_sha256(array) != array.attrs.get(ARRAY_SHA256):
                raise CacheError(f"array {name} of cache {path} differs from its checksum; extract with --force")
    old = read_features(path, memmap="auto")
    provenance = Provenance.of(old.provenance)
    recorded = {**provenance.recorded, "text": extraction.recorded}
    features = replace(
        old,
        class_names=tuple(extraction.dataset.class_names),
        **encode_text(extraction, reporter),
        logit_scale=extraction.encoder.logit_scale,
        logit_bias=extraction.encoder.logit_bias,
    )
    with reporter.timing("write"):
        write_cache(
            extraction.path,
            features,
            replace(provenance, text=extraction.text, recorded=recorded),
            stored_dtype=extraction.stored_dtype,
            sizes=load_sizes(path),
            projection=load_projection(path),
            normalised=old.provenance["normalised"],
            seconds={name: reporter.seconds[name] for name in ("read", "encode")},
        )
    _remove_chunks(extraction.path)
    reporter.report(ExtractionProgress("write", "", 1, 1))
