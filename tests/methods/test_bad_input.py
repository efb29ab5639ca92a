"""What every method makes of bad or meagre input: each case has an outcome that a person can act on."""

import warnings

import numpy as np
import pytest

from cafe.errors import CafeError, InputError
from cafe.features import Features, Split
from cafe.fitting import fit_method
from cafe.methods import method_names

METHODS = method_names()
each_method = pytest.mark.parametrize("name", METHODS)


def problem(n_classes=4, per_class=6, d=12, noise=0.6, seed=0):
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(n_classes, d)).astype(np.float32)
    y = np.arange(n_classes * per_class) % n_classes
    X = (text[y] + noise * rng.normal(size=(len(y), d))).astype(np.float32)
    return X, y, text


def assert_probabilities(model, X, n_classes):
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (len(X), n_classes)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


# ---------------------------------------------------------------------- meagre, but a task


@each_method
def test_a_class_missing_in_the_shots(ready, name):
    """From text it keeps its column; from class means there is no such class."""
    X, y, text = problem()
    seen = y != 2
    assert_probabilities(ready(name, text).fit(X[seen], y[seen]), X, 4)
    if "class_names" not in ready(name, None).get_params():  # prompts have all their classes from the names
        model = ready(name, None).fit(X[seen], y[seen])
        assert model.classes_.tolist() == [0, 1, 3]
        assert_probabilities(model, X, 3)


