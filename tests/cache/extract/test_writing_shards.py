"""Shards are written while the next ones are encoded, and an error of the disk ends the extraction all the same."""

from __future__ import annotations

import errno
import threading

import pytest

from cafe.cache.extract.run import extract
from cafe.cache.extract.unfinished import UnfinishedCache, partial_folder
from cafe.cache.format.reader import read_features
from cafe.errors import CafeError

COUNTS = {"train": 24}  # of batches of 1: three shards of 8


@pytest.fixture
def case(fakes, tmp_path):
    return fakes[0](COUNTS), fakes[1](batch_size=1), tmp_path / "a.h5"


def test_images_are_encoded_while_the_disk_writes_the_first_shard(case, monkeypatch):
    dataset, encoder, path = case
    second_shard_begun = threading.Event()
    write = UnfinishedCache.write

    def waiting(self, features):
        assert features.shard.number or second_shard_begun.wait(timeout=60), "encoding waited for the disk"
        write(self, features)

    def tell(state):
        if state.stage == "images" and state.done > 8:
            second_shard_begun.set()

    monkeypatch.setattr(UnfinishedCache, "write", waiting)
    summary = extract(dataset, encoder, path, progress=tell)
    assert summary.encoded == 24 and len(read_features(path).splits["train"]) == 24


def test_a_shard_that_cannot_be_written_ends_the_extraction_and_the_others_are_kept(case, monkeypatch):
    dataset, encoder, path = case
    write = UnfinishedCache.write

    def failing(self, features):
        if features.shard.number == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, features)

    with monkeypatch.context() as patch, pytest.raises(CafeError, match="no space left on device; .* are kept"):
        patch.setattr(UnfinishedCache, "write", failing)
        extract(dataset, encoder, path)
    assert "shard-000000.arrays" in {file.name for file in partial_folder(path).iterdir()}
    assert not list(partial_folder(path).glob("*.claim"))
    assert extract(dataset, encoder, path).kept >= 8
