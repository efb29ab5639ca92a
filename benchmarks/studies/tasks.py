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
from harness import embedded, is_smoke, photographs, real_features, unit
from numpy.typing import NDArray
from real_features import imagenet, published

from cafe.features import Features
from cafe.files import cache_dir
from cafe.protocol.draws import draw_few_shot

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


@dataclass(frozen=True, kw_only=True)
class Task(Pool):
    """Rows to learn from, and rows to test on; ``seed`` is the random state of methods that have one."""

    shots: int
    seed: int


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
    """Yield the cells on which defaults were chosen."""
    digits = encoded("digits")
    if is_smoke():
        for pool in (digits, digits.without_text()):
            yield from cells([pool], (1, 4), DRAWS[:2])
        return
    objects, caltech = encoded("photographs"), pool_of("Caltech69", published("caltech69", 16))
    food = pool_of("Food8", published("food8", None))  # 200 rows a class to draw from
    for pool in (digits, objects, caltech, food):
        yield from cells([pool])
    yield from cells(groups(caltech))
    yield from cells([wide(food)])
    yield from cells([wide(food, 2.0)])
    yield from cells([wide(pool) for pool in groups(caltech)])
    yield from cells([made_text(flowers := pool_of("Flowers", published("oxford_flowers", 16)), caltech)])
    for pool in (digits, objects, caltech, food, flowers):
        yield from cells([pool.without_text()])


def looked_at_once() -> Iterator[Cell]:
    """Yield cells of data sets that were tested once, after every choice had been made."""
    sun, cars = pool_of("SUN34", published("sun34", 8)), pool_of("Cars", published("stanford_cars", 16))
    textures = pool_of("DTD", published("dtd", 1), "val")  # one training row a class; shots come from val
    for pool in (sun, sun.without_text(), cars.without_text(), textures.without_text()):
        yield from cells([pool])


def imagenet_cells() -> Iterator[Cell]:
    """Yield ImageNet's three published draws, of which each is learned from with five seeds."""
    for shots in (1, 2, 4):
        yield from cells([pool_of("ImageNet", imagenet(shots))], (shots,))


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
                    Task(**vars(replace(pool, X=pool.X[own], y=pool.y[own])), shots=k, seed=seed)
                    for pool, own in zip(pools, rows, strict=True)
                ]
            )
        yield Cell(pools[0].name, k, tasks, drawn)


def pool_of(name: str, features: Features, train: str = "train") -> Pool:
    """Return the pool of a data set that draws from one of its splits and is tested on its test split."""
    own, test, text = features.split(train), features.split("test"), features.class_embeddings
    return Pool(name, own.image_features, own.labels, test.image_features, test.labels, text, features.logit_scale)


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
    pools = []
    for members in parts:
        place = np.full(len(text), -1)
        place[members] = np.arange(len(members))
        train, test = place[pool.y] >= 0, place[pool.y_test] >= 0
        rows = pool.X[train], place[pool.y[train]], pool.X_test[test], place[pool.y_test[test]]
        pools.append(Pool(f"{pool.name} groups", *rows, pool.text[members]))
    return pools


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


def encoded(name: str) -> Pool:
    """Encode digits or the photographs with ``cafe:mini``, once; the cache is kept in the cache folder."""
    path = cache_dir(None) / "studies" / f"{name}{'-smoke' if is_smoke() else ''}.h5"
    with tempfile.TemporaryDirectory() as folder:
        dataset = photographs(Path(folder)) if name == "photographs" and not path.exists() else name
        return pool_of(name, embedded(dataset, path=path))


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
    residual = np.square(differences - rows - draws[:, None] + mean).sum() / max(1, (m - 1) * (n - 1))
    return float(np.sqrt((between_rows + max(0.0, between_draws - residual)) / (m * n)))
