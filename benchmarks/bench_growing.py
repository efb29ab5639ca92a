"""What it costs to extract a folder again after it changed, against extracting it whole.

Photographs of CAFE_REAL_DATA in one folder for each class, a full-size ViT-B/32 with random weights. The folder is
extracted without ``--added`` of its images, then grows by these, has a class renamed, and is split differently. Images
are counted where they enter the encoder, and the arrays are compared with those of a fresh extraction.

Run::

    CAFE_REAL_DATA=... python benchmarks/bench_growing.py [--images 2000] [--added 20]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_extraction import random_vit_b32
from harness import is_smoke, parse, photographs, report


class Counting:
    """Counts what enters an encoder, and the calls."""

    def __init__(self, encoder: Any) -> None:
        self.rows = self.calls = 0
        self._start = encoder.start_images
        encoder.start_images = self

    def __call__(self, crops: np.ndarray) -> Any:
        self.rows, self.calls = self.rows + len(crops), self.calls + 1
        return self._start(crops)


def class_folders(folder: Path, images: int) -> Path:
    """Unpack the photographs, and keep so many of them, of all classes in turn, in one folder for each class."""
    photographs(folder / "data")
    source = folder / "data" / ("train" if is_smoke() else "caltech-101/101_ObjectCategories")
    by_class = [sorted(place.iterdir()) for place in sorted(source.iterdir()) if place.is_dir()]
    in_turn = [paths[n] for n in range(max(map(len, by_class))) for paths in by_class if n < len(paths)]
    for path in in_turn[:images]:
        place = folder / "photos" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    return folder / "photos"


def measure(images: int, added: int) -> list[dict[str, Any]]:
    """Extract a folder after each change, and return a row for each."""
    from cafe.cache import extract, load_features
    from cafe.data import open_dataset
    from cafe.encoders import open_encoder

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos, model = class_folders(folder, images), random_vit_b32(folder / "model")
        encoder = open_encoder(str(model), "cpu")
        counting = Counting(encoder)
        rows: list[dict[str, Any]] = []

        def run(what: str, out: Path, split: str | None = None) -> Any:
            counting.rows = counting.calls = 0
            start = time.perf_counter()
            summary = extract(open_dataset(str(photos), split=split), encoder, out, workers=0)
            rows.append(
                {"run": what, "images": sum(summary.splits.values()), "encoded": summary.encoded, "kept": summary.kept,
                 "rows_encoded": counting.rows, "encoder_calls": counting.calls,
                 "seconds": time.perf_counter() - start}
            )  # fmt: skip
            return load_features(summary.path)

        every = sorted(photos.rglob("*.jpg"))
        away = every[:: max(1, len(every) // added)][:added]
        for number, path in enumerate(away):
            shutil.move(path, folder / f"away-{number}")
        out = folder / "caches" / "photos.h5"
        run("the folder before it grew", out)
        for number, path in enumerate(away):
            shutil.move(folder / f"away-{number}", path)
        grown = run(f"{len(away)} images added", out)
        fresh = run("the whole folder, fresh", folder / "elsewhere" / "photos.h5")
        for split, own in fresh.splits.items():
            assert np.array_equal(grown.splits[split].image_features, own.image_features), split
        first = sorted(path for path in photos.iterdir() if path.is_dir())[0]
        first.rename(first.with_name("renamed"))
        run("a class renamed", out)
        run("another split", out, split="70/10/20")
        whole = next(row for row in rows if row["run"].endswith("fresh"))
        shape = "cafe:mini" if is_smoke() else "ViT-B/32, 224 pixels"
        return [{"shape": shape, **row, "time_to_whole": row["seconds"] / whole["seconds"]} for row in rows]


def main() -> None:
    """Measure, and append the rows to results/growing.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--added", type=int, default=20)
    arguments = parse(parser, {"images": 120, "added": 5})
    report("growing", None, measure(arguments.images, arguments.added))


if __name__ == "__main__":
    main()
