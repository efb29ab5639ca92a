"""Every extra that a page or a message tells people to install is one that setup.cfg has."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("cafe", "cache", "cli", "docs")


def declared():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return {name: text.split("\n")[1:] for name, text in config["options.extras_require"].items()}


def files(*endings):
    yield ROOT / "README.md"
    for folder in FOLDERS:
        yield from (path for path in (ROOT / folder).rglob("*") if path.suffix in endings)


def test_extras_in_texts_exist():
    named = {
        (match, path.name)
        for path in files(".py", ".md")
        for match in re.findall(r"cafe-clip\[([a-z-]+)\]", path.read_text(encoding="utf-8"))
    }
    assert {extra for extra, _ in named} >= {"serve", "onnx", "ray", "open-clip", "heic"}
    assert {(extra, name) for extra, name in named if extra not in declared()} == set()


def test_extras_in_errors_exist():
    named = set()
    for path in files(".py"):
        if path.suffix != ".py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and hasattr(node.targets[0], "id")
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingDependencyError":
                extra = node.args[1]
                named.add(extra.value if isinstance(extra, ast.Constant) else constants[extra.id])
    assert named >= {"serve", "onnx"}
    assert named - set(declared()) == set()


def test_the_test_extra_brings_every_other():
    """All but decoding on a GPU, which no test machine needs to have."""
    extras = declared()
    missing = {extra: [line for line in lines if line not in extras["test"]] for extra, lines in extras.items()}
    assert {extra for extra, lines in missing.items() if lines} <= {"nvjpeg"}, missing
