"""A run folder is whole or says that it is not, however its writer ended, keeps no leftovers, and is found by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cafe.errors import InputError
from cafe.features import Features
from cafe.methods.tip_adapter import TipAdapter
from cafe.runs import find_run, load, new_report_folder, new_run_folder, read_run, run_names, save

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


def a_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    return folder


def test_a_run_is_found_by_folder_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named, nested = a_run(tmp_path / "caches" / "runs" / "first"), a_run(tmp_path / "caches" / "runs" / "demo" / "fit")
    assert find_run("first", tmp_path / "caches") == named
    assert find_run("demo/fit", tmp_path / "caches") == nested
    assert find_run(str(nested), tmp_path / "nowhere") == nested
    assert set(run_names(tmp_path / "caches")) == {"first", "demo/fit"}
    (tmp_path / "first").mkdir()  # a folder of this name that is no run does not hide the run
    assert find_run("first", tmp_path / "caches") == named
    other = a_run(tmp_path / "second")
    assert find_run("second", tmp_path / "caches") == other.relative_to(tmp_path)


def test_a_run_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run 'demo'.*there is none yet; `cafe fit` makes one"):
        find_run("demo", tmp_path)
    a_run(tmp_path / "runs" / "digits-zero-shot")
    a_run(tmp_path / "runs" / "demo" / "fit")
    with pytest.raises(InputError, match="runs there are: demo/fit, digits-zero-shot"):
        find_run("demo", tmp_path)


def test_runs_get_readable_names_and_never_collide(tmp_path: Path) -> None:
    row = {"dataset": "digits", "encoder": "openai/clip", "method": "lp++", "variant": None, "seed": 1, "n_train": 8}
    first = new_run_folder(tmp_path, {**row, "shots": 16})
    assert first == tmp_path / "runs" / "digits-openai-clip-lp-16-shot-seed-1"
    first.mkdir(parents=True)
    assert new_run_folder(tmp_path, {**row, "shots": 16}).name == "digits-openai-clip-lp-16-shot-seed-1-2"
    assert new_run_folder(tmp_path, {**row, "shots": None}).name == "digits-openai-clip-lp-all-seed-1"
    assert new_run_folder(tmp_path, {**row, "n_train": 0, "shots": 16}).name == "digits-openai-clip-lp"


def test_a_report_on_many_caches_has_a_short_name(tmp_path: Path) -> None:
    features = Features({}, ("a", "b"), provenance={"dataset": "digits", "encoder": "cafe:mini"})
    assert new_report_folder(tmp_path, "shots", [features]).name == "compare-shots-digits-cafe-mini"
    assert new_report_folder(tmp_path, "shots", [features] * 3).name == "compare-shots-3-caches"


def whole_run(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Save a run with arrays, texts and a row; return rows and what it predicts for them."""
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    labels = np.array(["cat", "dog"])[np.arange(6) % 2]
    model = TipAdapter(TEXT, alpha=1.5, classes=["cat", "dog"]).fit(rows, labels)
    save(model, folder, row={"acc1": 0.75, "shots": None, "note": "ü"})
    return rows, model.logits(rows)


def test_any_flipped_bit_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    """Seeded bits of both files; the long form is in tests/faults."""
    rows, expected = whole_run(tmp_path)
    rng = np.random.default_rng(1)
    for name in ("run.json", "model.safetensors"):
        path = tmp_path / name
        content = path.read_bytes()
        for bit in rng.choice(8 * len(content), size=120, replace=False).tolist():
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                got = load(tmp_path)
            except InputError as error:
                assert name in str(error), str(error)
            else:
                np.testing.assert_array_equal(got.logits(rows), expected)
                assert got.classes_.tolist() == ["cat", "dog"]
                assert got.run_["row"] == {"acc1": 0.75, "shots": None, "note": "ü"}
        path.write_bytes(content)


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    whole_run(tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model.safetensors is damaged: array '[\w.]+'"):
        load(tmp_path)


def test_arrays_of_another_run_are_noticed(tmp_path: Path) -> None:
    whole_run(tmp_path / "a")
    save(TipAdapter(TEXT, alpha=1.0).fit(TEXT, [0, 1]), tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(InputError, match="is damaged: array"):
        load(tmp_path / "a")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[]", "3", '{"run_version": 1}', '{"run_version": 2}', '{"run_version": "2"}', '{"run_version": 0}',
     '{"run_version": 1, "method": "zero-shot", "params": {"logit_scale": {"array": "gone"}}, "fitted": {}}',
     '{"run_version": 1, "method": "zero-shot", "params": {"evil": 1}, "fitted": {}}',
     '{"run_version": 1, "method": "zero-shot", "params": {}, "fitted": {"__class__": 1}}',
     '{"run_version": 1, "method": "zero-shot", "params": {}, "fitted": {"predict": 1}}',
     '{"run_version": 1, "method": ["zero-shot"], "params": {}, "fitted": {}}', '{"run_version": ' + "9" * 5000 + "}"],
)  # fmt: skip
def test_a_document_of_another_form_is_a_sentence(tmp_path: Path, text: str) -> None:
    whole_run(tmp_path)
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        load(tmp_path)


def test_a_pipe_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    whole_run(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is a pipe"):
        load(tmp_path)


def test_a_model_folder_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "clip").mkdir(parents=True)
    (tmp_path / "work" / "clip" / "config.json").write_text("{}")
    features = Features({}, ("cat", "dog"), provenance={"dataset": "d", "encoder": "clip", "fingerprint": "f"})
    monkeypatch.chdir(tmp_path / "work")
    save(TipAdapter(TEXT, alpha=1.0).fit(TEXT, [0, 1]), "runs/a", features=features)
    monkeypatch.chdir(tmp_path)
    assert read_run("work/runs/a")["encoder"] == str(tmp_path / "work" / "clip")
    # Moved together, to another machine perhaps: the folder stands beside the run as before.
    (tmp_path / "work").rename(tmp_path / "elsewhere")
    assert read_run("elsewhere/runs/a")["encoder"] == str(tmp_path / "elsewhere" / "clip")
