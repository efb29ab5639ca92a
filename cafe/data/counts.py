"""Compares what is on the disk with the published counts."""

from __future__ import annotations

from collections.abc import Mapping

from cafe.data.base import Dataset


def count_note(dataset: Dataset, published: Mapping[str, int]) -> list[str]:
    """Return one note if a count differs from the published one, else none.

    Parameters
    ----------
    dataset : Dataset
        With its class names and splits.
    published : mapping of str to int
        Published number of ``classes``, and of images in each split that there is.

    Returns
    -------
    list of str
        Empty, or one sentence with all counts.
    """
    counts = {"classes": len(dataset.class_names), **{name: len(split) for name, split in dataset.splits.items()}}
    if counts == dict(published):
        return []
    here, there = (", ".join(f"{n} {name}" for name, n in c.items()) for c in (counts, published))
    return [f"this is not the full {dataset.name}: {here}; published are {there}"]
