"""A writer that dies at any instant leaves the old files or the new ones, whole, and its leftovers are removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cafe.errors import InputError
from cafe.files import cache_dir, host_name, prepare_folder, remove_folder, replacing, replacing_together

# Writes "new" with the function named, and kills itself at a call, counted from 1, of another.
WRITER = """
import os, signal, sys
from pathlib import Path
import cafe.files as files

folder, function, victim, number = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
owner = files if victim == "sync" else Path
real, calls = getattr(owner, victim), 0


def counted(*arguments, **options):
    global calls
    calls += 1
    if calls == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)


setattr(owner, victim, counted)
if function == "replacing":
    with files.replacing(folder / "a") as path:
        path.write_text("new")
else:
    with files.replacing_together(folder, ("mark", "a", "b"), mark="mark") as paths:
        for path in paths.values():
            path.write_text("new")
"""
posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")


def kill_writer(folder, function, victim, number):
    """Let the writer die at that call; return what the folder then shows, by name."""
    done = subprocess.run([sys.executable, "-c", WRITER, str(folder), function, victim, str(number)], check=False)
    assert done.returncode == -signal.SIGKILL
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}


@posix
@pytest.mark.parametrize(
    ("victim", "number", "left"),
    [("write_text", 1, "old"), ("sync", 1, "old"), ("replace", 1, "old"), ("sync", 2, "new")],
)
def test_a_killed_writer_of_one_file(tmp_path, victim, number, left):
    (tmp_path / "a").write_text("old")
    assert kill_writer(tmp_path, "replacing", victim, number) == {"a": left}
    with replacing(tmp_path / "a") as path:
        path.write_text("again")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "again"


OLD, NEW = (dict.fromkeys(("mark", "a", "b"), age) for age in ("old", "new"))
WITHOUT_MARK = {"a": "old", "b": "old"}


@posix
@pytest.mark.parametrize(
    ("victim", "number", "left"),
    [
        ("write_text", 1, OLD),
        ("write_text", 3, OLD),
        ("sync", 1, OLD),  # of the files, three
        ("unlink", 1, OLD),
        ("sync", 4, WITHOUT_MARK),  # of the folder, after each step
        ("replace", 1, WITHOUT_MARK),
        ("replace", 2, {"a": "new", "b": "old"}),
        ("sync", 5, {"a": "new", "b": "new"}),
        ("replace", 3, {"a": "new", "b": "new"}),
        ("sync", 6, NEW),
    ],
)
def test_a_killed_writer_of_files_that_belong_together(tmp_path, victim, number, left):
    """Whatever the instant, a folder with its mark has files of one writing, all of them."""
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    assert kill_writer(tmp_path, "replacing_together", victim, number) == left
    if "mark" not in left:  # what was being made is still told by a name
        assert any(path.name.startswith(".mark.") for path in tmp_path.iterdir())
    with replacing_together(tmp_path, OLD, mark="mark") as paths:
        for path in paths.values():
            path.write_text("again")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(OLD, "again")


@posix
def test_two_kills_in_a_row_still_tell_what_the_folder_is(tmp_path):
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    kill_writer(tmp_path, "replacing_together", "replace", 2)
    kill_writer(tmp_path, "replacing_together", "write_text", 1)
    assert any(path.name.startswith(".mark.") for path in tmp_path.iterdir())


def test_leftovers_of_the_living_and_of_other_machines_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = tmp_path / f".a.h5.{host_name()}-{ended.pid}-0123abcd.tmp"
    living = tmp_path / f".a.h5.{host_name()}-{os.getppid()}-0123abcd.tmp"
    elsewhere = tmp_path / f".a.h5.ffffffff-{ended.pid}-0123abcd.tmp"
    mine = tmp_path / ".other.tmp"
    for path in (dead, living, elsewhere, mine):
        path.write_bytes(b"")
    with replacing(tmp_path / "a.h5") as temporary:
        temporary.write_bytes(b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"a.h5", living.name, elsewhere.name, mine.name}


def test_failure_within_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_within_keeps_the_old_files(tmp_path):
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(RuntimeError), replacing_together(tmp_path, OLD, mark="mark") as paths:
        paths["mark"].write_text("half")
        raise RuntimeError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == OLD


def test_a_file_that_was_not_written_keeps_the_old_ones(tmp_path):
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(FileNotFoundError), replacing_together(tmp_path, OLD, mark="mark") as paths:
        paths["a"].write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == OLD


WRITERS = [
    lambda folder: replacing(folder / "a"),
    lambda folder: replacing_together(folder, ("a", "b"), mark="a"),
]


@pytest.mark.parametrize("writer", WRITERS)
def test_folder_that_cannot_be_made(tmp_path, writer):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be made"), writer(tmp_path / "file"):
        pass


@pytest.mark.parametrize("writer", WRITERS)
def test_folder_that_cannot_be_written_to(tmp_path, monkeypatch, writer):
    monkeypatch.setattr("os.access", lambda *_: False)  # the superuser of a test machine may write everywhere
    with pytest.raises(InputError, match="cannot be written to; name another"), writer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", WRITERS)
def test_folder_is_made_and_files_have_the_rights_of_any_new_file(tmp_path, writer):
    with writer(tmp_path / "new" / "folder") as given:
        for path in given.values() if isinstance(given, dict) else [given]:
            path.write_bytes(b"x")
    (tmp_path / "other").write_bytes(b"x")
    for path in (tmp_path / "new" / "folder").iterdir():
        assert path.read_bytes() == b"x"
        assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_removed_folder_is_gone_and_a_missing_one_is_no_error(tmp_path):
    folder = tmp_path / "doomed"
    prepare_folder(folder / "below")
    for _ in range(2):
        remove_folder(folder)
        assert list(tmp_path.iterdir()) == []


def test_cache_dir_rule():
    full = {"CAFE_CACHE": "/one", "XDG_CACHE_HOME": "/two"}
    assert cache_dir("given", full) == Path("given")
    assert cache_dir(None, full) == Path("/one")
    assert cache_dir(None, {"XDG_CACHE_HOME": "/two"}) == Path("/two/cafe")
    assert cache_dir(None, {"CAFE_CACHE": "", "XDG_CACHE_HOME": ""}) == Path.home() / ".cache" / "cafe"
    assert cache_dir("~/caches", full) == Path.home() / "caches"
