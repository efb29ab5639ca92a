"""A table of predictions that was cut off at any point is carried on, and is the one of a run that was not."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cafe
from cafe.classifier.prediction_table import TableInterrupted
from cafe.encoders import open_encoder
from cafe.errors import InputError

NAMES = ["zero", "one", "two"]
BATCH = 4


@functools.cache
def mini() -> Any:
    encoder: Any = open_encoder("cafe:mini", "cpu", "float32")
    encoder.batch_size = BATCH
    return encoder


class Interrupter:
    """Interrupts a call after ``batches`` encoded batches, by an exception or (None) a kill; counts encoded images."""

    def __init__(self, batches: int = 10**9, error: type[BaseException] | None = KeyboardInterrupt) -> None:
        self.batches, self.error, self.encoded = batches, error, 0
        self.encoder = mini()
        encode = type(self.encoder).encode_for_prediction

        def encode_for_prediction(crops: Any, **options: Any) -> Any:
            if self.encoded >= self.batches * BATCH:
                if self.error is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                else:
                    raise self.error
            self.encoded += len(crops)
            return encode(self.encoder, crops, **options)

        self.encoder.encode_for_prediction = encode_for_prediction

    def classifier(self, scale: float = 10.0) -> cafe.Classifier:
        from cafe.methods.zero_shot import ZeroShot

        text = self.encoder.encode_text([f"a photo of {name}" for name in NAMES])
        return cafe.Classifier(ZeroShot(text, classes=NAMES, logit_scale=scale).fit(text, NAMES), self.encoder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """14 images in three batches and a half: one of them cannot be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(14):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    (folder / "05.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def whole(photos: Path, tmp_path: Path) -> bytes:
    assert Interrupter().classifier().write_table(photos, tmp_path / "whole.csv") == 14
    assert not (tmp_path / "whole.csv.partial").exists()
    return (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("batches", [0, 1, 3])
def test_ctrl_c_keeps_whole_batches(batches: int, streamed: bool, photos: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"

    def images() -> Path | Iterator[Path]:
        return iter(sorted(photos.iterdir())) if streamed else photos

    kept = {0: "nothing was done yet", 1: "rows of 4 images are kept", 3: "rows of 13 images are kept"}[batches]
    with pytest.raises(TableInterrupted, match=kept):
        Interrupter(batches).classifier().write_table(images(), out)
    assert not out.exists()
    again = Interrupter()
    assert again.classifier().write_table(images(), out) == 14
    assert again.encoded == 13 - BATCH * batches
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "table.csv", "whole.csv"]


def test_a_kill_half_way(photos: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    code = "import sys, test_prediction_table as t; t.Interrupter(2, None).classifier().write_table(*sys.argv[1:])"
    here = Path(__file__).parent
    died = subprocess.run([sys.executable, "-c", code, str(photos), str(out)], cwd=here, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not out.exists() and (tmp_path / "table.csv.partial").is_file()
    again = Interrupter()
    assert again.classifier().write_table(photos, out) == 14
    assert again.encoded == 13 - 2 * BATCH and out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "table.csv", "whole.csv"]


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_a_line_that_a_power_cut_damaged_is_written_again(cut: int, photos: Path, whole: bytes, tmp_path: Path) -> None:
    out, partial = tmp_path / "table.csv", tmp_path / "table.csv.partial"
    with pytest.raises(TableInterrupted):
        Interrupter(3).classifier().write_table(photos, out)
    data = bytearray(partial.read_bytes())
    data[len(data) * cut // 100] ^= 4
    partial.write_bytes(bytes(data) if cut % 2 else bytes(data[: len(data) * cut // 100]))
    Interrupter().classifier().write_table(photos, out)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("change", ["image", "name", "added", "method", "guesses"])
def test_what_is_kept_is_of_the_same_images_and_method(change: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    with pytest.raises(TableInterrupted):
        Interrupter(3).classifier().write_table(photos, out)
    if change == "image":
        stamp = (photos / "06.png").stat()
        content = (photos / "06.png").read_bytes()
        shutil.copy(photos / "07.png", photos / "06.png")  # of the same age, and looks the same from outside
        os.utime(photos / "06.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert (photos / "06.png").read_bytes() != content
    elif change == "name":
        (photos / "06.png").rename(photos / "06a.png")
    elif change == "added":
        shutil.copy(photos / "00.png", photos / "06a.png")
    k, scale = (2 if change == "guesses" else 3), (20.0 if change == "method" else 10.0)
    again = Interrupter()
    again.classifier(scale).write_table(photos, out, k)
    fresh = Interrupter()
    fresh.classifier(scale).write_table(photos, tmp_path / "fresh.csv", k)
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()
    assert fresh.encoded - again.encoded == (0 if change in ("method", "guesses") else BATCH)


def test_another_process_at_work_on_it_is_seen(photos: Path, tmp_path: Path) -> None:
    from cafe.cache.locks import try_claim

    claim = try_claim(tmp_path / ".table.csv.partial.lock")
    assert claim is not None
    with claim, pytest.raises(InputError, match="written by another process"):
        Interrupter().classifier().write_table(photos, tmp_path / "table.csv")


def test_bad_tables_are_refused(photos: Path, tmp_path: Path) -> None:
    classifier = Interrupter().classifier()
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        classifier.write_table(photos, tmp_path / "there.csv")
    with pytest.raises(InputError, match=r"ends in \.csv"):
        classifier.write_table(photos, tmp_path / "table.txt")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "table.csv.partial").symlink_to(outside)
    with pytest.raises(cafe.errors.CafeError, match="is a link"):
        classifier.write_table(photos, tmp_path / "table.csv")
    assert outside.read_text() == "mine"
