import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cafe.data import open_dataset


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits")


def test_the_published_rule_gives_the_split(digits) -> None:
    # The rule, written down a second time: per class by SHA-256 of the counts as bytes, 50 % / 20 % / 30 %.
    bunch = load_digits()
    keys = [hashlib.sha256(np.uint8(image).tobytes()).hexdigest() for image in bunch.images]
    assert len(set(keys)) == len(keys)  # no copies, so that the rule is only sorting
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for label in range(10):
        rows = sorted(np.flatnonzero(bunch.target == label).tolist(), key=lambda row: keys[row])
        a, b = len(rows) // 2, len(rows) // 2 + len(rows) // 5
        for name, chosen in (("train", rows[:a]), ("val", rows[a:b]), ("test", rows[b:])):
            parts[name].extend(chosen)
    for name, rows in parts.items():
        rows.sort()
        split = digits.splits[name]
        assert list(split.sample_ids) == [f"digit-{row:04d}" for row in rows]
        assert split.labels.tolist() == bunch.target[rows].tolist()
        assert split.labels.dtype == np.int64


def test_pixels(digits) -> None:
    image = np.asarray(digits.image("test", 5))
    row = int(digits.splits["test"].sample_ids[5].removeprefix("digit-"))
    assert image.shape == (8, 8, 3)
    assert image[..., 0].tolist() == [[round(v * 255 / 16) for v in line] for line in load_digits().images[row]]
    assert (image[..., 0] == image[..., 1]).all()
    assert (image[..., 0] == image[..., 2]).all()


def test_words(digits) -> None:
    assert digits.class_names[0] == "zero"
    assert digits.class_names[9] == "nine"
    assert digits.templates == ("a photo of the digit {}.",)
    assert digits.split_origin == "hash, stratified, 50/20/30"


def test_the_split_never_changes(digits) -> None:
    # Stored results rest on it. A change here is a change of the data set.
    splits = digits.identity()["splits"]
    assert {name: part["n"] for name, part in splits.items()} == {"train": 896, "val": 355, "test": 546}
    # First digits of SHA-256 over "id NUL label NUL 64 newline" of every row, from a script of its own.
    starts = {name: part["sha256"][:12] for name, part in splits.items()}
    assert starts == {"train": "dea930471ef1", "val": "8caddcb86880", "test": "4cb2db4ed589"}
