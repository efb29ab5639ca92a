"""Folders are walked without imports; a file that cannot be used is told in a sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from cafe import registry
from cafe.errors import CafeError, InputError
from cafe.registry import Entry, entries, find, knows, name_of_class, read_entry

GOOD = 'METHOD = "mine"\n\n\nclass _Helper: ...\n\n\nclass Mine:\n    """What it is.\n\n    More.\n    """\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``cafe/methods``."""
    monkeypatch.setattr(registry, "_CAFE", tmp_path / "cafe")
    monkeypatch.setattr(registry, "entries", entries.__wrapped__)  # what was found before is not asked
    path = tmp_path / "cafe" / "methods"
    path.mkdir(parents=True)
    return path


def walk() -> dict[str, Entry]:
    return registry.entries("methods", "METHOD")


def test_a_file_is_found_by_the_name_it_says(folder: Path) -> None:
    (folder / "a.py").write_text(GOOD)
    (folder / "helper.py").write_text("class Other: ...\n")
    (folder / "deeper").mkdir()
    (folder / "deeper" / "b.py").write_text(GOOD)
    assert walk() == {"mine": Entry("mine", "cafe.methods.a", "Mine", "What it is.")}


@pytest.mark.parametrize("line", ['METHOD: str = "mine"', 'METHOD: Final = "mine"', 'X = METHOD = "mine"'])
def test_the_name_may_be_annotated(folder: Path, line: str) -> None:
    (folder / "a.py").write_text(GOOD.replace('METHOD = "mine"', line))
    assert list(walk()) == ["mine"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('METHOD = "mine"\nclass Mine(:\n', r"a\.py, line 2 is not Python: .*; correct or remove the file"),
        ('METHOD = "mine"\0', r"a\.py.* is not Python"),
        (b'METHOD = "\xff"\n', r"a\.py.* is not Python"),
        ('METHOD = "mine"\n', r"a\.py sets METHOD = 'mine' but defines no public class"),
        ('METHOD = "mine"\nclass _Mine: ...\n', "defines no public class"),
        ("METHOD = 3\nclass Mine: ...\n", r"a\.py, line 1: METHOD must be a text"),
        ('METHOD = ""\nclass Mine: ...\n', "METHOD must be a text"),
        ('METHOD = "my" + "name"\nclass Mine: ...\n', "METHOD must be a text that can be read without running"),
        ("METHOD: str\nclass Mine: ...\n", "METHOD must be a text"),
    ],
)
def test_a_broken_file_is_named(folder: Path, content: str | bytes, words: str) -> None:
    (folder / "a.py").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words) as caught:
        walk()
    assert "\n" not in str(caught.value)


def test_one_name_belongs_to_one_file(folder: Path) -> None:
    for name in ("a.py", "b.py"):
        (folder / name).write_text(GOOD)
    with pytest.raises(InputError, match=r"b\.py and a\.py beside it both say METHOD = 'mine'"):
        walk()


def test_folders_above_are_found_without_the_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CAFE", tmp_path / "cafe")
    (tmp_path / "cafe").mkdir()
    (tmp_path / "cafe" / "cache").write_text("../cache")  # what git leaves where there are no links
    (tmp_path / "cache" / "importers").mkdir(parents=True)
    (tmp_path / "cache" / "importers" / "a.py").write_text(GOOD)
    assert entries.__wrapped__("cache.importers", "METHOD")["mine"].module == "cafe.cache.importers.a"


def test_a_file_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "does_not_import.py"
    path.write_text(GOOD + "import there_is_no_such_package\n")
    entry = read_entry(path, "does_not_import", "METHOD")
    assert entry is not None
    with pytest.raises(CafeError, match="'mine' cannot be used: importing does_not_import failed with ModuleNotFound"):
        entry.load()


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown method 'zeroshot'; did you mean 'zero-shot'"):
        find("methods", "METHOD", "method", "zeroshot")


@pytest.mark.parametrize(
    ("folder", "constant", "name"),
    [
        ("methods", "METHOD", "clip-adapter"),
        ("data", "DATASET", "caltech101"),
        ("data", "SOURCE", "image-folder"),
        ("encoders", "ENCODER", "transformers"),
        ("compare.suites", "SUITE", "baselines"),
        ("cache.transfer.importers", "IMPORTER", "arrays"),
    ],
)
def test_names_are_known_without_imports(folder: str, constant: str, name: str) -> None:
    code = (
        f"from cafe.registry import entries; import sys; print({name!r} in entries({folder!r}, {constant!r}), "
        "[m for m in sys.modules if m[:5] == 'cafe.' and m[5:] not in ('registry', 'errors', 'version')], "
        "[m for m in ('numpy', 'torch', 'PIL', 'h5py') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split(maxsplit=1) == ["True", "[] []\n"]


def test_the_command_line_tells_of_a_broken_file(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from cafe.cli.app import call

    (folder / "a.py").write_text("def broken(\n")
    entries.cache_clear()
    try:
        assert call(["methods"]) == 2
    finally:
        entries.cache_clear()
    said = capfd.readouterr()
    assert "a.py, line 1 is not Python" in said.err
    assert "Traceback" not in said.err


def test_a_name_is_found_without_reading_files_that_do_not_have_it(folder: Path) -> None:
    (folder / "a.py").write_text(GOOD)
    (folder / "b.py").write_text('METHOD = \'other\'\n\n\nclass Other:\n    """Another than mine."""\n')
    (folder / "broken.py").write_text('METHOD = "broken"\nclass Broken(:\n')
    registry._entry_of.cache_clear()
    try:
        assert find("methods", "METHOD", "method", "mine").module == "cafe.methods.a"
        assert knows("methods", "METHOD", "other")
        assert not knows("methods", "METHOD", "another")
        assert not knows("methods", "METHOD", "\udcff")  # of a path that is not UTF-8
        assert name_of_class("methods", "METHOD", "Other") == "other"
        assert name_of_class("methods", "METHOD", "_Helper") is None
        with pytest.raises(InputError, match=r"broken\.py, line 2 is not Python"):
            find("methods", "METHOD", "method", "broken")
    finally:
        registry._entry_of.cache_clear()


def test_every_name_that_is_listed_is_found_by_itself() -> None:
    for place in (("methods", "METHOD"), ("data", "DATASET"), ("encoders", "ENCODER"), ("compare.suites", "SUITE")):
        for name, entry in entries(*place).items():
            assert find(*place, "thing", name) == entry
            assert name_of_class(*place, entry.class_name) == name
