"""Joins the caches of two encoders of the same images, so that a comparison shows whether the second one helps."""

from __future__ import annotations

from collections.abc import Sequence

from cafe.errors import InputError
from cafe.features import Features
from cafe.protocol.tasks import dataset_name, encoder_name


def with_joined(features: Sequence[Features]) -> tuple[list[Features], list[str]]:
    """Add the joined features of each data set that was encoded by exactly two encoders.

    Parameters
    ----------
    features : sequence of Features
        One per cache.

    Returns
    -------
    list of Features, list of str
        The given features followed by the joined ones; and a sentence for every two that cannot be joined.

    Examples
    --------
    >>> import numpy as np
    >>> from cafe.features import Split
    >>> split = Split(np.eye(2), np.array([0, 1]), np.array(["a", "b"]), image_sha256=np.eye(2, 32, dtype=np.uint8))
    >>> clip, dino = (
    ...     Features({"train": split}, ("cat", "dog"), provenance={"dataset": "pets", "encoder": name, "image": {
    ...         "encoder": {"weights_sha256": name}}}) for name in ("clip", "dino"))
    >>> [part.provenance["encoder"] for part in with_joined([clip, dino])[0]]
    ['clip', 'dino', 'clip+dino']
    """
    by_dataset: dict[str, list[Features]] = {}
    for part in features:
        by_dataset.setdefault(dataset_name(part), []).append(part)
    joined, notes = list(features), []
    for name, parts in by_dataset.items():
        encoders = [encoder_name(part) for part in parts]
        if len(parts) == 2 and len(set(encoders)) == 2 and not any(part.second_width for part in parts):
            try:
                joined.append(parts[0].join(parts[1]))
            except InputError as error:
                notes.append(f"both encoders of {name} are compared one by one, not joined: {error}")
    return joined, notes
