"""Methods on features of two encoders beside each other, as Features.join makes them."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from cafe import Auto, LinearMap, ZeroShot, ZeroShotPlus
from cafe.errors import InputError
from cafe.features import Features, Split, side_by_side
from cafe.fitting import MADE_FOR_TWO, FitRequest, fit_all, fit_method
from cafe.methods import make_method, method_names
from cafe.methods.linear_map import _Ridge
from cafe.protocol.paired import paired_test
from cafe.protocol.tasks import make_task

# The methods that treat the features of two encoders as two parts.
TWO = (Auto, ZeroShotPlus, LinearMap)
LEARN_FROM_TWO = [name for name in method_names() if not make_method(name).one_encoder]


def problem(per_class, *, first_noise=1.0, second_noise=1.0, n_classes=4, widths=(12, 9), seed=0, rows=0):
    """Return X (n, 12 + 9) of two encoders that err independently, class rows y, and text that only the first knows.

    Another number ``rows`` draws other rows of the same classes, with the same text.
    """
    draw = np.random.default_rng(seed)
    y = np.arange(n_classes * per_class) % n_classes
    means = [draw.normal(size=(n_classes, width)) for width in widths]
    text = np.concatenate([means[0] + draw.normal(size=means[0].shape), np.zeros((n_classes, widths[1]))], axis=1)
    draw = np.random.default_rng([seed, rows])
    X = side_by_side(
        *(
            mean[y] + noise * draw.normal(size=(len(y), mean.shape[1]))
            for mean, noise in zip(means, (first_noise, second_noise), strict=True)
        )
    )
    return X, y, text


def fitted(method, X, y, text, width=9, **parameters):
    model = method(text, second_width=width, **parameters)
    if "random_state" in model.get_params():
        model.set_params(random_state=0)
    return model.fit(X, y)


@pytest.mark.parametrize("method", TWO)
@pytest.mark.parametrize("per_class", [1, 2, 8])
@pytest.mark.parametrize("has_text", [True, False])
def test_neither_encoder_counts_more_for_the_size_of_its_numbers(method, per_class, has_text):
    X, y, text = problem(per_class)
    text = text if has_text else None
    new = problem(5, rows=1)[0]
    expected = fitted(method, X, y, text).predict_proba(new)
    sizes = np.array([3.0] * 12 + [0.01] * 9)
    # The scaled rows are normalised on entry: a few more roundings of float64, amplified by the fits.
    np.testing.assert_allclose(fitted(method, X * sizes, y, text).predict_proba(new * sizes), expected, atol=1e-5)


@pytest.mark.parametrize("method", TWO)
def test_a_second_encoder_that_sees_better_helps(method):
    X, y, text = problem(4, first_noise=3.0, second_noise=0.7)
    new, labels, _ = problem(50, first_noise=3.0, second_noise=0.7, rows=1)
    alone = Auto(text[:, :12], random_state=0).fit(X[:, :12], y).score(new[:, :12], labels)
    assert fitted(method, X, y, text).score(new, labels) > alone + 0.1


@pytest.mark.parametrize("per_class", [1, 2, 8])
def test_a_second_encoder_that_sees_nothing_costs_auto_little(per_class):
    """Noise beside an encoder that is nearly always right: the shots say so, and where there are none, text does."""
    lost = []
    for seed in range(2):
        X, y, text = problem(per_class, first_noise=0.3, second_noise=100.0, seed=seed)
        new, labels, _ = problem(50, first_noise=0.3, second_noise=100.0, seed=seed, rows=1)
        alone = Auto(text[:, :12], random_state=0).fit(X[:, :12], y).score(new[:, :12], labels)
        lost.append(alone - fitted(Auto, X, y, text).score(new, labels))
    assert np.mean(lost) < 0.03


@pytest.mark.parametrize("method", TWO)
def test_a_second_encoder_that_is_constant_says_nothing(method):
    X, y, text = problem(4, first_noise=0.5)
    X[:, 12:] = X[0, 12:]
    model = fitted(method, X, y, text)
    if method is Auto:
        assert model.score(X, y) > 0.8
    else:
        np.testing.assert_array_equal(model.predict(X), ZeroShot(text[:, :12]).fit(X[:, :12], y).predict(X[:, :12]))
    # The same logits, but for the residual's random start in auto, whatever the second encoder's columns hold.
    moved = X.copy()
    moved[:, 12:] = np.random.default_rng(0).normal(size=(len(X), 9))
    assert (model.predict(moved) == model.predict(X)).mean() > 0.9


@pytest.mark.parametrize("method", TWO)
def test_second_width_must_leave_columns_to_the_first(method):
    X, y, text = problem(4)
    with pytest.raises(InputError, match="second_width 21 is of features of two encoders"):
        fitted(method, X, y, text, width=21)


@pytest.mark.parametrize("n", [7, 40])
def test_ridge_and_its_left_out_rows_are_those_of_refits(n):
    """Against scikit-learn's ridge regression, fitted once for each row; fewer rows than columns, and more."""
    draw = np.random.default_rng(n)
    X, y, prototypes = draw.normal(size=(n, 12)), draw.integers(0, 3, n), draw.normal(size=(3, 5))
    ridge, penalty = _Ridge(X, y, prototypes), 0.3
    whole = Ridge(alpha=penalty).fit(X, prototypes[y])
    np.testing.assert_allclose(ridge.map(penalty), whole.coef_.T, atol=1e-8)
    mapped, missed = ridge.left_out(np.arange(n), penalty)
    for row in range(n):
        others = np.arange(n) != row
        expected = Ridge(alpha=penalty).fit(X[others], prototypes[y[others]]).predict(X[row : row + 1])[0]
        np.testing.assert_allclose(mapped[row], expected, atol=1e-8)
        np.testing.assert_allclose(missed[row], prototypes[y[row]] - expected, atol=1e-8)


