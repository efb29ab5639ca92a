"""Templates and prompts.

A template has one slot, ``{}`` (CoOp, OpenAI) or ``{c}`` (CLIP_benchmark), for the class name.
"""

from __future__ import annotations

from collections.abc import Sequence

from cafe.errors import InputError

GENERIC_TEMPLATE = "a photo of a {}."
_SLOTS = ("{}", "{c}")


def has_slot(template: str) -> bool:
    """Return whether a text has a slot for the class name.

    Examples
    --------
    >>> has_slot("a photo of a {c}."), has_slot("a photo of a cat.")
    (True, False)
    """
    return any(slot in template for slot in _SLOTS)


def fill(template: str, class_name: str) -> str:
    """Put a class name into a template.

    Raises
    ------
    InputError
        If the template has no slot.

    Examples
    --------
    >>> fill("a photo of a {}.", "cat"), fill("a photo of a {c}.", "cat")
    ('a photo of a cat.', 'a photo of a cat.')
    """
    # Plain replacement instead of str.format: class names and templates may hold braces of their own.
    for slot in _SLOTS:
        if slot in template:
            return template.replace(slot, class_name)
    raise InputError(f"template {template!r} has no slot for the class name; write {{}} or {{c}} where it goes")


def prompts(templates: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Fill every template with every class name, templates outermost: m x c prompts.

    Examples
    --------
    >>> prompts(["a {}", "the {}"], ["cat", "dog"])
    ['a cat', 'a dog', 'the cat', 'the dog']
    """
    return [fill(template, name) for template in templates for name in class_names]
