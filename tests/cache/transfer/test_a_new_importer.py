"""The recipe of CONTRIBUTING.md holds: its one file, put into a copy of the program, passes everything unedited."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """A copy of the program and of the tests that importers meet, with the recipe's file in it."""
    copy = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("cafe", "cache", "cli", "docs", "tests/cache/transfer"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignored)
    for file in ("setup.cfg", "ruff.toml", "tests/conftest.py", "tests/cache/conftest.py"):
        shutil.copy(ROOT / file, copy / file)
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.split("## A new importer: one file in `cache/transfer/importers/`\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    (copy / "cache" / "transfer" / "importers" / "my_format.py").write_text(code, encoding="utf-8")
    return copy


def run(newcomer, *command):
    environment = {**os.environ, "PYTHONPATH": str(newcomer)}
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=newcomer, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_everything_is_tried_on_a_new_importer(newcomer):
    tests = "tests/cache/transfer/test_importers.py"
    printed = run(newcomer, "pytest", "-n", "0", "-p", "no:cacheprovider", "-v", "-k", "my-format", tests)
    contract = (ROOT / tests).read_text(encoding="utf-8")
    for name in re.findall(r"^@every_layout\n(?:@.*\n)*def (\w+)", contract, flags=re.MULTILINE):
        assert re.search(rf"::{name}\[.*my-format.*\] PASSED", printed), name


def test_the_recipe_is_clean_code(newcomer):
    run(newcomer, "ruff", "check", "cache/transfer/importers")
    run(newcomer, "ruff", "format", "--check", "cache/transfer/importers")
