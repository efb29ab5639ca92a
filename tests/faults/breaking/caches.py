"""Damaged caches: single bits, pages, ends. What is verified, loaded, listed and predicted from them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from breaking.campaign import Campaign, Outcome
from breaking.command import judge, run_cafe
from breaking.damage import (
    Span,
    array_spans,
    flip_bit,
    header_positions,
    heap_positions,
    metadata_positions,
    page_damages,
)
from breaking.pool import note

OLD = Path(__file__).resolve().parents[2] / "data" / "caches"
_COMMANDS_EVERY = 25  # of so many tries one goes through the command line as well, which takes longer


@dataclass
class Sample:
    """A sound cache that is damaged, and everything that was read from it when it was sound.

    Attributes
    ----------
    data : bytes
        The file.
    is_old : bool
        Whether a version wrote it that left the time of making without a checksum.
    content : dict
        Every attribute and array, as bare h5py reads them.
    loaded : dict
        Everything that ``read_features`` gives, and what zero-shot predicts from it.
    arrays : dict of str to (int, int)
        Where the bytes of each array stand.
    regions : dict of str to list of int
        Positions by kind of flip.
    """

    data: bytes
    is_old: bool
    content: dict[str, Any]
    loaded: dict[str, Any]
    arrays: dict[str, Span]
    regions: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, *, is_old: bool = False) -> Sample:
        """Read a sound cache."""
        data, arrays = path.read_bytes(), array_spans(path)
        regions = {
            "uniform": list(range(len(data))),
            "metadata": metadata_positions(data, list(arrays.values())),
            "heap": heap_positions(data),
            "object headers": header_positions(data),
        }
        return cls(data, is_old, content_of(path), loaded_from(path), arrays, regions)

    def array_at(self, position: int) -> str | None:
        """Name the array in whose bytes a position lies."""
        return next((name for name, (start, stop) in self.arrays.items() if start <= position < stop), None)


def content_of(path: Path) -> dict[str, Any]:
    """Return every attribute of every object and every array, with dtype and shape, as bare h5py reads them."""
    content: dict[str, Any] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        for key, value in item.attrs.items():
            content[f"{name}@{key}"] = _plain(value)
        if isinstance(item, h5py.Dataset):
            values = item[()]
            content[name] = (str(item.dtype), item.shape, np.asarray(values).tobytes())

    with h5py.File(path, "r", locking=False) as file:
        visit("", file)
        file.visititems(visit)
    return content


def loaded_from(path: Path) -> dict[str, Any]:
    """Return everything that a cache gives its user, and the probabilities of zero-shot on its last split."""
    from cafe.cache.format.reader import load_sizes, read_features
    from cafe.methods.zero_shot import ZeroShot

    features = read_features(path)
    loaded: dict[str, Any] = {f"sizes of {name}": _plain(sizes) for name, sizes in load_sizes(path).items()}
    for name, value in vars(features).items():
        loaded[name] = _plain(value) if name != "splits" else list(value)
    for name, split in features.splits.items():
        loaded |= {f"{name}.{key}": _plain(value) for key, value in vars(split).items()}
    if features.text_features is not None:
        method = ZeroShot(features.class_embeddings, logit_scale=features.logit_scale)
        labels = np.arange(len(features.class_names))
        rows = list(features.splits.values())[-1].image_features.astype(np.float64)
        loaded["predictions"] = _plain(method.fit(method.class_embeddings, labels).predict_proba(rows))
    return loaded


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            return value.tolist()
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value.tolist() if isinstance(value, np.generic) else value


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Name the first thing that is not the same in both; None if all is."""
    for key in sorted({*before, *after}):
        if key not in before or key not in after or repr(before[key]) != repr(after[key]):
            return key
    return None


