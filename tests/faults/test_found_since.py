"""Faults that the campaigns found, each by itself; docs/reliability.md lists all, with the tests of the others."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cafe.cache.extract.array_file import ArrayFile
from cafe.cache.extract.unfinished import _read_manifest
from cafe.cache.format.reader import read_features
from cafe.data.layouts.labelling import label_rows
from cafe.errors import CacheError, CafeError, InputError
from cafe.files import write_safetensors
from cafe.runs import load

DATA = Path(__file__).resolve().parents[1] / "data"


@contextmanager
def seconds(limit: int) -> Iterator[None]:
    """Fail what waits longer."""

    def late(*_: object) -> None:
        raise AssertionError(f"no end within {limit} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_an_old_cache_with_another_encoder_in_its_root_is_not_loaded(tmp_path: Path) -> None:
    """The text stands in HDF5's heap, without a checksum of its own; that of the whole covers it."""
    data = (DATA / "caches" / "format-1.h5").read_bytes()
    assert data.count(b"openai/clip-vit-base-patch32") == 1
    path = tmp_path / "a.h5"
    path.write_bytes(data.replace(b"openai/clip-vit-base-patch32", b"openai/clip-vit-base-patch16"))
    with pytest.raises(CacheError, match="a.h5 is damaged: its root attributes differ from the checksum of the whole"):
        read_features(path)


def test_an_old_run_that_lacks_an_attribute_is_told_when_it_is_loaded(tmp_path: Path) -> None:
    run = shutil.copytree(DATA / "runs" / "auto", tmp_path / "run")
    document = json.loads((run / "run.json").read_text())
    del document["fitted"]["weights_"]
    (run / "run.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="run.json cannot be read as a run of this method.*weights_"):
        load(run)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_a_pipe_in_an_unfinished_extraction_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with seconds(5), pytest.raises(CacheError, match="manifest.json cannot be read .*is a pipe"):
        _read_manifest(tmp_path)
    with seconds(5), pytest.raises(ValueError, match="is a pipe"):
        ArrayFile(tmp_path / "manifest.json")


def test_a_disk_that_refuses_arrays_is_a_sentence(tmp_path: Path) -> None:
    """safetensors has an exception of its own for it; the campaign full-disks has real limits."""
    with pytest.raises(CafeError, match="the arrays could not be written to .*gone") as caught:
        write_safetensors(tmp_path / "gone" / "a.safetensors", {"a": np.zeros(3, dtype=np.float32)})
    assert caught.value.exit_code == 1


def test_a_list_of_classes_without_a_class_is_a_sentence() -> None:
    with pytest.raises(InputError, match="shards has 0 class"):
        label_rows("shards", ["a", "b"], ["", ""], lambda: ["1", "2"], ())
