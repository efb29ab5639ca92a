"""Newcomers: the files of CONTRIBUTING.md's recipes, and a copy of the program to put them into."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Newcomer:
    """One file of a recipe: its folder below the root, the constant with its name, that name, its class and code."""

    folder: str
    constant: str
    name: str
    class_name: str
    code: str

    @property
    def path(self) -> str:
        return f"{self.folder}{self.name.replace('-', '_')}.py"


def read_newcomers(page: str) -> list[Newcomer]:
    """Read each Python block that stands below a heading `... one file in `FOLDER``."""
    newcomers = []
    for section in re.split(r"^#+ ", page, flags=re.MULTILINE):
        heading, _, text = section.partition("\n")
        blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        if not blocks:
            continue
        (folder,) = re.findall(r"one file in `(.*/)`", heading)
        for code in blocks:
            ((constant, name),) = re.findall(r'^([A-Z]+) = "(.*)"$', code, flags=re.MULTILINE)
            class_name = re.search(r"^class ([A-Z]\w*)", code, flags=re.MULTILINE)[1]
            newcomers.append(Newcomer(folder, constant, name, class_name, code))
    return newcomers


def copy_program(folder: Path, newcomers: list[Newcomer]) -> None:
    """Copy what a checkout holds, but for results and figures, and add the newcomers' files."""
    ignored = shutil.ignore_patterns("__pycache__", ".*", "results", "figures", "caches", "runs")
    for name in ("cafe", "cache", "cli", "docs", "tests"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "ruff.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    for newcomer in newcomers:
        assert not (folder / newcomer.path).exists(), f"{newcomer.path} is there already"
        (folder / newcomer.path).write_text(newcomer.code, encoding="utf-8")


def run_module(folder: Path, *command: str) -> str:
    """Run a Python module in the copy, and return what it printed; its ending badly is a failure of the test."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
