"""Several processes with RANK and WORLD_SIZE make one cache; one of them is killed and begun again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from cafe.cache.extract.schedule import share

ROOT = Path(__file__).parents[3]
WORDS = ["extract", "--dataset", "digits", "--splits", "train,test", "--batch-size", "2", "--workers", "0", "--json"]
WORDS += ["--views", "2", "--shots", "8", "--seeds", "1", "--device", "cpu"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}, (2, 3)),
        (
            {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10",
             "SLURM_ARRAY_TASK_STEP": "2"},
            (2, 3),
        ),
        ({"RANK": "x", "WORLD_SIZE": "4"}, (0, 1)),
    ],
)  # fmt: skip
def test_the_share_of_a_launcher(environment, expected):
    assert share(environment) == expected


def begin(out, rank=None, size=3):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if rank is not None:
        environment |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    command = [sys.executable, "-m", "cafe.cli", *WORDS, "--out", str(out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out)


def content(path):
    with h5py.File(path) as file:
        return file.attrs["content_sha256"]


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_a_rank_is_killed_and_begun_again(tmp_path):
    whole = begin(tmp_path / "whole.h5")
    path = tmp_path / "a.h5"
    ranks = [begin(path, rank) for rank in range(3)]
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("a.h5.partial/shard-*.arrays")):
        assert time.monotonic() < deadline and not path.exists()
        time.sleep(0.002)
    ranks[1].send_signal(signal.SIGKILL)
    ranks[1].communicate()
    assert ranks[1].returncode == -signal.SIGKILL
    ranks[1] = begin(path, 1)  # as a launcher would
    answers = [ended(process) for process in ranks]
    images = sum(ended(whole)["splits"].values())
    assert content(path) == content(tmp_path / "whole.h5")
    assert all(sum(answer["splits"].values()) == images for answer in answers)
    # What the killed rank had finished is missing from the sum (all of it, where the others began after the signal was
    # on its way); at most a shard each (64 images) is encoded twice.
    assert sum(answer["encoded"] for answer in answers) <= images + 3 * 64
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.h5", "whole.h5"]
