"""Identical images of a data set, found by the hashes that its cache has: no file is read for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cafe.cache.format import layout
from cafe.cache.format.arrays import texts_of
from cafe.cache.format.reader import open_cache
from cafe.data.base import Dataset, NamedDataset
from cafe.data.contents import Contents, Sample, describe_identical, groups_of_identical


def look_for_copies(dataset: Dataset, path: Path) -> tuple[Contents, list[str]]:
    """Add identical images to what is known of a data set's contents.

    Parameters
    ----------
    dataset : Dataset
        Whose contents may be known already, identical images included.
    path : Path
        Its cache.

    Returns
    -------
    Contents
        With ``identical``, where the cache has hashes.
    list of str
        What is odd about them, unless it was said when the data set was opened, or the data set is a published one,
        which users cannot change.
    """
    contents = dataset.contents or Contents(images=sum(map(len, dataset.splits.values())))
    if contents.identical is not None:
        return contents, []
    divided = dataset.split_origin.startswith("hash")
    contents = replace(contents, identical=groups_of_identical(_repeated(dataset, path)), divided=divided)
    if isinstance(dataset, NamedDataset):
        return contents, []
    return contents, describe_identical(contents.identical or (), divided=divided)


def _repeated(dataset: Dataset, path: Path) -> Iterator[tuple[bytes, Sample]]:
    """Go through the images of a cache whose hash begins like that of another image."""
    hashes, places = [], []
    with open_cache(path) as file:
        names = [name for name in file.attrs[layout.SPLITS] if f"{layout.SPLITS}/{name}/image_sha256" in file.arrays]
        for number, name in enumerate(names):
            of_split = file.arrays[f"{layout.SPLITS}/{name}/{layout.IMAGE_SHA256}"][()]  # (n, 32)
            hashes.append(of_split)
            places.append(np.stack([np.full(len(of_split), number), np.arange(len(of_split))], axis=1))
        if not hashes:
            return
        hashes_of_all, places_of_all = np.concatenate(hashes), np.concatenate(places)
        start = np.ascontiguousarray(hashes_of_all[:, :8]).view("<u8").reshape(-1)
        _, inverse, counts = np.unique(start, return_inverse=True, return_counts=True)
        chosen = np.flatnonzero(counts[inverse] > 1)
        if not len(chosen):
            return
        labels = {name: file.arrays[f"{layout.SPLITS}/{name}/{layout.LABELS}"][()] for name in names}
        ids = {name: texts_of(file.arrays[f"{layout.SPLITS}/{name}/{layout.SAMPLE_IDS}"][()]) for name in names}
    for row in chosen.tolist():
        name, place = names[int(places_of_all[row, 0])], int(places_of_all[row, 1])
        class_name = dataset.class_names[int(labels[name][place])]
        yield hashes_of_all[row].tobytes(), Sample(ids[name][place], class_name, name)