def write_new_cache(path: Path) -> Path:
    """Write a cache with every array that the format knows, by today's writer."""
    from cafe.cache.format.provenance import Provenance
    from cafe.cache.format.writer import write_cache
    from cafe.features import Features, Split

    rng = np.random.default_rng(0)
    n, d, w, c = {"train": 9, "test": 5}, 8, 5, 3
    splits = {}
    for name, rows in n.items():
        drawn = name == "train"
        splits[name] = Split(
            rng.standard_normal((rows, d)).astype(np.float32),
            rng.integers(0, c, rows),
            np.array([f"{name}/é_{i}.jpg" for i in range(rows)]),
            rng.standard_normal((2, rows, d)).astype(np.float32) if drawn else None,
            rng.standard_normal((rows, w)).astype(np.float32),
            rng.integers(0, c, 2 * rows) if drawn else None,
            np.arange(rows) * 2 if drawn else None,
        )
        if drawn:  # the labels of the drawn rows are those of the whole split
            splits[name].full_labels[splits[name].full_rows] = splits[name].labels
    features = Features(
        splits,
        tuple(f"class {i}" for i in range(c)),
        rng.standard_normal((2, c, d)).astype(np.float32),
        ("a photo of a {}.", "a picture of a {}."),
        logit_scale=31.5,
    )
    image = {"encoder": {"weights_sha256": "ab" * 32}, "splits": list(n), "stored_dtype": "float16"}
    text = {"templates": list(features.templates), "encoder": {"weights_sha256": "cd" * 32}}
    unreadable = ({"split": "train", "sample_id": "x.jpg", "reason": "truncated"},)
    recorded = {"image": {"device": "cpu"}, "text": {"device": "cpu"}}
    provenance = Provenance("toys", "made-up", image, text, recorded=recorded, seeds=(1, 2), unreadable=unreadable)
    projection = rng.standard_normal((w, d)).astype(np.float32)
    sizes = {name: np.arange(rows) + 100 for name, rows in n.items()}
    return write_cache(path, features, provenance, projection=projection, sizes=sizes, seconds={"read": 1.5})


def write_split_caches(whole: Path, folder: Path) -> None:
    """Write each split of a cache into a cache of its own, ``NAME.h5``, which `cafe cache merge` can join again."""
    from cafe.cache.format.reader import read_features
    from cafe.cache.format.writer import write_cache
    from cafe.features import Features

    features = read_features(whole)
    for name, split in features.splits.items():
        part = Features(
            {name: split},
            features.class_names,
            features.text_features,
            features.templates,
            logit_scale=features.logit_scale,
            provenance=features.provenance,
            projection=features.projection,
        )
        write_cache(folder / f"{name}.h5", part, projection=features.projection)


