"""Reads a room by walking its folder, without importing what lives there.

A method, a data set, a source, an encoder or a suite is one file that says its own name in a
top-level constant (``METHOD = "lp++"``) and defines one public class. The names, the classes and the
first docstring lines are read from the syntax tree, so that ``cafe methods`` and ``import cafe``
answer without importing torch; the module is imported when its class is asked for.
"""

from __future__ import annotations

import ast
import functools
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.errors import unknown_name

_CAFE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """One newcomer found in a room.

    Attributes
    ----------
    name : str
        What people type, such as ``"clip-adapter"``.
    module : str
        Full module name, such as ``"cafe.methods.clip_adapter"``.
    class_name : str
        The first public class of that file.
    summary : str
        First line of the class's docstring.
    """

    name: str
    module: str
    class_name: str
    summary: str

    def load(self) -> Any:
        """Import the module and return the class."""
        return getattr(importlib.import_module(self.module), self.class_name)


@functools.cache
def entries(room: str, constant: str) -> dict[str, Entry]:
    """Find everything in a room that says its own name.

    Parameters
    ----------
    room : str
        Folder below ``cafe``, with dots, such as ``"methods"`` or ``"compare.suites"``.
    constant : str
        The constant that carries the name: ``METHOD``, ``DATASET``, ``SOURCE``, ``ENCODER``, ``SUITE``.

    Returns
    -------
    dict of str to Entry
        By name, sorted.

    Examples
    --------
    >>> "zero-shot" in entries("methods", "METHOD")
    True
    """
    found: dict[str, Entry] = {}
    for path in sorted(_CAFE.joinpath(*room.split(".")).glob("*.py")):
        entry = _read_entry(path, f"cafe.{room}.{path.stem}", constant)
        if entry is not None:
            found[entry.name] = entry
    return dict(sorted(found.items()))


def find(room: str, constant: str, kind: str, name: str) -> Entry:
    """Return the entry of that name.

    Raises
    ------
    InputError
        If there is none; the message names the nearest.
    """
    known = entries(room, constant)
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


def _read_entry(path: Path, module: str, constant: str) -> Entry | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = None
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        if any(isinstance(target, ast.Name) and target.id == constant for target in node.targets):
            name = str(node.value.value)
    if name is None:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            docstring = ast.get_docstring(node) or ""
            return Entry(name, module, node.name, docstring.partition("\n")[0])
    raise AssertionError(f"{path} sets {constant} but defines no public class")
