"""``cafe fit --set NAME=VALUE``: parameters of a method that have no option of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import typer

from cafe.errors import InputError

Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other parameter of the method, such as form=released or n_context=4; may be repeated.",
    ),
]
# What has an option of its own, or comes from the cache.
_ELSEWHERE = {
    **{name: f"give --{name}" for name in ("variant", "alpha", "beta", "reduction", "device", "dtype")},
    "random_state": "give --seed",
    **dict.fromkeys(("class_embeddings", "classes", "class_names", "projection"), "it comes from the cache"),
}


def settings_of(given: Sequence[str] | None) -> dict[str, Any]:
    """Read settings; a value is JSON where it can be, else text.

    Raises
    ------
    InputError
        If one is no ``NAME=VALUE``, is given twice, or is set in another way.

    Examples
    --------
    >>> settings_of(["form=released", "epochs=20", "normalize=false", "n_context=4"])
    {'form': 'released', 'epochs': 20, 'normalize': False, 'n_context': 4}
    """
    settings: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name or not equals or not value:
            raise InputError(f"--set takes NAME=VALUE, such as form=released; got {text!r}")
        if name in _ELSEWHERE:
            raise InputError(f"--set cannot set {name}: {_ELSEWHERE[name]}")
        if name in settings:
            raise InputError(f"--set gives {name} twice")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def check_kinds(settings: Mapping[str, Any], annotations: Mapping[str, str]) -> None:
    """Refuse text where a method has a number, and the like; unknown names are left to the method itself.

    Parameters
    ----------
    settings : mapping
        Read by :func:`settings_of`.
    annotations : mapping of str to str
        Types of the method's parameters, as they are written: ``"float | str"``.

    Raises
    ------
    InputError
        If a value is of none of these types.

    Examples
    --------
    >>> check_kinds({"lr": 1, "C": "auto", "epochs": None}, {"lr": "float", "C": "float | str", "epochs": "int | None"})
    """
    for name, value in settings.items():
        kinds = [part.strip() for part in annotations.get(name, "Any").split("|")]
        if not set(kinds) <= set(_WORDS) or set(kinds) & _kinds(value):
            continue
        wanted = " or ".join(_WORDS[kind] for kind in kinds)
        raise InputError(f"--set {name} takes {wanted}; got {value!r}")


_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word", "None": "null"}


def _kinds(value: Any) -> set[str]:
    """Name the types that a JSON value passes for."""
    if value is None:
        return {"None"}
    if isinstance(value, int) and not isinstance(value, bool):
        return {"int", "float"}
    return {type(value).__name__}
