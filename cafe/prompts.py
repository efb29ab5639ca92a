"""Templates, prompts and class embeddings.

A template has one slot, ``{}`` (CoOp, OpenAI) or ``{c}`` (CLIP_benchmark), for the class name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError

GENERIC_TEMPLATE = "a photo of a {}."


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
    for slot in ("{}", "{c}"):
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


def class_embeddings(text_features: NDArray[Any]) -> NDArray[np.float32]:
    """Average the templates: unit length each, mean over templates, unit length again.

    Parameters
    ----------
    text_features : ndarray of shape (m, c, d)
        As the text tower returned them.

    Returns
    -------
    ndarray of shape (c, d), float32
        Unit-length class embeddings, as in OpenAI's and CoOp's prompt ensembling.

    Raises
    ------
    InputError
        If a text feature has length zero or is not finite.
    """
    text = np.asarray(text_features, dtype=np.float64)
    length = np.linalg.norm(text, axis=-1, keepdims=True)  # (m, c, 1)
    if not np.all(np.isfinite(length)) or np.any(length == 0):
        raise InputError("text features must be finite and not zero; extract them again")
    mean = (text / length).mean(axis=0)  # (c, d)
    embeddings: NDArray[np.float32] = (mean / np.linalg.norm(mean, axis=-1, keepdims=True)).astype(np.float32)
    return embeddings
