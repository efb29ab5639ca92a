"""Template sets by name: the general ones, and one of every data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cafe.errors import InputError, unknown_name
from cafe.foreign import parse_json
from cafe.prompts.class_names import read_text
from cafe.prompts.filling import GENERIC_TEMPLATE, has_slot
from cafe.prompts.imagenet import IMAGENET_7_TEMPLATES, IMAGENET_80_TEMPLATES

_SETS = {
    "generic": ((GENERIC_TEMPLATE,), "the one of CLIP's paper that fits nearly everything"),
    "imagenet-7": (IMAGENET_7_TEMPLATES, "the 7 that CLIP's authors chose for ImageNet; Tip-Adapter's on ImageNet"),
    "imagenet-80": (IMAGENET_80_TEMPLATES, "the 80 of CLIP's ImageNet evaluation"),
}


def known_template_sets() -> list[dict[str, Any]]:
    """List the template sets, the general ones first.

    Returns
    -------
    list of dict
        Each with ``name``, ``summary`` and ``templates`` (list of str).

    Examples
    --------
    >>> [len(row["templates"]) for row in known_template_sets()[:3]]
    [1, 7, 80]
    """
    general = [
        {"name": name, "summary": summary, "templates": list(templates)} for name, (templates, summary) in _SETS.items()
    ]
    of_datasets = [
        {"name": name, "summary": f"of the data set {name}", "templates": list(_templates_of_dataset(name))}
        for name in _dataset_names()
        if name not in _SETS
    ]
    return [*general, *of_datasets]


def read_templates(given: Sequence[str] | None) -> list[str] | None:
    """Read templates: each the name of a set, a text with a slot, or a file.

    Parameters
    ----------
    given : sequence of str or None
        Each is a set's name, a template, or a file with one template on each line or a JSON list of them. A set's name
        wins over a file's; ``./imagenet-7`` is a file.

    Returns
    -------
    list of str or None
        In order; None if nothing was given.

    Raises
    ------
    InputError
        If a text is none of these, or a line of a file has no slot; the message names the line.

    Examples
    --------
    >>> read_templates(["a photo of a {}, a digit.", "generic"])
    ['a photo of a {}, a digit.', 'a photo of a {}.']
    """
    if not given:
        return None
    return [template for text in given for template in _resolve(str(text))]


def _resolve(text: str) -> Sequence[str]:
    """Return the templates that a text means: a set's name, a template itself, a data set's name, or a file."""
    if text in _SETS:
        return _SETS[text][0]
    if has_slot(text):
        return [text]
    if text in _dataset_names():
        return _templates_of_dataset(text)
    if Path(text).is_file():
        return _templates_in_file(Path(text))
    message = unknown_name("template set", text, [*_SETS, *_dataset_names()])
    raise InputError(
        f"{message}; --templates also takes a text with {{}} where the class name goes, such as 'a photo of a {{}}.', "
        f"or a file of such texts"
    )


def _templates_in_file(path: Path) -> list[str]:
    """Read a file with one template on each line, or a JSON list of templates."""
    text = read_text(path, "--templates")
    lines = parse_json(text, path) if path.suffix.lower() == ".json" else text.splitlines()
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise InputError(f"template file {path} must hold a list of texts")
    for number, line in enumerate(lines, start=1):
        if line.strip() and not has_slot(line):
            raise InputError(f"{path}, line {number}: template {line!r} has no slot {{}} for the class name")
    templates = [line.strip() for line in lines if line.strip()]
    if not templates:
        raise InputError(f"template file {path} is empty")
    return templates


def _dataset_names() -> list[str]:
    """Return the names of all known data sets."""
    # Imported here, since the data sets import this package's constants.
    from cafe.registry import entries

    return list(entries("data", "DATASET"))


def _templates_of_dataset(name: str) -> tuple[str, ...]:
    """Return the templates of a data set."""
    from cafe.registry import entries

    templates: tuple[str, ...] = entries("data", "DATASET")[name].load().templates
    return templates
