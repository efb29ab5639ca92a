"""Which rows of a data set are extracted: all, or those that some few-shot draw needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.data.base import Dataset
from cafe.errors import InputError
from cafe.protocol.draws import draw_few_shot


@dataclass(frozen=True)
class Draws:
    """Few-shot draws of CoOp's protocol whose images are extracted, and no others of train and val.

    Attributes
    ----------
    shots : tuple of int
        Numbers of images per class.
    seeds : tuple of int
        Of the draws.
    """

    shots: tuple[int, ...]
    seeds: tuple[int, ...] = (1, 2, 3)

    def specification(self) -> dict[str, Any]:
        """Return them as JSON, for the fingerprint."""
        return {"shots": sorted(set(self.shots)), "seeds": sorted(set(self.seeds))}


def rows_to_extract(dataset: Dataset, splits: Sequence[str], draws: Draws | None) -> dict[str, NDArray[np.int64]]:
    """Return the rows of every split that are extracted, ascending.

    Parameters
    ----------
    dataset : Dataset
        With a split ``train`` if there are draws.
    splits : sequence of str
        Splits that are extracted.
    draws : Draws or None
        None is all rows. Otherwise train and val hold the union of all draws; other splits stay whole.

    Returns
    -------
    dict of str to ndarray of int64

    Raises
    ------
    InputError
        If there are draws but no train split is extracted, or shots or seeds are out of range.
    """
    rows = {name: np.arange(len(dataset.splits[name]), dtype=np.int64) for name in splits}
    if draws is None:
        return rows
    if "train" not in splits:
        raise InputError(f"few-shot draws are made from the split 'train'; extracted are: {', '.join(splits)}")
    if not draws.shots or not draws.seeds:
        raise InputError("few-shot draws need at least one number of shots and one seed")
    val = dataset.splits["val"].labels if "val" in dataset.splits else None
    train_rows, val_rows = [], []
    for shots in draws.shots:
        for seed in draws.seeds:
            of_train, of_val = draw_few_shot(dataset.splits["train"].labels, val, shots, seed)
            train_rows.append(of_train)
            val_rows.append(of_val)
    rows["train"] = np.unique(np.concatenate(train_rows))
    if "val" in splits:
        rows["val"] = np.unique(np.concatenate(val_rows))
    return rows
