"""Runs ``cafe`` within the test, and makes small caches without any encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cafe.cli.app import call


@dataclass
class Outcome:
    """What a user sees of one command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout, which must not hold NaN."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        return json.loads(self.out, parse_constant=refuse)

    def refused(self, *parts: str) -> None:
        """Check that one sentence on stderr names these parts: nothing on stdout, no traceback, code 2."""
        assert self.code == 2, self
        assert self.out == ""
        complaints = [line for line in self.err.splitlines() if line.startswith("cafe: ")]
        assert len(complaints) == 1, self.err
        assert "Traceback" not in self.err and "unexpected" not in self.err
        for part in parts:
            assert part in complaints[0], (part, complaints[0])


@pytest.fixture
def cafe(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """``cafe("fit", "--shots", 4)``: runs in this process, with ``cache_dir`` as the folder of caches."""
    monkeypatch.setenv("CAFE_CACHE", str(tmp_path / "caches"))
    for name in ("CAFE_DEBUG", "CAFE_DATA", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = call([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    """The folder that ``cafe`` of this test takes for caches."""
    return tmp_path / "caches"


def write_blobs(
    folder: Path,
    name: str = "blobs",
    *,
    encoder: str = "made-up",
    classes: int = 4,
    seed: int = 0,
    splits: tuple[str, ...] = ("train", "val", "test"),
) -> Path:
    """Write a cache of noisy class means, with text features that only half know them: an easy but real task."""
    from cafe.cache.format.provenance import Provenance
    from cafe.cache.format.writer import write_cache
    from cafe.cache.locate import cache_path
    from cafe.features import Features, Split

    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, 16)).astype(np.float32)

    def split(prefix: str, per_class: int) -> Split:
        """Return a split with so many noisy copies of every class centre."""
        labels = np.repeat(np.arange(classes), per_class)
        noise = 0.6 * rng.standard_normal((len(labels), 16)).astype(np.float32)
        ids = np.array([f"{prefix}/{i:03d}.png" for i in range(len(labels))])
        return Split(centres[labels] + noise, labels, ids)

    made = {"train": split("train", 20), "val": split("val", 6), "test": split("test", 25)}
    text = (centres + 1.2 * rng.standard_normal(centres.shape).astype(np.float32))[None]
    features = Features(
        {part: made[part] for part in splits},
        tuple(f"class {i}" for i in range(classes)),
        text,
        ("a {}",),
        logit_scale=20.0,
    )
    provenance = Provenance(
        dataset=name,
        encoder=encoder,
        image={"dataset": name, "encoder": {"weights_sha256": "ab"}, "seed": seed},
        text={"templates": ["a {}"]},
    )
    return write_cache(cache_path(folder, name, encoder), features, provenance)


@pytest.fixture
def make_cache(cache_dir: Path) -> Callable[..., Path]:
    """``make_cache("name")`` writes a small cache into ``cache_dir`` and returns its path."""
    return lambda name="blobs", **settings: write_blobs(cache_dir, name, **settings)


@pytest.fixture
def blobs(make_cache: Callable[..., Path]) -> Path:
    """One small cache."""
    return make_cache()


@pytest.fixture(scope="session")
def write_photos() -> Callable[..., Path]:
    """``write_photos(folder, "jpg")`` makes two classes of eight small pictures: blue-ish cats and red-ish dogs."""

    def write(root: Path, suffix: str) -> Path:
        rng = np.random.default_rng(0)
        for name, channel in (("cat", 2), ("dog", 0)):
            folder = root / name
            folder.mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 120, (24, 24, 3), dtype=np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(folder / f"{i}.{suffix}")
        return root

    return write


@pytest.fixture
def make_photos(tmp_path: Path, write_photos: Callable[..., Path]) -> Callable[..., Path]:
    """``make_photos("jpg")`` makes two classes of eight small pictures of this test."""
    return lambda suffix: write_photos(tmp_path / "photos", suffix)


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    """Two classes of eight small PNG files each."""
    return make_photos("png")
