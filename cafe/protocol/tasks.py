"""A few-shot task: which rows are learned from, chosen by, and tested on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CafeWarning, InputError
from cafe.features import Features, Split
from cafe.protocol.draws import draw_few_shot
from cafe.protocol.overlap import check_overlap, without_shared
from cafe.protocol.unlabelled import UNLABELLED, Unlabelled


@dataclass(frozen=True)
class Task:
    """One draw of shots.

    Attributes
    ----------
    features : Features
        The data set.
    shots : int or None
        Training images per class; None for all.
    seed : int
        Of the draw and of every fit.
    train : Split
        The shots, in the protocol's order.
    val : Split or None
        min(shots, 4) validation images per class (all, where shots is None); None where there is no val split.
    test : Split
        Not used before a fit is done.
    unlabelled : Unlabelled or None, default=None
        Images without labels, for methods that learn from those.
    """

    features: Features
    shots: int | None
    seed: int
    train: Split
    val: Split | None
    test: Split
    unlabelled: Unlabelled | None = None

    def before_projection(self) -> Task | None:
        """Return the same task on features before the projection; None where the cache does not hold them."""
        splits = [split for split in (self.train, self.val, self.test) if split is not None]
        if self.features.projection is None or any(split.projection_features is None for split in splits):
            return None

        def unprojected(split: Split) -> Split:
            assert split.projection_features is not None
            return replace(split, image_features=split.projection_features)

        val = None if self.val is None else unprojected(self.val)
        return replace(self, train=unprojected(self.train), val=val, test=unprojected(self.test))


def make_task(features: Features, shots: int | None, seed: int, check: bool = True) -> Task:
    """Draw the shots of one task by CoOp's protocol.

    Parameters
    ----------
    features : Features
        With splits ``train`` and ``test``, and perhaps ``val``.
    shots : int or None
        Per class; None for all training images.
    seed : int
        Of the draw.
    check : bool, default=True
        Whether to look for rows that the shots and the test split share.

    Raises
    ------
    InputError
        If a split is missing or empty, or train and test overlap.

    Warns
    -----
    SharedImagesWarning
        If validation images are in the test split; they are left out.
    """
    for name in ("train", "test"):
        if name not in features.splits:
            raise InputError(
                f"the cache of {dataset_name(features)} has no split {name!r}, but only {', '.join(features.splits)}; "
                "a fit learns from train and is measured on test, so extract both"
            )
    train, test = features.split("train"), features.split("test")
    val = features.splits.get("val")
    for name, split in (("train", train), ("test", test)):
        if len(split) == 0:
            raise InputError(f"split {name!r} of {dataset_name(features)} is empty")
    if shots is not None:
        val_labels = None if val is None else _all_labels(val)
        train_rows, val_rows = draw_few_shot(_all_labels(train), val_labels, shots, seed, features.class_names)
        train = _take_drawn(features, "train", np.asarray(train_rows, dtype=np.int64), shots, seed)
        val = None if val is None else _take_drawn(features, "val", np.asarray(val_rows, dtype=np.int64), shots, seed)
    elif train.full_labels is not None:
        raise InputError(
            f"the cache of {dataset_name(features)} holds only the images of few-shot draws "
            f"({_extracted_draws(features)}); name one of them with shots and seed, or extract all training images"
        )
    if check:
        check_overlap(train, test)
        val = None if val is None else without_shared(val, test)
        val = val if val is not None and len(val) else None
    return Task(features, shots, seed, train, val, test)


def _all_labels(split: Split) -> NDArray[np.int64]:
    """Return the labels that the protocol draws from: of the whole split, even where only drawn rows were extracted."""
    return split.labels if split.full_labels is None else split.full_labels


def _take_drawn(features: Features, name: str, drawn: NDArray[np.int64], shots: int, seed: int) -> Split:
    """Return the drawn rows of a split, which may hold only the rows that few-shot draws need.

    Parameters
    ----------
    features : Features
        The data set.
    name : str
        Name of the split.
    drawn : ndarray of int64
        Rows of the whole split, as the data set has it.
    shots, seed : int
        Of the draw, for the message.

    Raises
    ------
    InputError
        If the cache was not made with this draw and lacks some of its rows.
    """
    split = features.splits[name]
    if split.full_rows is None:
        return split.take(drawn)
    position = {int(row): place for place, row in enumerate(split.full_rows)}
    extracted = [position[row] for row in drawn.tolist() if row in position]
    draws = features.provenance.get("image", {}).get("draws", {})
    n_missing = len(drawn) - len(extracted)
    if n_missing:
        if shots not in draws.get("shots", ()) or seed not in draws.get("seeds", ()):
            raise InputError(
                f"the cache of {dataset_name(features)} holds only the images of few-shot draws "
                f"({_extracted_draws(features)}); shots {shots} with seed {seed} needs {n_missing} more"
            )
        warnings.warn(
            f"{n_missing} images drawn from split {name!r} could not be read when the cache was made; "
            f"the others are used",
            CafeWarning,
            stacklevel=3,
        )
    return split.take(np.array(extracted, dtype=np.int64))


def _extracted_draws(features: Features) -> str:
    """Name the few-shot draws that a cache was made with."""
    draws = features.provenance.get("image", {}).get("draws", {})
    shots, seeds = (", ".join(map(str, draws.get(key, ()))) for key in ("shots", "seeds"))
    return f"shots {shots}; seeds {seeds}"


def dataset_name(features: Features) -> str:
    """Return the data set's name as provenance has it."""
    return str(features.provenance.get("dataset", "unnamed"))


def encoder_name(features: Features) -> str:
    """Return the encoder's id as provenance has it."""
    return str(features.provenance.get("encoder", "unnamed"))


def stacked(tasks: list[Task]) -> tuple[NDArray[Any], NDArray[np.int64], list[NDArray[np.int64]]]:
    """Concatenate the training rows of several tasks, so that all can be fitted in one run.

    Returns
    -------
    tuple
        Features (n, d), labels (n,), and for each task its rows of both. Shots drawn more than once are kept
        once for each draw: a few thousand rows cost less than finding the doubles. A task's unlabelled rows follow
        its own, with the label :data:`cafe.protocol.unlabelled.UNLABELLED`.
    """
    if len(tasks) == 1 and tasks[0].unlabelled is None:  # features that are on disk stay there
        train = tasks[0].train
        return train.image_features, train.labels, [np.arange(len(train))]
    X, y, rows, end = [], [], [], 0
    for task in tasks:
        start = end
        parts = [(task.train.image_features, task.train.labels)]
        if task.unlabelled is not None:
            unlabelled = task.unlabelled.features
            parts.append((unlabelled, np.full(len(unlabelled), UNLABELLED, dtype=np.int64)))
        for features, labels in parts:
            X.append(features)
            y.append(labels)
            end += len(labels)
        rows.append(np.arange(start, end))
    return np.concatenate(X), np.concatenate(y), rows
