"""Finds what a folder of the program offers by walking it, without importing what lives there.

A method, a data set, a source, an encoder, a suite or an importer is one file that says its own name in a constant at
its top level (``METHOD = "lp++"``) and defines one public class. The names, the classes and the first docstring lines
are read from the syntax tree, so that ``cafe methods`` and ``import cafe`` answer without importing torch; the module
is imported when its class is asked for.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.errors import CafeError, InputError, unknown_name

_CAFE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """What one file offers.

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
        """Import the module and return the class.

        Raises
        ------
        CafeError
            If the module cannot be imported; the message names it and the cause.
        """
        try:
            return getattr(importlib.import_module(self.module), self.class_name)
        except CafeError:
            raise
        except Exception as error:  # whatever a file does when it is imported
            raise CafeError(
                f"{self.name!r} cannot be used: importing {self.module} failed with {type(error).__name__}: {error}"
            ) from error


@functools.cache
def entries(folder: str, constant: str) -> dict[str, Entry]:
    """Find every file of a folder that says its own name.

    Parameters
    ----------
    folder : str
        Package below ``cafe``, such as ``"methods"``, ``"compare.suites"`` or ``"cache.transfer.importers"``.
        Folders within it are not looked into.
    constant : str
        The constant that carries the name: ``METHOD``, ``DATASET``, ``SOURCE``, ``ENCODER``, ``SUITE``, ``IMPORTER``.

    Returns
    -------
    dict of str to Entry
        By name, sorted.

    Raises
    ------
    InputError
        If a file cannot be read as Python, its constant is not a text, it defines no public class, or two files say
        the same name. The message names the file.

    Examples
    --------
    >>> "zero-shot" in entries("methods", "METHOD")
    True
    """
    return _entries_of(sorted(_folder(folder).glob("*.py")), folder, constant)


def knows(folder: str, constant: str, name: str) -> bool:
    """Return whether a file of that folder says that name.

    Only files that have the name in quotes are parsed: it takes a tenth of the time of :func:`entries`.

    Raises
    ------
    InputError
        As :func:`entries`, for these files.

    Examples
    --------
    >>> knows("methods", "METHOD", "zero-shot"), knows("methods", "METHOD", "./photos")
    (True, False)
    """
    return _entry_of(folder, constant, name) is not None


def find(folder: str, constant: str, kind: str, name: str) -> Entry:
    """Return the entry of that name; ``kind``, such as ``"method"``, is what the message calls it.

    Raises
    ------
    InputError
        If there is none; the message names the nearest. As :func:`knows` besides.
    """
    entry = _entry_of(folder, constant, name)
    if entry is None:
        raise unknown_name(kind, name, entries(folder, constant))
    return entry


def name_of_class(folder: str, constant: str, class_name: str) -> str | None:
    """Return the name that the file of a class says, or None where no file of that folder offers such a class.

    Raises
    ------
    InputError
        As :func:`knows`.

    Examples
    --------
    >>> name_of_class("methods", "METHOD", "ZeroShot")
    'zero-shot'
    """
    offered = _entries_of(_files_with(folder, constant, f"class {class_name}"), folder, constant)
    return next((entry.name for entry in offered.values() if entry.class_name == class_name), None)


@functools.cache
def _entry_of(folder: str, constant: str, name: str) -> Entry | None:
    """Return the entry of that name, or None; see :func:`knows`."""
    return _entries_of(_files_with(folder, constant, f'"{name}"', f"'{name}'"), folder, constant).get(name)


def _files_with(folder: str, constant: str, *texts: str) -> list[Path]:
    """Return the files of a folder that have the constant and one of several texts in them, which need no parsing."""
    wanted, paths = [text.encode(errors="replace") for text in texts], []
    for path in sorted(_folder(folder).glob("*.py")):
        content = path.read_bytes()
        if constant.encode() in content and any(text in content for text in wanted):
            paths.append(path)
    return paths


def _entries_of(paths: Iterable[Path], folder: str, constant: str) -> dict[str, Entry]:
    """Read the entries of some files of a folder, by name; see :func:`entries`."""
    by_name: dict[str, Entry] = {}
    for path in paths:
        entry = read_entry(path, f"cafe.{folder}.{path.stem}", constant)
        if entry is None:
            continue
        if entry.name in by_name:
            other = by_name[entry.name].module.rpartition(".")[2]
            raise InputError(
                f"{path} and {other}.py beside it both say {constant} = {entry.name!r}; rename one of them"
            )
        by_name[entry.name] = entry
    return dict(sorted(by_name.items()))


def read_entry(path: Path, module: str, constant: str) -> Entry | None:
    """Read what one file offers; None if it does not set the constant.

    Parameters
    ----------
    path : Path
        The file.
    module : str
        Its full name when it is imported.
    constant : str
        As for :func:`entries`.

    Raises
    ------
    InputError
        As :func:`entries`.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise InputError(f"{path}{line} is not Python: {reason}; correct or remove the file") from error
    name = _constant(path, tree, constant)
    if name is None:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            docstring = ast.get_docstring(node) or ""
            return Entry(name, module, node.name, docstring.partition("\n")[0])
    raise InputError(f"{path} sets {constant} = {name!r} but defines no public class; write one below it")


def _constant(path: Path, tree: ast.Module, constant: str) -> str | None:
    """Return the text that a module sets the constant to; None if it does not."""
    for node in tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if not any(isinstance(target, ast.Name) and target.id == constant for target in targets):
            continue
        value = getattr(node, "value", None)
        if not isinstance(value, ast.Constant) or not isinstance(value.value, str) or not value.value:
            raise InputError(
                f"{path}, line {node.lineno}: {constant} must be a text that can be read without running the file, "
                f'such as {constant} = "my-name"'
            )
        return value.value
    return None


def _folder(folder: str) -> Path:
    """Return the path of a package below ``cafe``, given as in :func:`entries`."""
    parts = folder.split(".")
    path = _CAFE.joinpath(*parts)
    # cafe/cache and cafe/cli are links, which some checkouts (Windows) lack; the folders are beside cafe then.
    return path if path.is_dir() else _CAFE.parent.joinpath(*parts)
