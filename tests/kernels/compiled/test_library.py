"""The library of compiled passes: built by an installation, refused where it is missing, foreign or out of date."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cafe.kernels.compiled.library as library
from cafe import CLIPAdapter
from cafe.errors import InputError

ROOT = Path(__file__).parents[3]
needs_library = pytest.mark.skipif(bool(library.why_not_compiled()), reason=library.why_not_compiled())


@pytest.fixture
def unloaded():
    """Let the library be looked for again, in the test and after it."""
    library._loaded.cache_clear()
    yield
    library._loaded.cache_clear()


def test_an_installation_with_a_compiler_has_the_library():
    """Otherwise every test of it would skip, and nobody would know."""
    if sys.platform != "linux" or not (shutil.which("gcc") or shutil.which("cc")):
        pytest.skip("no C compiler that is known to build it")
    assert library.why_not_compiled() == ""


@pytest.mark.skipif(sys.platform != "linux", reason="it is built on Linux alone")
def test_what_is_missing_foreign_or_out_of_date_is_said(unloaded, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "passes.so")
    assert "needs a C compiler" in library.why_not_compiled()
    with pytest.raises(InputError, match=r"'cpu-compiled' cannot run: .*pip install -e.*or use kernel='cpu'"):
        CLIPAdapter([[1.0, 0.0], [0.0, 1.0]], kernel="cpu-compiled", epochs=1).fit([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    model = CLIPAdapter([[1.0, 0.0], [0.0, 1.0]], epochs=1, device="cpu").fit([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    assert model.kernel_ == "cpu-direct"
    library._loaded.cache_clear()
    (tmp_path / "passes.so").write_bytes(b"something else")
    assert "cannot be loaded here" in library.why_not_compiled()


def test_other_systems_are_told_that_it_is_not_built_for_them(unloaded, monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert library.why_not_compiled() == "its passes are built on Linux alone, and this is darwin"


@needs_library
def test_a_library_of_other_sources_is_not_used(unloaded, monkeypatch):
    monkeypatch.setattr(library, "check_sum", lambda: 1)
    assert "built from other sources" in library.why_not_compiled()


@needs_library
def test_threads_are_pytorchs_own():
    """A second OpenMP would have a second set of threads, and both sets would wait for each other's processors."""
    if not Path("/proc/self/maps").is_file():
        pytest.skip("the system does not say what is loaded")
    script = (
        "import torch, cafe.kernels.compiled.library as library\n"
        "torch.ones(400, 400) @ torch.ones(400, 400)\n"
        "before = {line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line or 'libomp' in line}\n"
        "assert library.why_not_compiled() == ''\n"
        "after = {line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line or 'libomp' in line}\n"
        "assert before == after, after - before\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_an_installation_goes_on_without_a_compiler(tmp_path, compiler):
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path), "--build-temp"]
    environment = {**os.environ, "CC": compiler, "LDSHARED": compiler}
    if not (ROOT / "setup.py").is_file() or subprocess.run([sys.executable, "-c", "import setuptools"]).returncode:
        pytest.skip("not a checkout, or setuptools is not here")
    run = subprocess.run(
        [*command, str(tmp_path / "objects")], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert not list(tmp_path.rglob("*.so"))
