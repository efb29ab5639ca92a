"""Real CLIP ViT-B/32 features as ``Features``, from the folder that ``CAFE_REAL_DATA`` names.

They are public few-shot features: image features of unit length in float16; training rows are means over ten
augmented views, val and test are centre crops. They were published without a licence and are no part of cafe.

- ``imagenet(shots)``: all images come from ImageNet's training set, drawn three times. One draw is learned from, the
  two others are tested on, without test rows whose cosine with a training row is at least 0.93 (near-duplicates).
- ``caltech69(shots=None)``: 69 classes; the published draw of that many shots, or the 16-shot draw to draw from.
- ``flowers(shots=None)`` (102 classes), ``dtd()`` (47 classes, one shot): no text; class means stand in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from harness import real_features
from numpy.typing import NDArray

from cafe.features import Features, Split

ENCODER = "OpenAI CLIP ViT-B/32"
NEAR_DUPLICATE = 0.93
DRAWS = (1, 2, 4)


def imagenet(shots: int) -> Features:
    """Learn on the draw of that many shots, test on the two others."""
    data = real_features("imagenet_vitb32")
    others = [k for k in DRAWS if k != shots]
    X, y = data[f"features_{shots}shot"], data[f"labels_{shots}shot"]
    X_test = np.concatenate([data[f"features_{k}shot"] for k in others])
    y_test = np.concatenate([data[f"labels_{k}shot"] for k in others])
    nearest = (X_test.astype(np.float32) @ X.astype(np.float32).T).max(axis=1)
    kept = nearest < NEAR_DUPLICATE
    # Not "imagenet": other test images than the published tables have.
    rows = {"train": (X, y), "test": (X_test[kept], y_test[kept])}
    return features_of("imagenet-train-draws", rows, data["text_features"], data["class_names"])


def caltech69(shots: int | None = None) -> Features:
    """Return the 69 Caltech classes with text; ``shots`` for a published draw, None to draw from the 16-shot one."""
    return published("caltech69", shots or 16)


def flowers(shots: int | None = None) -> Features:
    """Return Oxford Flowers without text."""
    return published("oxford_flowers", shots or 16, "flowers102")


def dtd() -> Features:
    """Return DTD without text: one shot."""
    return published("dtd", 1)


def published(file: str, shots: int | None, name: str | None = None) -> Features:
    """Return a published set, by the beginning of its file's name, with the draw of that many shots.

    With ``shots`` None all its training rows are there to draw from. ``name`` is what the set is called [default: as
    its file].
    """
    data = real_features(f"{file}_vitb32")
    parts = {"train": f"train_{shots}shot" if shots else "train", "val": "val", "test": "test"}
    rows = {
        split: (data[f"{part}_features"], data[f"{part}_labels"])
        for split, part in parts.items()
        if f"{part}_features" in data
    }
    return features_of(name or file, rows, data.get("text_features"), data.get("class_names"))


def features_of(
    name: str,
    rows: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    text: NDArray[Any] | None,
    class_names: Sequence[str] | None = None,
) -> Features:
    """Return rows and labels by split, with text (c, d) or None; classes without names are called by number."""
    splits = {
        split: Split(X, y.astype(np.int64), np.array([f"{split}/{i}" for i in range(len(y))]))
        for split, (X, y) in rows.items()
    }
    names = range(max(int(y.max()) for _, y in rows.values()) + 1) if class_names is None else class_names
    provenance = {"dataset": name, "encoder": ENCODER, "fingerprint": None}
    return Features(splits, tuple(map(str, names)), None if text is None else text[None], provenance=provenance)