@each_method
@pytest.mark.parametrize("source", ["text", "class means"])
def test_one_shot_without_a_warning(ready, name, source):
    X, y, text = problem(per_class=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ready(name, text if source == "text" else None).fit(X, y)
        assert_probabilities(model, problem()[0], 4)


@each_method
def test_all_shots_of_one_class_among_several(ready, name):
    """Text makes it a task of four classes: fitted, or refused in a sentence about classes."""
    X, y, text = problem()
    only = y == 1
    try:
        model = ready(name, text).fit(X[only], y[only])
    except InputError as error:
        assert "class" in str(error)
    else:
        assert_probabilities(model, X, 4)


@each_method
def test_more_classes_than_samples(ready, name):
    X, y, text = problem(n_classes=30, per_class=1)
    assert_probabilities(ready(name, text).fit(X[:5], y[:5]), X, 30)


@each_method
def test_duplicate_rows_even_under_two_labels(ready, name):
    X, y, text = problem(per_class=2)
    assert_probabilities(ready(name, text).fit(np.vstack([X, X]), np.concatenate([y, y])), X, 4)
    assert_probabilities(ready(name, text).fit(np.vstack([X, X]), np.concatenate([y, y[::-1]])), X, 4)
    same = np.repeat(X[:1], 8, axis=0)
    assert_probabilities(ready(name, text).fit(same, y), X, 4)


@each_method
@pytest.mark.parametrize("source", ["text", "class means"])
def test_zero_norm_rows(ready, name, source):
    X, y, text = problem()
    X[[1, 6]] = 0
    model = ready(name, text if source == "text" else None).fit(X, y)
    assert_probabilities(model, X, 4)


@each_method
def test_a_class_of_zero_norm_rows_only(ready, name):
    """Text makes up for it; a class mean of length zero is refused."""
    X, y, text = problem(per_class=1)
    X[1] = 0
    assert_probabilities(ready(name, text).fit(X, y), X, 4)
    if "class_names" not in ready(name, None).get_params():
        with pytest.raises(InputError, match="mean of the training rows of label 1 has length zero"):
            ready(name, None).fit(X, y)


@each_method
@pytest.mark.parametrize("kind", ["str", "object", "int far from 0", "bool"])
def test_labels_of_any_kind(ready, name, kind):
    X, y, text = problem(n_classes=2) if kind == "bool" else problem()
    labels = {
        "str": np.array(["zebra", "ant", "mule", "cat"]),
        "object": np.array(["zebra", "ant", "mule", "cat"], dtype=object),
        "int far from 0": np.array([700, -3, 5, 12]),
        "bool": np.array([True, False]),
    }[kind]
    model = ready(name, text, classes=labels).fit(X, labels[y])
    assert model.classes_.tolist() == labels.tolist()
    assert set(model.predict(X).tolist()) <= set(labels.tolist())
    assert model.score(X, labels[y]) == np.mean(model.predict_proba(X).argmax(axis=1) == y)


@each_method
def test_test_labels_never_seen_count_as_wrong(ready, name):
    X, y, text = problem()
    model = ready(name, text).fit(X, y)
    right = model.predict(X) == y
    strange = np.where(np.arange(len(y)) < 6, 99, y)
    assert model.score(X, strange) == pytest.approx(right[6:].sum() / len(y))


def features(text, seen):
    X, y, _ = problem()
    X_test, y_test, _ = problem(seed=0, noise=0.5)
    keep = np.isin(y, seen)
    splits = {
        name: Split(x, labels, np.array([f"{name}{i}" for i in range(len(x))]))
        for name, (x, labels) in {"train": (X[keep], y[keep]), "test": (X_test, y_test)}.items()
    }
    return Features(splits, ("a", "b", "c", "d"), text)


@each_method
@pytest.mark.parametrize("source", ["text", "class means"])
def test_a_test_class_without_a_shot_is_in_the_row(ready, name, source):
    """Its images are tested like all others; from class means they can only be wrong."""
    parameters = ready(name, problem()[2]).get_params()
    needs_tower = "text_tower" in parameters
    if source == "class means" and needs_tower:
        pytest.skip("a method that learns prompts has text wherever it can be fitted")
    short = ("text_tower", "epochs", "n_context") if needs_tower else ("C",) if "C" in parameters else ()
    given = {k: parameters[k] for k in short}
    text = problem()[2][None] if source == "text" else None
    row = fit_method(features(text, [0, 1, 3]), name, given, selection="auto").row
    sees_text_alone = not ready(name, problem()[2]).learns_from_images(source == "text")
    assert (row["n_train"], row["n_test"]) == (0 if sees_text_alone else 18, 24)
    assert 0 <= row["mean_per_class_recall"] <= (1 if source == "text" else 0.75)
    assert np.isfinite([row["acc1"], row["ece"]]).all()


# ---------------------------------------------------------------------- refused, in a sentence


@each_method
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda X, y, W: (np.where(np.arange(12) == 3, np.nan, X), y, W), "NaN"),
        (lambda X, y, W: (np.where(np.arange(12) == 3, np.inf, X), y, W), "infinity"),
        (lambda X, y, W: (X, y, np.where(np.arange(12) == 3, np.inf, W)), "infinity"),
        (lambda X, y, W: (X, y, W[:, :7]), "class_embeddings must be .*same encoder"),
        (lambda X, y, W: (X, y, W[0]), "class_embeddings must be"),
        (lambda X, y, W: (X, y, W[None]), "class_embeddings must be"),
        (lambda X, y, W: (X[:, :7], y, W), "class_embeddings must be .*same encoder"),
        (lambda X, y, W: (X[0], y, W), "2D"),
        (lambda X, y, W: (X[:0], y[:0], W), "sample"),
        (lambda X, y, W: (X[:5], y, W), "inconsistent numbers of samples"),
        (lambda X, y, W: (X, y - 1, W), "integers 0 to 3"),
        (lambda X, y, W: (X, np.array(list("abcd"))[y], W), "integers 0 to 3.*Pass classes"),
        (lambda X, y, W: (X, np.where(np.arange(24) == 3, np.nan, y), W), "NaN"),
        (lambda X, y, W: (X, None, W), "y"),
        (lambda X, y, W: (X, y * 0, W[:1]), "one class"),
        (
            lambda X, y, W: (X, y, np.where(np.arange(4)[:, None] == 2, 0, W)),
            "row 2 of class_embeddings has length zero",
        ),
    ],
)
def test_refused_when_fitting(ready, name, change, words):
    X, y, text = change(*problem())
    with pytest.raises(ValueError, match=words):
        ready(name, text).fit(X, y)


@each_method
@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (list("abc"), "classes must name each of the 4 rows"),
        (list("abca"), "classes must name each of the 4 rows"),
        (list("abce"), "label 'd' is none of the 4 classes"),
    ],
)
def test_refused_class_labels(ready, name, classes, words):
    X, y, text = problem()
    with pytest.raises(InputError, match=words):
        ready(name, text, classes=classes).fit(X, np.array(list("abcd"))[y])


@each_method
def test_refused_when_predicting(ready, name):
    X, y, text = problem()
    model = ready(name, text).fit(X, y)
    with pytest.raises(ValueError, match="NaN"):
        model.predict(np.full_like(X, np.nan))
    with pytest.raises(ValueError, match="12 features|features as input"):
        model.predict(X[:, :7])
    with pytest.raises(ValueError, match="2D"):
        model.predict(X[0])


def test_text_and_images_of_different_width_never_become_features():
    with pytest.raises(CafeError, match="12 wide.* from different encoders|text features are 7 wide"):
        features(problem()[2][None, :, :7], [0, 1, 2, 3])
