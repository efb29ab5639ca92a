"""What becomes of odd features, from the file that brings them to the fit: an answer, or one sentence and code 2."""

from __future__ import annotations

import numpy as np
import pytest

RNG = np.random.default_rng(0)
TEXT = RNG.normal(size=(4, 16)).astype(np.float32)
FIT = ["fit", "--method", "tip-adapter", "--alpha", 1, "--beta", 5, "--json"]


def images(n=40):
    """Return noisy features (n, 16) of four classes around their text, and the class row of each."""
    y = np.arange(n) % 4
    return (TEXT[y] + 0.5 * RNG.normal(size=(n, 16))).astype(np.float32), y


@pytest.fixture
def brought(cafe, tmp_path):
    """``brought(test_features=change)`` imports sound features with some arrays changed, and fits them.

    A change is a function of the sound array; an array for which it returns None is left out. The outcome of the
    import is returned where that fails, else that of the fit.
    """
    (X, y), (V, w) = images(), images()

    def make(**changes):
        arrays = {"train_features": X, "train_labels": y, "test_features": V, "test_labels": w, "text_features": TEXT}
        arrays |= {name: change(arrays[name]) for name, change in changes.items()}
        np.savez(tmp_path / "odd.npz", **{name: value for name, value in arrays.items() if value is not None})
        imported = cafe("cache", "import", tmp_path / "odd.npz")
        return imported if imported.code else cafe(*FIT)

    return make


def with_row(value):
    """Return a change that fills row 3 of the features with a value."""
    return lambda rows: np.where(np.arange(len(rows))[:, None] == 3, np.float32(value), rows)


ANSWERED = {
    "zero norm": {"train_features": with_row(0), "test_features": with_row(0)},
    "a class missing in the shots": {"train_labels": lambda y: np.where(y == 3, 0, y)},
    "duplicate rows": {"train_features": lambda X: np.repeat(X[:20], 2, axis=0)},
    "more classes than samples": {"train_features": lambda X: X[:3], "train_labels": lambda y: y[:3]},
    "without text": {"text_features": lambda W: None},
    "without text, test labels never seen": {
        "text_features": lambda W: None,
        "train_labels": lambda y: np.where(y == 3, 0, y),
    },
    "float16": {"train_features": np.float16, "test_features": np.float16},
}


@pytest.mark.parametrize("changes", ANSWERED.values(), ids=ANSWERED)
def test_answered(brought, changes):
    """Odd but sound features are fitted, and every test row is scored; zero-shot is left out where there is no text."""
    outcome = brought(**changes)
    assert outcome.code == 0, outcome.err
    (row,) = outcome.json["rows"]
    assert row["n_test"] == 40
    assert 0.2 < row["acc1"] <= 1 and np.isfinite([row["nll"], row["ece"]]).all()
    assert (row["zero_shot_acc1"] is None) is ("text_features" in changes)


REFUSED = {
    "NaN in train": (
        {"train_features": with_row(np.nan)},
        "split 'train' (train_features): row 3 of the features holds NaN",
    ),
    "NaN in test": (
        {"test_features": with_row(np.nan)},
        "split 'test' (test_features): row 3 of the features holds NaN",
    ),
    "infinity": ({"train_features": with_row(np.inf)}, "holds NaN, infinity"),
    "another width": ({"text_features": lambda W: W[:, :7]}, "text features must be (4 classes, 16 wide)"),
    "test labels without text": ({"test_labels": lambda y: y + 3}, "text features must be (7 classes, 16 wide)"),
    "one class": (
        {"train_labels": lambda y: y * 0, "test_labels": lambda y: y * 0, "text_features": lambda W: W[:1]},
        "at least two classes",
    ),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(brought, changes, words):
    """Unsound features end in code 2 and one sentence that names what is wrong with them."""
    outcome = brought(**changes)
    assert (outcome.code, outcome.out) == (2, "")
    (complaint,) = [line for line in outcome.err.splitlines() if line.startswith("cafe: ")]
    assert words in complaint and "unexpected" not in complaint


def test_an_image_on_both_sides_is_refused_and_named(cafe, tmp_path):
    (X, y), (V, w) = images(), images()
    np.savez(
        tmp_path / "leak.npz", train_features=X, train_labels=y, test_features=np.concatenate([V, X[5:6]]),
        test_labels=np.append(w, y[5]), text_features=TEXT,
    )  # fmt: skip
    assert cafe("cache", "import", tmp_path / "leak.npz").code == 0
    for verb in (FIT, ["compare", "baselines", "--shots", 16, "--json"]):
        outcome = cafe(*verb)
        assert (outcome.code, outcome.out) == (2, "")
        assert "'test/40' is 'train/5'; a score on what was trained on means nothing" in outcome.err
