"""Says which classes an extraction lost to unreadable images."""

from __future__ import annotations

from typing import Any

from cafe.cache.extract.plan import Plan
from cafe.errors import InputError


def lost_classes(plan: Plan, splits: dict[str, Any]) -> list[str]:
    """Refuse a class that has no readable image left at all; name those that a single split has lost.

    Parameters
    ----------
    plan : Plan
        What was extracted.
    splits : dict of str to ndarray of int64
        Positions of the readable images of each split.

    Raises
    ------
    InputError
        If no image of a split, or of a class in any split, could be read.
    """
    notes = []
    before, after = set[int](), set[int]()
    names = plan.dataset.class_names
    for name, positions in splits.items():
        if not len(positions):
            raise InputError(f"no image of split {name!r} of {plan.dataset.name} can be read")
        labels = plan.dataset.splits[name].labels[plan.rows[name]]
        had, has = set(labels.tolist()), set(labels[positions].tolist())
        before, after = before | had, after | has
        for label in sorted(had - has):
            notes.append(f"no image of class {names[label]!r} in split {name!r} could be read")
    lost = [names[label] for label in sorted(before - after)]
    if lost:
        raise InputError(
            f"no image of class {', '.join(map(repr, lost))} of {plan.dataset.name} can be read; "
            f"repair the images, or remove the class"
        )
    return notes
