"""Prompts written per class, as CuPL's language model wrote them: a JSON object from class name to list of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cafe.errors import InputError
from cafe.foreign import parse_json
from cafe.prompts.class_names import read_text
from cafe.prompts.filling import fill


def read_prompts(path: Path | str, class_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Read a prompt file for these classes.

    Parameters
    ----------
    path : path
        JSON: ``{"class name": ["prompt", ...], ...}``. Names are matched exactly; else without regard to case,
        underscores and hyphens. Classes that the data set does not have are passed over, so that ImageNet's file
        serves its subsets.
    class_names : sequence of str, length c
        In label order.

    Returns
    -------
    tuple of c tuples of str
        At least one prompt each; classes may have different numbers of them.

    Raises
    ------
    InputError
        If the file is something else, or has nothing for a class.

    References
    ----------
    Pratt et al. 2023, "What does a platypus look like? Generating customized prompts for zero-shot image
    classification".
    """
    path = Path(path)
    given = parse_json(read_text(path, "--prompts"), path)
    if not isinstance(given, dict):
        raise InputError(f'{path} must hold {{"class name": ["prompt", ...], ...}}, not a {type(given).__name__}')
    alike: dict[str, list[str]] = {}
    for key in given:
        alike.setdefault(_plain(key), []).append(key)
    found: dict[str, tuple[str, ...]] = {}
    missing = []
    for name in class_names:
        key = _match(path, name, given, alike)
        if key is None:
            missing.append(name)
        else:
            found[name] = _texts(path, key, given[key])
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"{path} has no prompts for {len(missing)} of {len(class_names)} classes: {shown}")
    return tuple(found[name] for name in class_names)


def with_templates(
    per_class: Sequence[Sequence[str]], templates: Sequence[str], class_names: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Put filled templates before each class's own prompts, as APE and Tip-X do.

    Examples
    --------
    >>> with_templates([["Cats purr."], ["Dogs bark."]], ["a {}"], ["cat", "dog"])
    (('a cat', 'Cats purr.'), ('a dog', 'Dogs bark.'))
    """
    return tuple(
        (*(fill(template, name) for template in templates), *own)
        for name, own in zip(class_names, per_class, strict=True)
    )


def _match(path: Path, name: str, given: Mapping[str, Any], alike: Mapping[str, list[str]]) -> str | None:
    if name in given:
        return name
    keys = alike.get(_plain(name), [])
    if len(keys) > 1:
        raise InputError(f"{path}: class {name!r} could be any of {', '.join(map(repr, keys))}; name one exactly so")
    return keys[0] if keys else None


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _texts(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise InputError(f"{path}: the prompts of {key!r} must be a list of at least one text")
    return tuple(text.strip() for text in value)
