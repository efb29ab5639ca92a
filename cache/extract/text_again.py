"""Encodes the text of a cache again, and keeps its image features byte for byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cafe.cache.extract.encoding import ProgressCallback
from cafe.cache.extract.plan import Plan
from cafe.cache.extract.report import Clocks, ExtractionProgress
from cafe.cache.extract.text import encode_text
from cafe.cache.format.checksums import array_sha256, arrays_of
from cafe.cache.format.layout import ARRAY_SHA256, SPLITS
from cafe.cache.format.provenance import Provenance
from cafe.cache.format.reader import load_features, load_projection, load_sizes, open_cache
from cafe.cache.format.writer import write_cache
from cafe.errors import CacheError


def encode_text_again(plan: Plan, path: Path, clocks: Clocks, tell: ProgressCallback) -> None:
    """Write the cache anew with its own image arrays, byte for byte, and the text that is asked for."""
    with open_cache(path) as file:
        for name, array in arrays_of(file).items():
            # A flipped bit must not be copied under a fresh checksum.
            if name.startswith(f"{SPLITS}/") and array_sha256(array) != array.attrs.get(ARRAY_SHA256):
                raise CacheError(f"array {name} of cache {path} differs from its checksum; extract with --force")
    old = load_features(path, memmap="auto")
    there = Provenance.of(old.provenance)
    recorded = {**there.recorded, "text": plan.recorded}
    features = replace(
        old,
        class_names=tuple(plan.dataset.class_names),
        **encode_text(plan, clocks, tell),
        logit_scale=plan.encoder.logit_scale,
        logit_bias=plan.encoder.logit_bias,
    )
    with clocks.running("write"):
        write_cache(
            path,
            features,
            replace(there, text=plan.text, recorded=recorded),
            stored_dtype=plan.stored_dtype,
            sizes=load_sizes(path),
            projection=load_projection(path),
            normalised=old.provenance["normalised"],
            seconds={name: clocks.seconds[name] for name in ("read", "encode")},
        )
    tell(ExtractionProgress("write", "", 1, 1))
