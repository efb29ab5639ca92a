"""Finds out from their names which arrays are features, labels, ids, text and class names, and of which split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cafe.errors import InputError, unknown_name

_FEATURES = {
    "features",
    "feature",
    "feats",
    "feat",
    "embeddings",
    "embedding",
    "embeds",
    "embed",
    "embs",
    "emb",
    "x",
    "f",
}
_LABELS = {"labels", "label", "targets", "target", "y", "l"}
_IDS = {"ids", "id", "paths", "path", "filenames", "filename", "files"}
_NOISE = {"list", "image", "images", "img", "sample", "array", "data", "all"}
_SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
_SHOTS = re.compile(r"(\d+)_?shots?")
_MANY = 1 << 30


@dataclass(frozen=True)
class Pair:
    """Features and what belongs to them.

    Attributes
    ----------
    features, labels : str
        Names of arrays.
    ids : str or None
        Name of the array of sample ids.
    split : str or None
        As its name says; None if it does not.
    shots : int or None
        As its name says.
    """

    features: str
    labels: str
    ids: str | None
    split: str | None
    shots: int | None


@dataclass(frozen=True)
class Roles:
    """What each array is: the pairs, and the names of text features and class names."""

    pairs: tuple[Pair, ...]
    text: str | None
    class_names: str | None


def roles_of(names: Iterable[str]) -> Roles:
    """Read the roles from the names.

    Examples
    --------
    >>> roles = roles_of(["train_16shot_features", "train_16shot_labels", "text_features", "class_names"])
    >>> roles.pairs[0].split, roles.pairs[0].shots, roles.text, roles.class_names
    ('train', 16, 'text_features', 'class_names')
    """
    text = class_names = None
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        words = _words(name)
        if {"class", "names"} <= set(words) or {"classnames", "classes"} & set(words):
            class_names = class_names or name
        elif "text" in words:
            text = text or name
        else:
            role, rest = _role(words)
            if role:
                groups.setdefault(rest, {}).setdefault(role, name)
    pairs = []
    for rest, group in groups.items():
        if "features" in group and "labels" in group:
            shots = _SHOTS.search("_".join(rest))
            split = next((_SPLITS[word] for word in rest if word in _SPLITS), None)
            pairs.append(
                Pair(group["features"], group["labels"], group.get("ids"), split, int(shots[1]) if shots else None)
            )
    return Roles(tuple(pairs), text, class_names)


def choose_pairs(
    roles: Roles, wished: Mapping[str, tuple[str, ...]], where: object
) -> tuple[dict[str, list[Pair]], list[str]]:
    """Decide which pairs make up which split.

    What the user named comes first. Else a split takes the pair that its name says; of several numbers of shots the
    largest. A pair without a split in its name is training data, if there is no other.

    Returns
    -------
    dict of str to list of Pair, list of str
        By split, and notes on what was decided unasked.

    Raises
    ------
    InputError
        If there is no pair at all, or none of a name that was given.
    """
    if not roles.pairs:
        raise InputError(
            f"no features with labels were found in {where}; names such as train_features and train_labels, X_test and "
            f"y_test, or feature_list and label_list are understood"
        )
    chosen = {split: [_named(key, split, roles, where) for key in keys] for split, keys in wished.items() if keys}
    used = {pair for pairs in chosen.values() for pair in pairs}
    notes = []
    for split in ("train", "val", "test"):
        if split in chosen:
            continue
        fitting = [pair for pair in roles.pairs if pair.split == split and pair not in used]
        if split == "train" and not fitting:
            fitting = [pair for pair in roles.pairs if pair.split is None and pair not in used]
        if fitting:
            best = max(fitting, key=lambda pair: _MANY if pair.shots is None else pair.shots)
            chosen[split] = [best]
            if len(fitting) > 1:
                others = ", ".join(pair.features for pair in fitting if pair != best)
                notes.append(f"{split} is {best.features}; also there: {others} (choose with --{split})")
    if "test" not in chosen:
        names = ", ".join(pair.features for pair in roles.pairs)
        notes.append(f"there is no test split, which every method needs; name one with --test; there are: {names}")
    order = {"train": 0, "val": 1, "test": 2}
    return dict(sorted(chosen.items(), key=lambda item: order.get(item[0], 3))), notes


def _named(key: str, split: str, roles: Roles, where: object) -> Pair:
    for pair in roles.pairs:
        if key == pair.features or _words(key) == list(_role(_words(pair.features))[1]):
            return pair
    names = [pair.features for pair in roles.pairs]
    raise InputError(f"--{split}: {unknown_name(f'features of {where}', key, names)}")


def _role(words: list[str]) -> tuple[str | None, tuple[str, ...]]:
    role, rest = None, []
    for word in words:
        for name, meant in (("features", _FEATURES), ("labels", _LABELS), ("ids", _IDS)):
            if word in meant and role is None:
                role = name
                break
        else:
            if word not in _NOISE:
                rest.append(word)
    return role, tuple(rest)


def _words(name: str) -> list[str]:
    """Split a name at everything that is no letter or digit, and where capitals begin: ``trainFeatures``."""
    parts = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])", name)
    return [part.lower() for part in parts]
