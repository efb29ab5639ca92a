"""A writer of a cache that dies at any instant leaves the old file or the new one, whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from cafe.cache.format.reader import read_features
from cafe.cache.format.verify import verify_cache
from cafe.cache.format.writer import write_cache

# Writes a cache with logit_scale 2 over another, and kills itself at the instant named.
WRITER = """
import os, signal, sys
import h5py, numpy as np
import cafe.files as atomic
from cafe.cache.format.provenance import Provenance
from cafe.cache.format.writer import write_cache
from cafe.features import Features, Split

path, instant = sys.argv[1:]
calls = 0


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(number, real):
    def call(*args, **options):
        global calls
        calls += 1
        return die() if calls == number else real(*args, **options)

    return call


if instant.startswith("array"):
    h5py.File.create_dataset = die_at(int(instant.split()[1]), h5py.File.create_dataset)
elif instant == "before sync":
    atomic.sync = die
elif instant == "before rename":
    atomic.Path.replace = die
elif instant == "after rename":
    atomic.sync = die_at(2, atomic.sync)

split = Split(np.ones((300, 64), np.float32), np.zeros(300, np.int64), np.arange(300).astype(str))
write_cache(path, Features({"test": split}, ("a",), logit_scale=2.0), Provenance("d", "e", {}))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
@pytest.mark.parametrize("instant", ["array 1", "array 5", "before sync", "before rename", "after rename"])
def test_killed_writer(make, tmp_path, instant):
    path = write_cache(tmp_path / "a.h5", make.features(), make.provenance())  # logit_scale 31.5
    done = subprocess.run([sys.executable, "-c", WRITER, str(path), instant], check=False)
    assert done.returncode == -signal.SIGKILL
    assert verify_cache(path).ok
    assert read_features(path).logit_scale == (2.0 if instant == "after rename" else 31.5)
    leftovers = [entry for entry in tmp_path.iterdir() if entry != path]
    assert len(leftovers) == (0 if instant == "after rename" else 1)
    write_cache(path, make.features(), make.provenance())
    assert list(tmp_path.iterdir()) == [path]