def joined_problem(n_train=6, has_text=True):
    """Return the features of both encoders, each with its own columns of :func:`problem`, ready to be joined."""
    X, y, text = problem(n_train)
    new, labels, _ = problem(20, rows=1)
    parts = {
        name: (rows, own, np.array([f"{name}/{i}" for i in range(len(own))]))
        for name, (rows, own) in {"train": (X, y), "test": (new, labels)}.items()
    }

    def features(columns, name, words):
        splits = {}
        for key, (rows, own, ids) in parts.items():
            sha256 = np.zeros((len(own), 32), np.uint8)
            sha256[:, :2] = np.stack([np.arange(len(own)), np.full(len(own), key == "test")], axis=1)
            splits[key] = Split(rows[:, columns].astype(np.float32), own, ids, image_sha256=sha256)
        image = {"encoder": {"weights_sha256": name}}
        provenance = {"encoder": name, "dataset": "blobs", "fingerprint": name * 2, "image": image}
        return Features(splits, tuple("abcd"), words, provenance=provenance)

    first = features(slice(0, 12), "clip", text[None, :, :12].astype(np.float32) if has_text else None)
    return first, features(slice(12, None), "dino", None)


@pytest.mark.parametrize(
    ("method", "has_text"),
    [*((method, True) for method in LEARN_FROM_TWO), *((method, False) for method in (*MADE_FOR_TWO, "gda"))],
)
def test_every_other_method_learns_from_rows_beside_each_other(method, has_text):
    """Without text those alone whose way of learning changes: the rest sees class means, of both parts."""
    first, second = joined_problem(has_text=has_text)
    row = fit_method(first.join(second), method, seed=1).row
    assert row["encoder"] == "clip+dino"
    assert row["cache_fingerprint"] == "clipclip+dinodino"
    assert "second_width" not in row["params"]
    alone = fit_method(first, "zero-shot").row["acc1"] if has_text else 0.5
    assert row["zero_shot_acc1"] == (alone if has_text else None)
    if method == "zero-shot" and has_text:
        assert row["acc1"] == alone
    else:
        assert row["acc1"] > alone


@pytest.mark.parametrize("method", sorted(set(method_names()) - set(LEARN_FROM_TWO)))
def test_methods_for_one_encoder_say_why(method):
    first, second = joined_problem()
    with pytest.raises(InputError, match=f"{method} learns from one encoder alone: .* or take another method: .*auto"):
        fit_method(first.join(second), method)


def digits_beside_pixels(folder):
    """Digits by cafe:mini, and their own 8 x 8 pixels as a second encoder."""
    from dataclasses import replace

    from cafe.cache import extract
    from cafe.cache.format.reader import read_features
    from cafe.data import open_dataset
    from cafe.encoders import open_encoder

    digits = open_dataset("digits")
    mini = read_features(extract(digits, open_encoder("cafe:mini", "cpu"), folder / "mini.h5").path)
    splits = {}
    for name, split in mini.splits.items():
        pixels = np.stack([np.asarray(digits.image(name, i).convert("L")) for i in range(len(split))])
        splits[name] = replace(split, image_features=pixels.reshape(len(split), -1).astype(np.float32))
    return mini, Features(splits, mini.class_names, provenance={"encoder": "pixels", "dataset": "digits"})


def test_digits_beside_their_pixels_are_never_behind_the_better_of_both(tmp_path):
    """By no more than two paired standard errors; benchmarks/studies/two_encoders.py has every number of shots."""
    mini, pixels = digits_beside_pixels(tmp_path)
    joined = mini.join(pixels)
    for shots in (1, 4):
        correct = {}
        for name, features in (("mini", mini), ("pixels", pixels), ("both", joined)):
            tasks = [make_task(features, shots, seed) for seed in range(1, 6)]
            fits = fit_all(tasks, [FitRequest("auto", {}, number) for number in range(5)])
            correct[name] = np.stack([fit.correct for fit in fits])
        better = max(("mini", "pixels"), key=lambda name: correct[name].mean())
        test = paired_test(correct["both"], correct[better])
        error = (test.ci95[1] - test.ci95[0]) / 4  # of t's interval; a little more than the standard error
        assert test.difference >= -2 * error, (shots, test)
