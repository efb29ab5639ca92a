"""Makes format-1.h5, a real file of format version 1, from FORMAT.md alone: nothing of cafe is imported.

    python tests/data/caches/make_format_1.py

The file is committed and read in every test run, so that old caches stay readable for ever. It is never made anew:
a new format version gets a new file beside it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np

IMAGE = {
    "dataset": {
        "name": "pets",
        "split_origin": "published",
        "splits": {"train": {"n": 4, "sha256": "11" * 32}, "test": {"n": 2, "sha256": "22" * 32}},
    },
    "encoder": {"weights_sha256": "33" * 32, "preprocessing": {"size": 224, "backend": "pillow"}, "dtype": "float32"},
    "splits": ["train", "test"],
    "stored_dtype": "float16",
    "views": None,
}
TEXT = {
    "class_names": ["Abyssinian", "naïve cat"],
    "templates": ["a photo of a {}.", "art of the {}."],
    "prompts": None,
    "encoder": {"weights_sha256": "44" * 32, "tokenizer_sha256": "55" * 32, "dtype": "float32"},
    "stored_dtype": "float16",
}
PROVENANCE = {
    "image": IMAGE,
    "text": TEXT,
    "recorded": {"image": {"device": "cpu", "revision": "abc"}, "text": {"device": "cpu", "revision": "abc"}},
    "seeds": [],
    "unreadable": [{"split": "train", "sample_id": "train/bad.jpg", "reason": "truncated"}],
}


def text(values: list[str]) -> np.ndarray:
    encoded = [value.encode() for value in values]
    width = max(map(len, encoded))
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", width))


def fingerprint(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


ARRAYS = {
    "class_names": text(TEXT["class_names"]),
    "templates": text(TEXT["templates"]),
    "text_features": np.array([[[1, 0, 0], [0, 2, 0]], [[3, 0, 4], [0, 0, 5]]], dtype="<f2"),
    "provenance": text([json.dumps(PROVENANCE, sort_keys=True)]),
    "splits/train/image_features": np.array([[0.5, -1, 2], [0, 0.25, 1], [3, 4, 0]], dtype="<f2"),
    "splits/train/labels": np.array([0, 1, 1], dtype="<i8"),
    "splits/train/sample_ids": text(["train/a.jpg", "train/b.jpg", "train/ç.jpg"]),
    "splits/train/sizes": np.array([1000, 2000, 3000], dtype="<i8"),
    "splits/test/image_features": np.array([[1, 1, 1], [-2, 0, 0]], dtype="<f2"),
    "splits/test/labels": np.array([1, 0], dtype="<i8"),
    "splits/test/sample_ids": text(["test/d.jpg", "test/e.jpg"]),
    "splits/test/sizes": np.array([4000, -1], dtype="<i8"),
}
ATTRIBUTES = {
    "format": "cafe-features",
    "format_version": 1,
    "cafe_version": "0.1.0",
    "created": "2026-01-31T12:00:00.000000+00:00",
    "dataset": "pets",
    "encoder": "openai/clip-vit-base-patch32",
    "logit_scale": 100.0,
    "logit_bias": 0.0,
    "normalised": False,
    "image_fingerprint": fingerprint(IMAGE),
    "text_fingerprint": fingerprint(TEXT),
    "fingerprint": fingerprint({"image": IMAGE, "text": TEXT}),
}


def main() -> None:
    with h5py.File(Path(__file__).parent / "format-1.h5", "w", libver=("v108", "v108")) as file:
        file.attrs.update(ATTRIBUTES)
        file.attrs["splits"] = ["train", "test"]
        lines = []
        for name, array in sorted(ARRAYS.items()):
            dataset = file.create_dataset(name, data=array, track_times=False)
            dataset.attrs["sha256"] = digest = hashlib.sha256(array.tobytes()).hexdigest()
            lines.append(f"{name} {array.dtype.str} {list(array.shape)} {digest}\n")
        stable = {**ATTRIBUTES, "splits": ["train", "test"]}
        del stable["created"]
        lines += [f"{name} {json.dumps(value)}\n" for name, value in sorted(stable.items())]
        file.attrs["content_sha256"] = hashlib.sha256("".join(lines).encode()).hexdigest()


if __name__ == "__main__":
    main()
