"""CoCoOp's split of the classes: learn on the base classes, score the new ones too.

The first ``ceil(c / 2)`` classes in label order are base, the rest new; each part is relabelled from 0. Shots are
drawn from the base classes alone. The two accuracies are summed up by their harmonic mean.

Source: Zhou et al., Conditional Prompt Learning for Vision-Language Models (CVPR 2022), section 4.1, and its code.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError
from cafe.features import Features
from cafe.protocol.tasks import dataset_name


def split_classes(features: Features) -> tuple[Features, Features]:
    """Return the base classes and the new ones as data sets of their own.

    Raises
    ------
    InputError
        If there are fewer than four classes: each part needs two. Or if the cache holds only the images of few-shot
        draws: those were drawn over all classes, not over the base classes.

    Examples
    --------
    >>> from cafe.features import Split
    >>> split = Split(np.eye(5), np.array([4, 3, 2, 1, 0]), np.array(list("abcde")))
    >>> base, new = split_classes(Features({"test": split}, ("v", "w", "x", "y", "z")))
    >>> base.class_names, base.splits["test"].labels.tolist(), new.splits["test"].labels.tolist()
    (('v', 'w', 'x'), [2, 1, 0], [1, 0])
    """
    classes = len(features.class_names)
    if classes < 4:
        raise InputError(
            f"base-to-new needs at least four classes, two of each part, but {dataset_name(features)} has {classes}"
        )
    if any(split.full_labels is not None for split in features.splits.values()):
        raise InputError(
            f"the cache of {dataset_name(features)} holds only the images of few-shot draws over all classes; "
            "base-to-new draws from the base classes, so extract all training images"
        )
    middle = -(-classes // 2)
    return _part(features, 0, middle), _part(features, middle, classes)


def _part(features: Features, first: int, end: int) -> Features:
    """Return the data set of the classes ``first`` to ``end - 1``, numbered from 0."""
    splits = {}
    for name, split in features.splits.items():
        rows: NDArray[np.int64] = np.flatnonzero((split.labels >= first) & (split.labels < end))
        kept = split.take(rows)
        splits[name] = replace(kept, labels=kept.labels - first)
    text, prompts, owners = features.text_features, features.prompt_features, features.prompt_classes
    if text is not None:
        text = text[:, first:end]  # (m, classes of this part, d)
    if prompts is not None and owners is not None:
        kept_prompts = (owners >= first) & (owners < end)
        prompts, owners = prompts[kept_prompts], owners[kept_prompts] - first
    # The other fields belong to the encoder, and are the same for both parts: logit scale, projection, templates.
    return replace(
        features, splits=splits, class_names=features.class_names[first:end], text_features=text,
        prompt_features=prompts, prompt_classes=owners,
    )  # fmt: skip


def harmonic_mean(base: float, new: float) -> float:
    """Return 2 b n / (b + n), 0 where both are 0.

    Examples
    --------
    >>> round(harmonic_mean(0.6934, 0.7422), 4)  # zero-shot's published average is 71.70
    0.717
    """
    return 2 * base * new / (base + new) if base + new > 0 else 0.0
