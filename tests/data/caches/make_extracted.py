"""Makes extracted-0.1.0.h5, what `cafe extract` of version 0.1.0 (commit 3576ed1) wrote of eighteen digits.

    python tests/data/caches/make_extracted.py  # in a checkout of that commit

Unlike format-1.h5, which is made from FORMAT.md, this file has everything that the writer of that commit added by
itself, with views, projection features, and a bad image that was left out. The file is never made anew.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

OUT = Path(__file__).parent / "extracted-0.1.0.h5"


def main() -> None:
    from cafe.cli.app import call
    from cafe.data import open_dataset

    digits = open_dataset("digits")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "three-digits"
        for split, per_class in (("train", 4), ("test", 2)):
            for label, name in enumerate(digits.class_names[:3]):
                (source / split / name).mkdir(parents=True)
                rows = (digits.splits[split].labels == label).nonzero()[0][:per_class]
                for row in rows:
                    digits.image(split, int(row)).save(source / split / name / f"{row:03d}.png")
        (source / "train" / "zero" / "broken.png").write_bytes(b"no image")
        options = ["--views", "2", "--projection-features", "--workers", "0", "--quiet", "--out", str(OUT)]
        options += ["--templates", "a photo of the number {}.", "--templates", "the digit {}."]
        assert call(["extract", "--dataset", str(source), *options]) == 0


if __name__ == "__main__":
    main()
