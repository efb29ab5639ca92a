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
        JSON: ``{"class name": ["prompt", ...], ...}``. Names match exactly, or else without regard to case,
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
        If the file has another form, or no prompt for a class.

    References
    ----------
    Pratt et al. 2023, "What does a platypus look like? Generating customized prompts for zero-shot image
    classification".
    """
    path = Path(path)
    document = parse_json(read_text(path, "--prompts"), path)
    if not isinstance(document, dict):
        raise InputError(f'{path} must hold {{"class name": ["prompt", ...], ...}}, not a {type(document).__name__}')
    keys_by_plain_name: dict[str, list[str]] = {}
    for key in document:
        keys_by_plain_name.setdefault(_plain_name(key), []).append(key)
    prompts: dict[str, tuple[str, ...]] = {}
    missing = []
    for name in class_names:
        key = _matching_key(path, name, document, keys_by_plain_name)
        if key is None:
            missing.append(name)
        else:
            prompts[name] = _prompts_of(path, key, document[key])
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"{path} has no prompts for {len(missing)} of {len(class_names)} classes: {shown}")
    return tuple(prompts[name] for name in class_names)


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
        (*(fill(template, name) for template in templates), *prompts)
        for name, prompts in zip(class_names, per_class, strict=True)
    )


def _matching_key(
    path: Path, name: str, document: Mapping[str, Any], keys_by_plain_name: Mapping[str, list[str]]
) -> str | None:
    """Return the file's key for a class: its name, else the only one alike but for case, underscores and hyphens."""
    if name in document:
        return name
    keys = keys_by_plain_name.get(_plain_name(name), [])
    if len(keys) > 1:
        raise InputError(f"{path}: class {name!r} could be any of {', '.join(map(repr, keys))}; name one exactly so")
    return keys[0] if keys else None


def _plain_name(name: str) -> str:
    """Return a name without case, underscores and hyphens, for comparison."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _prompts_of(path: Path, key: str, value: Any) -> tuple[str, ...]:
    """Check and return the prompts of one class."""
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise InputError(f"{path}: the prompts of {key!r} must be a list of at least one text")
    return tuple(text.strip() for text in value)
