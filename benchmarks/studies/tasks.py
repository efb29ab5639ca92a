"""The data of the studies, as benchmarks/studies/README.md fixed it before any run: built on, or looked at once.

A task is rows to learn from and rows to test on; a cell is the tasks of a data set and a number of shots.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness import is_smoke, photographs, real_features, unit
from numpy.typing import NDArray
from real_features import imagenet

from cafe.files import cache_dir
from cafe.protocol.draws import draw_few_shot

WITH_TEXT = {"Caltech69", "SUN34"}
SHOTS, DRAWS, GROUPS = (1, 2, 4, 8, 16), (1, 2, 3, 4, 5), 6


@dataclass(frozen=True)
class Pool:
    """A data set: training rows to draw shots from, test rows, and text or None."""

    name: str
    X: NDArray[Any]
    y: NDArray[np.int64]
    X_test: NDArray[Any]
    y_test: NDArray[np.int64]
    text: NDArray[Any] | None
    logit_scale: float = 100.0

    def without_text(self) -> Pool:
        """Return the same rows, whose class means stand in for text."""
        return replace(self, name=f"{self.name}, no text", text=None)


@dataclass(frozen=True)
class Task:
    """Rows to learn from, and rows to test on; ``seed`` is the random state of methods that have one."""

    shots: int
    seed: int
    X: NDArray[Any]
    y: NDArray[np.int64]
    X_test: NDArray[Any]
    y_test: NDArray[np.int64]
    text: NDArray[Any] | None
    logit_scale: float = 100.0


@dataclass(frozen=True)
class Cell:
    """The tasks of a data set and a number of shots: draws, each of one or more groups of classes.

    Attributes
    ----------
    drawn : bool
        False where all tasks learn from the same rows with another seed.
    """

    dataset: str
    shots: int
    draws: list[list[Task]]
    drawn: bool


def built_on() -> Iterator[Cell]:
    """Yield the cells that choices may rest on."""
    digits = embedded("digits")
    if is_smoke():
        for pool in (digits, digits.without_text()):
            yield from cells([pool], (1, 4), DRAWS[:2])
        return
    objects, caltech, food = embedded("photographs"), published("Caltech69", "caltech69"), food8()
    for pool in (digits, objects, caltech, food):
        yield from cells([pool])
    yield from cells(groups(caltech))
    yield from cells([wide(food)])
    yield from cells([wide(food, 2.0)])
    yield from cells([wide(pool) for pool in groups(caltech)])
    yield from cells([made_text(flowers := published("Flowers", "oxford_flowers"), caltech)])
    for pool in (digits, objects, caltech, food, flowers):
        yield from cells([pool.without_text()])


def looked_at_once() -> Iterator[Cell]:
    """Yield the cells of the last look."""
    sun = published("SUN34", "sun34", 8)
    for pool in (sun, sun.without_text(), published("Cars", "stanford_cars").without_text(), dtd()):
        yield from cells([pool])


def imagenet_cells() -> Iterator[Cell]:
    """Yield ImageNet's three published draws, of which each is learned from with five seeds."""
    for shots in (1, 2, 4):
        features = imagenet(shots)
        train, test = features.split("train"), features.split("test")
        assert features.class_embeddings is not None
        pool = Pool(
            "ImageNet", train.image_features, train.labels, test.image_features, test.labels, features.class_embeddings
        )
        yield from cells([pool], (shots,))


PARTS: dict[str, Callable[[], Iterator[Cell]]] = {
    "built-on": built_on,
    "looked-at-once": looked_at_once,
    "imagenet": imagenet_cells,
}


def cells(pools: list[Pool], shots: tuple[int, ...] = SHOTS, draws: tuple[int, ...] = DRAWS) -> Iterator[Cell]:
    """Yield a cell for each number of shots that the pools of one data set (groups of classes) have rows for."""
    most = int(np.bincount(pools[0].y).min())
    for k in (k for k in shots if k <= most):
        drawn = k < int(np.bincount(pools[0].y).max())
        tasks = []
        for seed in draws:
            rows = [draw_few_shot(pool.y, None, k, seed)[0] if drawn else np.arange(len(pool.y)) for pool in pools]
            tasks.append(
                [
                    Task(k, seed, pool.X[own], pool.y[own], pool.X_test, pool.y_test, pool.text, pool.logit_scale)
                    for pool, own in zip(pools, rows, strict=True)
                ]
            )
        yield Cell(pools[0].name, k, tasks, drawn)


def published(name: str, file: str, most: int = 16) -> Pool:
    """Return a data set of the published features, whose largest draw is the pool."""
    data = real_features(f"{file}_vitb32")
    train = data[f"train_{most}shot_features"], data[f"train_{most}shot_labels"]
    text = data["text_features"] if name in WITH_TEXT else None
    return Pool(name, *train, data["test_features"], data["test_labels"], text)


def food8() -> Pool:
    """Return Food8, which has 200 rows a class to draw from."""
    data = real_features("food8_vitb32")
    train = data["train_features"], data["train_labels"]
    return Pool("Food8", *train, data["test_features"], data["test_labels"], data["text_features"])


