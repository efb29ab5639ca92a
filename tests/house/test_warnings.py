"""Every warning that cafe gives is a CafeWarning: the command line shows those, and hides the ones of libraries."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("cafe", "cache", "cli") for path in sorted((ROOT / folder).rglob("*.py"))]


def categories(path: Path) -> list[str | None]:
    """Return the name of the category of each call of ``warnings.warn`` in a file; None where it names none."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    warn = [call for call in calls if ast.unparse(call.func) == "warnings.warn"]
    return [ast.unparse(call.args[1]) if len(call.args) > 1 else None for call in warn]


def test_every_warning_is_one_of_cafe():
    from cafe.errors import CafeWarning

    raised = {path: names for path in FILES if not path.is_symlink() and (names := categories(path))}
    assert len(raised) > 3, "the search finds the warnings that there are"
    for path, names in raised.items():
        relative = path.relative_to(ROOT).with_suffix("")
        module = ".".join(relative.parts if relative.parts[0] == "cafe" else ("cafe", *relative.parts))
        for name in names:
            category = getattr(importlib.import_module(module), name or "", None)
            assert isinstance(category, type) and issubclass(category, CafeWarning), f"{relative}: {name}"


def test_a_warning_without_a_category_is_seen(tmp_path: Path):
    planted = tmp_path / "planted.py"
    planted.write_text("import warnings\nwarnings.warn('x')\nwarnings.warn('y', UserWarning, stacklevel=2)\n")
    assert categories(planted) == [None, "UserWarning"]


@pytest.mark.parametrize("debug", [False, True])
def test_the_screen_shows_warnings_of_cafe_alone(debug, capsys, monkeypatch):
    import logging
    import warnings

    from cafe.cli.screen import Screen
    from cafe.errors import CafeWarning

    monkeypatch.setenv("CAFE_DEBUG", "1" if debug else "0")
    with Screen():
        warnings.warn("an image stands twice", CafeWarning, stacklevel=1)
        warnings.warn("a library is about to change", UserWarning, stacklevel=1)
        logging.getLogger("some.library").warning("a slow path was taken")
    shown = capsys.readouterr().err
    assert "warning: an image stands twice" in shown
    assert ("a library is about to change" in shown) == debug
    assert debug or "a slow path was taken" not in shown