class DamagedCaches(Campaign):
    """What is common to all damage of caches."""

    def prepare(self, folder: Path) -> None:
        """Read the old files, and write one by today's writer."""
        new = write_new_cache(folder / "toys--made-up.h5")
        self.samples = {
            "format-1.h5": Sample.of(OLD / "format-1.h5", is_old=True),
            "extracted-0.1.0.h5": Sample.of(OLD / "extracted-0.1.0.h5", is_old=True),
            "new": Sample.of(new),
        }
        self.sound = new.read_bytes()
        run_cafe(folder / "try", "cache", "verify", new)  # whatever it imports is there before processes are forked

    def look(self, sample: Sample, data: bytes, folder: Path, what: str, kind: str, array: str | None, commands: bool,
             ) -> Outcome:  # fmt: skip
        """Judge what verify, load and the list of caches make of a damaged file beside a sound one."""
        from cafe.cache.format.verify import verify_cache
        from cafe.cache.locate import list_caches
        from cafe.errors import CacheError

        note(folder, kind)
        caches = folder / "caches"
        caches.mkdir()
        path = caches / "damaged.h5"
        path.write_bytes(data)
        (caches / "sound.h5").write_bytes(self.sound)

        try:
            report = verify_cache(path)
            complaint = "; ".join(report.findings)
        except CacheError as error:
            complaint = str(error)
            if path.name not in complaint:
                return Outcome("unnamed", kind, f"{what}; verify does not name the file: {complaint}")
        listed = {summary.path.name: summary.damaged for summary in list_caches(caches)}
        if listed.get("sound.h5", "not listed") is not None:
            return Outcome("wrong", kind, f"{what}; the sound cache beside it is listed as {listed.get('sound.h5')}")
        if complaint and array is not None and array not in complaint:
            return Outcome("unnamed", kind, f"{what}; verify does not name array {array}: {complaint}")
        try:
            loaded = loaded_from(path)
        except CacheError as error:
            if path.name not in str(error):
                return Outcome("unnamed", kind, f"{what}; loading does not name the file: {error}")
            if not complaint:
                return Outcome("wrong", kind, f"{what}; verify passes what cannot be loaded: {error}")
            if array is not None and array not in str(error):
                return Outcome("unnamed", kind, f"{what}; loading does not name array {array}: {error}")
        else:
            other = difference(sample.loaded, loaded)
            if other is not None and not (other == "provenance" and self._only_time(sample, loaded)):
                return Outcome("silent", kind, f"{what}; loads with other {other}; verify: {complaint or 'sound'}")
        if commands:
            outcome = self._commands(path, folder, what, kind, complaint)
            if outcome is not None:
                return outcome
        if complaint:
            return Outcome("detected", kind, f"{what}; {complaint}")
        try:
            other = difference(sample.content, content_of(path))
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            verdict = "unprotected" if sample.is_old else "silent"
            return Outcome(verdict, kind, f"{what}; cafe reads what it did, but bare h5py complains: {error}")
        if other is None:
            return Outcome("meaningless", kind, what)
        if sample.is_old and other == "@created":
            return Outcome("unprotected", kind, f"{what}; the time of making, which format 1 has no checksum for")
        return Outcome("silent", kind, f"{what}; {other} differs, and verify passes")

    def _only_time(self, sample: Sample, loaded: Mapping[str, Any]) -> bool:
        """Whether an old file reads as it did apart from the time of its making."""
        changed = {**loaded["provenance"], "created": sample.loaded["provenance"]["created"]}
        return sample.is_old and difference(sample.loaded, {**loaded, "provenance": changed}) is None

    def _commands(self, path: Path, folder: Path, what: str, kind: str, complaint: str) -> Outcome | None:
        """Ask the command line as well; None if it says the same."""
        for words in (("cache", "verify", path), ("cache", "ls"), ("cache", "info", path), ("cache", "info", "sound")):
            answer = run_cafe(folder, *words)
            outcome = judge(answer, kind, f"{what}; cafe {' '.join(map(str, words))}", named=[path.name])
            if outcome.verdict not in ("accepted", "detected"):
                return outcome
            if (words[1] == "verify") == (answer.code == 0) and complaint and words[1] == "verify":
                return Outcome("wrong", kind, f"{outcome.detail}; but in Python: {complaint}")
            if words[1:] in (("ls",), ("info", "sound")) and answer.code != 0:
                return Outcome("wrong", kind, f"{outcome.detail}; the sound cache cannot be seen")
        return None


class CacheFlips(DamagedCaches):
    """Single bits of caches: anywhere, in metadata, in the heaps of old files, in object headers."""

    name, tries, short = "cache-flips", 10_000, 150
    limit = 20.0

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Flip one bit of one file."""
        name = list(self.samples)[number % len(self.samples)]
        sample = self.samples[name]
        kinds = [kind for kind, positions in sample.regions.items() if positions]
        kind = kinds[number // len(self.samples) % len(kinds)]
        position, bit = rng.choice(sample.regions[kind]), rng.randrange(8)
        what = f"{name}, byte {position}, bit {bit}"
        commands = rng.randrange(_COMMANDS_EVERY) == 0
        broken = flip_bit(sample.data, position, bit)
        return self.look(sample, broken, folder, what, f"{kind}, {name}", sample.array_at(position), commands)

    def expected(self, tries: int) -> tuple[str, ...]:
        """Some bits of HDF5's metadata mean nothing."""
        return ("detected", "meaningless") if tries >= 100 else ("detected",)


class CachePages(DamagedCaches):
    """Caches cut off at every 4 KiB, with pages of zeros, with pages that stand in each other's place."""

    name, tries, short = "cache-pages", 200, 30

    def prepare(self, folder: Path) -> None:
        """Also list all damages."""
        super().prepare(folder)
        self.damages = [
            (name, what, data)
            for name, sample in self.samples.items()
            for what, data in page_damages(sample.data, random.Random(0))
        ]
        random.Random(1).shuffle(self.damages)  # so that the first of them are of every kind

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Damage a page, or what stands behind it; further rounds cut at any byte."""
        if number < len(self.damages):
            name, what, data = self.damages[number]
        else:
            name = rng.choice(list(self.samples))
            end = rng.randrange(len(self.samples[name].data))
            what, data = f"truncated to {end}", self.samples[name].data[:end]
        kind = what.split(" ")[0]
        return self.look(self.samples[name], data, folder, f"{name}, {what}", kind, None, number % 5 == 0)
