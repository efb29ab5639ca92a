"""Identity of features: canonical JSON of every input that changes them, and its SHA-256."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cafe.cache.format.arrays import StoredDtype

_SHOWN = 80  # characters of a value that an error message shows
_SHOWN_OF_HASH = 8
_HASH = re.compile("[0-9a-f]{64}")


def canonical_json(value: Any) -> bytes:
    """Write JSON in the form that is hashed for fingerprints: sorted keys, no spaces, ASCII.

    Examples
    --------
    >>> canonical_json({"b": (1, 2), "a": None})
    b'{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON, in hexadecimal.

    Examples
    --------
    >>> fingerprint({})[:8]
    '44136fa3'
    """
    return hashlib.sha256(canonical_json(value)).hexdigest()


def image_part(
    dataset: Mapping[str, Any],
    encoder: Mapping[str, Any],
    *,
    splits: Sequence[str],
    stored_dtype: StoredDtype,
    views: Mapping[str, Any] | None = None,
    draws: Mapping[str, Any] | None = None,
    projection_features: bool = False,
    decoder: str = "pillow",
    with_class_names: bool = False,
) -> dict[str, Any]:
    """Gather every input that changes an image feature.

    Parameters
    ----------
    dataset : mapping
        ``Dataset.identity()``. Class names are left out (they change text alone), and splits that are not extracted.
    encoder : mapping
        ``Encoder.identity()["image"]``.
    splits : sequence of str
        The splits that are extracted, in order.
    stored_dtype : str
        ``"float16"`` or ``"float32"``.
    views : mapping or None
        Parameters of augmented views.
    draws : mapping or None
        Few-shot draws, if only the rows that they need are extracted; the key exists only then.
    projection_features : bool
        Whether features before the projection are extracted too; the key exists only then.
    decoder : str
        Decoder of JPEG files; the key exists only if that is not Pillow.
    with_class_names : bool
        Keep the class names in ``dataset``, which a cache without a text part has in no other place.

    Returns
    -------
    dict
        The ``image`` object of the provenance.
    """
    identity = {key: value for key, value in dataset.items() if with_class_names or key != "class_names"}
    if "splits" in identity:
        identity["splits"] = {name: identity["splits"][name] for name in splits}
    return {
        "dataset": identity,
        "encoder": dict(encoder),
        "splits": list(splits),
        "stored_dtype": stored_dtype,
        "views": None if views is None else dict(views),
        **({} if draws is None else {"draws": dict(draws)}),
        **({"projection_features": True} if projection_features else {}),
        **({} if decoder == "pillow" else {"decoder": decoder}),
    }


def text_part(
    class_names: Sequence[str],
    encoder: Mapping[str, Any],
    *,
    templates: Sequence[str] = (),
    prompts: Sequence[Sequence[str]] | None = None,
    stored_dtype: StoredDtype,
) -> dict[str, Any]:
    """Gather every input that changes a text feature.

    Parameters
    ----------
    class_names : sequence of str, length c
        In label order.
    encoder : mapping
        ``Encoder.identity()["text"]``.
    templates : sequence of str, length m
        Empty if prompts are given.
    prompts : sequence of c sequences of str, or None
        Prompts written per class, in place of templates.
    stored_dtype : str
        ``"float16"`` or ``"float32"``.

    Returns
    -------
    dict
        The ``text`` object of the provenance.
    """
    return {
        "class_names": list(class_names),
        "templates": list(templates),
        "prompts": None if prompts is None else [list(row) for row in prompts],
        "encoder": dict(encoder),
        "stored_dtype": stored_dtype,
    }


def differing_fields(recorded: Any, wanted: Any, prefix: str = "", *, ending: str = "was asked for") -> list[str]:
    """Name every field that differs, with both values.

    Parameters
    ----------
    recorded, wanted : JSON values
        Fields of the cache, and those that were asked for.
    prefix : str
        Path of the two values, such as ``"image"``.
    ending : str, default "was asked for"
        How the clause ends, after the wanted value.

    Returns
    -------
    list of str
        One clause per differing field, sorted by field; empty if nothing differs.

    Examples
    --------
    >>> differing_fields({"encoder": {"dtype": "float32"}}, {"encoder": {"dtype": "bfloat16"}}, "image")
    ['image.encoder.dtype = "float32", but "bfloat16" was asked for']
    """
    if isinstance(recorded, Mapping) and isinstance(wanted, Mapping):
        clauses: list[str] = []
        for key in sorted({*recorded, *wanted}):
            path = f"{prefix}.{key}" if prefix else str(key)
            clauses += differing_fields(recorded.get(key, _ABSENT), wanted.get(key, _ABSENT), path, ending=ending)
        return clauses
    if recorded is not _ABSENT and wanted is not _ABSENT and canonical_json(recorded) == canonical_json(wanted):
        return []
    return [f"{prefix or 'value'} = {_shown(recorded)}, but {_shown(wanted)} {ending}"]


class _Absent:
    """Stands for a field that one side does not have."""


_ABSENT = _Absent()


def _shown(value: Any) -> str:
    """Return a value as an error message shows it, shortened if it is long."""
    if value is _ABSENT:
        return "nothing"
    if isinstance(value, str) and _HASH.fullmatch(value):
        return f'"{value[:_SHOWN_OF_HASH]}..."'
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
