"""Damaged unfinished extractions: bits and pages of shards, text features, manifests and claims; then carried on."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType
from typing import Any

from breaking.caches import content_of, difference
from breaking.campaign import Campaign, Outcome
from breaking.damage import flip_bit, page_damages
from breaking.pool import note

COUNTS = {"train": 21, "test": 11}  # of batches of 1: shards of 8 images, so three and two of them
TIMES = ("@created", "@seconds_read", "@seconds_encode", "@attributes_sha256")  # the last one is over the others


def fakes() -> ModuleType:
    """Return tests/cache/conftest.py, which has a data set and an encoder whose features can be computed by hand."""
    path = Path(__file__).resolve().parents[2] / "cache" / "conftest.py"
    spec = importlib.util.spec_from_file_location("cache_fakes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Stop(Exception):
    """Ends an extraction as a kill would, with everything left as it is."""


class DamagedShards(Campaign):
    """What is common to all damage of unfinished extractions."""

    def prepare(self, folder: Path) -> None:
        """Extract once undisturbed; and once up to the moment before the file is made, with everything kept."""
        from cafe.cache.extract import finish, run, unfinished

        self.fakes = fakes()
        whole = folder / "elsewhere" / "whole.h5"  # an extraction takes what it can from caches beside it
        self.extract(whole)
        self.content = self.content_of(whole)

        def stop(*_: Any, **__: Any) -> None:
            raise _Stop

        real = finish._write
        finish._write = stop
        try:
            self.extract(folder / "a.h5")
        except _Stop:
            pass
        finally:
            finish._write = real
        assert run.finish is finish.finish
        partial = unfinished.partial_folder(folder / "a.h5")
        self.files = {path.name: path.read_bytes() for path in sorted(partial.iterdir())}
        assert sum(name.startswith("shard-") for name in self.files) == 5
        assert "manifest.json" in self.files and any(name.startswith("text-") for name in self.files)

    def extract(self, path: Path) -> None:
        """Extract the small data set of coloured squares, two pictures of which cannot be read."""
        from cafe.cache.extract.run import extract
        from cafe.cache.extract.views import Views

        dataset = self.fakes.FakeDataset(COUNTS, unreadable=["train/image_03.png", "test/image_01.png"])
        extract(dataset, self.fakes.FakeEncoder(batch_size=1), path, views=Views(1), workers=0)

    @staticmethod
    def content_of(path: Path) -> dict[str, Any]:
        """Return everything in a cache but what tells times."""
        content = content_of(path)
        return {key: value for key, value in content.items() if key not in TIMES}

    def look(self, name: str, data: bytes | None, folder: Path, what: str, kind: str) -> Outcome:
        """Carry the extraction on with one file damaged, or (None) gone."""
        from cafe.cache.format.verify import verify_cache
        from cafe.errors import CafeError

        note(folder, kind)
        path = folder / "a.h5"
        partial = folder / "a.h5.partial"
        partial.mkdir()
        for file, content in self.files.items():
            if file != name:
                (partial / file).write_bytes(content)
            elif data is not None:
                (partial / file).write_bytes(data)
        try:
            self.extract(path)
        except CafeError as error:
            if "a.h5" not in str(error):
                return Outcome("unnamed", kind, f"{what}; does not name the file: {error}")
            if path.exists():
                return Outcome("silent", kind, f"{what}; a cache stands there in spite of: {error}")
            return Outcome("detected", kind, f"{what}; {error}")
        if not verify_cache(path).ok:
            return Outcome("silent", kind, f"{what}; the cache that was made is not sound")
        other = difference(self.content, self.content_of(path))
        if other is not None:
            return Outcome("silent", kind, f"{what}; the cache has other {other}")
        left = sorted(entry.name for entry in folder.iterdir() if entry.name not in ("a.h5", "a.h5.partial"))
        if left:
            return Outcome("wrong", kind, f"{what}; {left} are left behind")
        return Outcome("mended", kind, what)

    def expected(self, tries: int) -> tuple[str, ...]:
        """A damaged shard is made again; a damaged manifest is refused."""
        return ("detected", "mended") if tries >= 50 else ()


class ShardFlips(DamagedShards):
    """Single bits of shards, text features and manifests."""

    name, tries, short = "shard-flips", 5_000, 120

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Flip one bit of one file."""
        name = rng.choice(list(self.files))
        data = self.files[name]
        position, bit = rng.randrange(len(data)), rng.randrange(8)
        kind = name.split("-")[0].removesuffix(".json")
        if kind != "manifest" and rng.random() < 0.5:  # where a header says how the rest is to be read
            position = rng.randrange(min(512, len(data)))
            if rng.random() < 0.3:  # an archive has another one at its end
                position = len(data) - 1 - position
            kind = f"{kind}, ends"
        what = f"{name}, byte {position}, bit {bit}"
        return self.look(name, flip_bit(data, position, bit), folder, what, kind)


class ShardPages(DamagedShards):
    """Files of unfinished extractions that are cut off, emptied, exchanged, gone, or strange."""

    name, tries, short = "shard-pages", 400, 30

    def prepare(self, folder: Path) -> None:
        """Also list all damages."""
        super().prepare(folder)
        self.damages: list[tuple[str, bytes | None, str]] = []
        for name, data in self.files.items():
            self.damages.append((name, None, "gone"))
            self.damages += [(name, broken, what) for what, broken in page_damages(data, random.Random(0))]
            for other, content in self.files.items():
                if other != name:
                    self.damages.append((name, content, f"exchanged for {other}"))
        random.Random(1).shuffle(self.damages)

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Damage one file; further rounds cut at any byte, or set a stretch of bytes to zero or to chance."""
        if number < len(self.damages):
            name, data, what = self.damages[number]
        else:
            name = rng.choice(list(self.files))
            whole = self.files[name]
            start, size = rng.randrange(len(whole)), 1 << rng.randrange(9)
            end = min(start + size, len(whole))
            what = rng.choice(["truncated", "zeros", "chance"])
            middle = {"truncated": b"", "zeros": bytes(end - start), "chance": rng.randbytes(end - start)}[what]
            data = whole[:start] if what == "truncated" else whole[:start] + middle + whole[end:]
            what = f"{what} from {start} to {end}"
        return self.look(name, data, folder, f"{name}, {what}", what.split(" ")[0])
