"""A run folder is whole or says that it is not, however its writer ended, and keeps no leftovers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cafe.errors import InputError
from cafe.methods.tip_adapter import TipAdapter
from cafe.runs import load, save

TEXT = np.eye(2, 4, dtype=np.float32)

# Saves another run over the one that is there, and is killed at the rename of this number (counted from 1), or within
# the writing of the JSON (0).
WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from cafe.methods.tip_adapter import TipAdapter
from cafe.runs import save

def die():
    os.kill(os.getpid(), signal.SIGKILL)

renames, rename, write = 0, Path.replace, Path.write_text

def counted(path, target):
    global renames
    renames += 1
    if renames == int(sys.argv[2]):
        die()
    return rename(path, target)

def half(path, text, encoding):
    write(path, text[:20], encoding=encoding)
    die()

Path.replace = counted
if sys.argv[2] == "0":
    Path.write_text = half
model = TipAdapter(np.eye(2, 4, dtype=np.float32), alpha=2.0)
save(model.fit(-np.eye(2, 4, dtype=np.float32), [0, 1]), sys.argv[1])
"""


def saved_first(folder: Path) -> np.ndarray:
    model = TipAdapter(TEXT, alpha=1.0).fit(TEXT, [0, 1])
    save(model, folder)
    return model.logits(TEXT)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL needs POSIX")
@pytest.mark.parametrize("instant", [0, 1, 2])
def test_a_killed_writer_never_leaves_a_mixture(tmp_path: Path, instant: int) -> None:
    folder = tmp_path / "run"
    expected = saved_first(folder)
    ended = subprocess.run([sys.executable, "-c", WRITER, str(folder), str(instant)], check=False)
    assert ended.returncode == -9
    left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    assert left  # the kill came in time
    if instant == 0:
        np.testing.assert_array_equal(load(folder).logits(TEXT), expected)
    else:
        with pytest.raises(InputError, match="it has no run.json"):
            load(folder)
    np.testing.assert_array_equal(saved_first(folder), expected)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "run.json"]
    np.testing.assert_array_equal(load(folder).logits(TEXT), expected)


def test_a_failure_leaves_the_run_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = saved_first(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        save(TipAdapter(TEXT, alpha=3.0).fit(TEXT, [0, 1]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "run.json"]
    np.testing.assert_array_equal(load(tmp_path).logits(TEXT), expected)


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    from cafe.files import host_name

    living = tmp_path / f".run.json.{host_name()}-{os.getppid()}-0123abcd.tmp"
    elsewhere = tmp_path / ".run.json.0badcafe-1-0123abcd.tmp"
    for path in (living, elsewhere):
        path.write_bytes(b"")
    saved_first(tmp_path)
    assert living.exists() and elsewhere.exists()


def test_learned_ratios_come_back(tmp_path: Path) -> None:
    """Q's last bias is one number, which JSON gives back as a plain float."""
    from cafe import CLIPAdapter

    rng = np.random.default_rng(0)
    X, text = rng.standard_normal((12, 16)).astype(np.float32), rng.standard_normal((3, 16)).astype(np.float32)
    model = CLIPAdapter(text, variant="both", alpha="learned", beta="learned", epochs=3).fit(X, np.arange(12) % 3)
    save(model, tmp_path)
    np.testing.assert_array_equal(load(tmp_path).predict_proba(X), model.predict_proba(X))
