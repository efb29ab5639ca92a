"""Every script of benchmarks/ runs in its smallest form, so that none is broken when it is wanted."""

import os
import runpy
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
LIBRARIES = {
    "harness",
    "real_features",
    "paper_data",
    "performance_table",
    "gpu_tables",
    "kernel_launches",
    "step_bytes",
    "tasks",
}  # imported by scripts only
SCRIPTS = sorted(
    path
    for path in BENCHMARKS.rglob("*.py")
    if path.stem not in LIBRARIES and path.parent.name not in ("outputs", "gpu_parts")  # parts of a script
)


def program():
    """What the loaded modules of cafe define, and the functions and classes that their names stand for."""
    names = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "cafe":
            names |= {(name, key): value for key, value in vars(module).items() if callable(value)}
    return names


def result_rows():
    return {path.name: path.stat().st_size for path in (BENCHMARKS / "results").iterdir()}


@pytest.fixture
def as_a_process_has_it(monkeypatch, tmp_path):
    """Paths, arguments and torch's threads as a script finds them, and put back when it is over."""
    import torch

    threads, modules = torch.get_num_threads(), set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), str(BENCHMARKS / "studies"), *sys.path])
    monkeypatch.setenv("CAFE_CACHE", str(tmp_path / "cache"))
    # The smallest form takes nothing from outside.
    monkeypatch.delenv("CAFE_REAL_DATA", raising=False)
    environment, before = dict(os.environ), program()
    with warnings.catch_warnings():
        yield
    after = program()
    changed = [key for key, value in before.items() if after.get(key, value) is not value]
    assert not changed, f"a script leaves the program as it was: {changed}"
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environment)
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(BENCHMARKS) in sys.modules[name].__file__:
            del sys.modules[name]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(BENCHMARKS)))
def test_a_script_runs(script, as_a_process_has_it, monkeypatch, capfd):
    before = result_rows()
    monkeypatch.setattr(sys, "argv", [str(script), "--smoke"])
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        assert end.code in (None, 0), end.code
    assert capfd.readouterr().out.strip(), "a script says what it measured"
    assert result_rows() == before, "the smallest form keeps no row"
