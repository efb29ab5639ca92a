"""A disk that fails while a cache is written is one sentence: no crash of the HDF5 library, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX's")

# Writes a cache of 400 KB where files may have 200 KB; the crash, when it came, came at the end of the process.
WRITER = """
import os, resource, sys
import numpy as np
from cafe.cache.format.provenance import Provenance
from cafe.cache.format.writer import write_cache
from cafe.errors import CafeError
from cafe.features import Features, Split

path, reserves = sys.argv[1:]
if reserves == "no":
    del os.posix_fallocate  # as on systems that have none: the error comes from within HDF5 then
split = Split(np.ones((1500, 128), np.float32), np.zeros(1500, np.int64), np.arange(1500).astype(str))
features = Features({"test": split}, ("a",))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    write_cache(path, features, Provenance("d", "e", {}))
except CafeError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write_cache(path + "2", features, Provenance("d", "e", {}))
"""


@pytest.mark.parametrize("reserves", ["yes", "no"])
def test_a_limit_of_file_sizes(tmp_path, reserves):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "a.h5"), reserves]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "could not be written" in done.stdout and "file too large" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["a.h52"]
