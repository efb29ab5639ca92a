"""Every exported name resolves, in Python and for type checkers, and both find the same thing."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cafe
import cafe.cache
from cafe.registry import entries

ROOT = Path(__file__).parents[2]
PACKAGES = [cafe, cafe.cache]
METHODS = {entry.class_name: entry.module for entry in entries("methods", "METHOD").values()}
TABLES = {"cafe": {**METHODS, **cafe._EXPORTS}, "cafe.cache": cafe.cache._EXPORTS}
ids = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)


def typed_names(package):
    """What the TYPE_CHECKING block imports: by name, the module that it comes from."""
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    named = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom), ast.unparse(node)
        for alias in node.names:
            assert alias.asname == alias.name, f"`as {alias.name}` marks a name as exported: {ast.unparse(node)}"
            named[alias.name] = node.module
    return named


@ids
def test_every_name_resolves(package):
    names = dir(package)
    assert set(TABLES[package.__name__]) <= set(names)
    for name in names:
        assert getattr(package, name) is not None or name == "__file__", name


@ids
def test_a_name_is_what_its_module_has(package):
    for name, module in TABLES[package.__name__].items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name), name


def test_a_name_is_its_thing_whatever_was_imported_before():
    """A folder takes the name of a function in its package, once a module of it is imported: cafe.cache.extract."""
    table = cafe.cache._EXPORTS
    lines = [f"import {module}" for module in sorted(set(table.values()))]
    for name, module in table.items():
        lines += [f"from cafe.cache import {name}", f"assert {name} is sys.modules[{module!r}].{name}, {name!r}"]
    subprocess.run([sys.executable, "-c", "\n".join(["import sys", *lines])], check=True)


@ids
def test_the_table_and_the_type_checking_block_agree(package):
    table, typed = TABLES[package.__name__], typed_names(package)
    # A new method is one file and no other edit, so a method may be missing from the block, and nothing else may.
    newcomers = set(METHODS) - set(typed)
    assert typed == {name: module for name, module in table.items() if name not in newcomers}


@ids
def test_a_name_that_is_not_there_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'no_such_name'"):
        package.no_such_name  # noqa: B018


def test_mypy_sees_the_types_of_exported_names(tmp_path):
    """Of users' code; without the libraries' types this takes two seconds instead of thirty."""
    pytest.importorskip("mypy")
    names = [f"{package.__name__}.{name}" for package in PACKAGES for name in typed_names(package)]
    user = tmp_path / "user.py"
    lines = ["import cafe", "import cafe.cache", *(f"reveal_type({name})" for name in [*names, "cafe.no_such_name"])]
    user.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file=", "--no-site-packages", "--follow-imports=silent"]
    run = subprocess.run(
        [*command, "--ignore-missing-imports", f"--cache-dir={tmp_path / 'cache'}", str(user)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    revealed = {
        int(line): kind for line, kind in re.findall(r"user\.py:(\d+): note: Revealed type is \"(.*)\"", run.stdout)
    }
    assert len(revealed) == len(names) + 1, run.stdout + run.stderr
    assert revealed.pop(len(lines)) == "Any"  # what a name looks like that mypy does not see
    for line, kind in revealed.items():
        assert kind not in ("Any", "builtins.object"), lines[line - 1]