def dtd() -> Pool:
    """Return DTD, whose shots come from its val rows."""
    data = real_features("dtd_vitb32")
    return Pool(
        "DTD, no text", data["val_features"], data["val_labels"], data["test_features"], data["test_labels"], None
    )


def groups(pool: Pool) -> list[Pool]:
    """Cut a data set into groups of the classes whose text is most alike."""
    assert pool.text is not None
    text = unit(pool.text.astype(np.float64))
    text = unit(text - text.mean(axis=0))
    left, parts = list(range(len(text))), []
    for number in range(GROUPS):
        size = len(left) // (GROUPS - number)
        members = sorted(left, key=lambda c: -float(text[c] @ text[left[0]]))[:size]
        left = [c for c in left if c not in members]
        parts.append(np.array(members))
    found = []
    for members in parts:
        place = np.full(len(text), -1)
        place[members] = np.arange(len(members))
        train, test = place[pool.y] >= 0, place[pool.y_test] >= 0
        rows = pool.X[train], place[pool.y[train]], pool.X_test[test], place[pool.y_test[test]]
        found.append(Pool(f"{pool.name} groups", *rows, pool.text[members]))
    return found


def wide(pool: Pool, factor: float = 1.5) -> Pool:
    """Widen the classes: each row moves by a factor of another row's residual about its own class mean.

    Text knows the classes as before, while shots say less: what fine-grained classes are where text is strong.
    """
    rng, moved = np.random.default_rng(0), []
    for X, y in ((pool.X, pool.y), (pool.X_test, pool.y_test)):
        rows = unit(X.astype(np.float64))
        means = np.stack([rows[y == c].mean(axis=0) for c in range(y.max() + 1)])
        moved.append(unit(rows + factor * (rows - means[y])[rng.permutation(len(rows))]))
    return replace(pool, name=f"{pool.name}, wide{'r' if factor > 1.5 else ''}", X=moved[0], X_test=moved[1])


def made_text(pool: Pool, other: Pool) -> Pool:
    """Give Flowers text: its val rows' class means, about the mean of another data set's real text.

    Real text lies beside real images: all classes share a part that says nothing, and cosines differ little between
    classes. How little is chosen by the likelihood of a half of the val rows under means of the other half.
    """
    data = real_features("oxford_flowers_vitb32")
    X, y = unit(data["val_features"].astype(np.float64)), data["val_labels"].astype(np.int64)
    assert other.text is not None
    shared = unit(unit(other.text.astype(np.float64)).mean(axis=0))

    def text(rows: NDArray[np.bool_], share: float) -> NDArray[np.float64]:
        means = np.stack([X[rows & (y == c)].mean(axis=0) for c in range(y.max() + 1)])
        made: NDArray[np.float64] = unit(shared + share * unit(means - means.mean(axis=0)))
        return made

    def loss(share: float) -> float:
        z = 100 * X[~half] @ text(half, share).T
        z -= z.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), y[~half]]))

    half = np.zeros(len(y), dtype=bool)
    for c in range(y.max() + 1):
        half[np.flatnonzero(y == c)[::2]] = True
    best = min(np.geomspace(0.03, 1, 16), key=loss)
    return replace(pool, name="Flowers, made text", text=text(np.ones(len(y), dtype=bool), float(best)))


def embedded(name: str) -> Pool:
    """Encode digits or the photographs with ``cafe:mini``, once; arrays are kept in the cache folder."""
    kept = cache_dir(None) / "studies" / f"{name}{'-smoke' if is_smoke() else ''}.npz"
    if not kept.exists():
        from cafe.cache.extract.run import extract
        from cafe.cache.format.reader import read_features
        from cafe.data.opening import open_dataset
        from cafe.encoders.opening import open_encoder

        with tempfile.TemporaryDirectory() as folder:
            dataset = photographs(Path(folder)) if name == "photographs" else open_dataset(name)
            extract(dataset, open_encoder("cafe:mini", "cpu", "float32"), Path(folder) / "features.h5")
            features = read_features(Path(folder) / "features.h5")
        train, test = features.split("train"), features.split("test")
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            kept, X=train.image_features, y=train.labels, X_test=test.image_features, y_test=test.labels,
            text=features.class_embeddings, logit_scale=features.logit_scale,
        )  # fmt: skip
    with np.load(kept) as data:
        arrays = (data[key] for key in ("X", "y", "X_test", "y_test", "text"))
        return Pool(name, *arrays, float(data["logit_scale"]))


def paired_error(differences: NDArray[Any]) -> float:
    """Return the standard error of the mean of paired differences (draws, rows); the formula is in README.md.

    Examples
    --------
    >>> round(paired_error(np.array([[1.0, 0.0, -1.0, 0.0], [1.0, 0.0, -1.0, 0.0]])), 4)
    0.4082
    """
    m, n = differences.shape
    rows, draws, mean = differences.mean(axis=0), differences.mean(axis=1), differences.mean()
    between_rows = m * np.square(rows - mean).sum() / max(1, n - 1)
    between_draws = n * np.square(draws - mean).sum() / max(1, m - 1)
    rest = np.square(differences - rows - draws[:, None] + mean).sum() / max(1, (m - 1) * (n - 1))
    return float(np.sqrt((between_rows + max(0.0, between_draws - rest)) / (m * n)))
