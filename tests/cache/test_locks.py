"""Claims: one holder at a time, in threads, processes and machines; the dead hold nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cafe.cache import locks
from cafe.cache.locks import try_claim, wait_for_claim
from cafe.errors import CafeError

HOLDER = """
import sys, time
from pathlib import Path
from cafe.cache.locks import try_claim
claim = try_claim(Path(sys.argv[1]))
print("held" if claim else "busy", flush=True)
time.sleep(60)
"""


def hold(path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / "a.claim"
    with try_claim(path):
        assert path.exists()
        assert try_claim(path) is None
    assert not path.exists()
    with try_claim(path) as claim:
        assert claim is not None


def test_folder_that_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError):
        try_claim(tmp_path / "gone" / "a.claim")


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_process_holds_nothing(tmp_path):
    path = tmp_path / "a.claim"
    process, said = hold(path)
    try:
        assert said == "held"
        assert try_claim(path) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert path.exists()
        with wait_for_claim(path):
            pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_another_machine_holds_it_while_it_is_stamped(tmp_path):
    path = tmp_path / "a.claim"
    path.write_text("ffffffff 1 00000000\n")
    assert try_claim(path) is None
    assert path.read_text() == "ffffffff 1 00000000\n"
    long_ago = time.time() - locks.LEASE - 5
    os.utime(path, (long_ago, long_ago))
    with try_claim(path) as claim:
        assert claim is not None
        assert not path.read_text().startswith("ffffffff")


def test_a_holder_stamps_its_claim(tmp_path):
    path = tmp_path / "a.claim"
    with try_claim(path, stamp_interval=0.05):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < 100 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 100


def test_many_threads_never_hold_it_together(tmp_path):
    path, inside, most = tmp_path / "a.claim", [], []

    def run():
        for _ in range(5):
            with wait_for_claim(path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 30


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
@pytest.mark.parametrize("kind", ["link", "hard link", "dangling link", "folder", "pipe"])
def test_a_link_of_that_name_is_refused(tmp_path, kind):
    """Whoever put it there would have another file overwritten."""
    victim, path = tmp_path / "victim", tmp_path / ".a.lock"
    victim.write_text("precious")
    {
        "link": lambda: path.symlink_to(victim),
        "hard link": lambda: path.hardlink_to(victim),
        "dangling link": lambda: path.symlink_to(tmp_path / "new"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }[kind]()
    with pytest.raises(CafeError, match="is a link, or no file"):
        try_claim(path)
    assert victim.read_text() == "precious" and not (tmp_path / "new").exists()
