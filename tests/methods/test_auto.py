"""auto: the mixture is its formula, the choice rests on held-out rows, and any problem ends in sound probabilities."""

import os

import numpy as np
import pytest
from made_up_rows import unit

from cafe import GDA, Auto, TaskRes, ZeroShot
from cafe.errors import InputError
from cafe.evaluation.metrics import expected_calibration_error
from cafe.methods.mixture.experts import (
    HeldOutLogits,
    centred_means,
    distinct_rows,
    fold_rows,
    held_out_expert_logits,
)
from cafe.methods.mixture.gaussians import fit_gaussian, held_out_logits
from cafe.methods.mixture.weights import likeliest_scale, losses, pick_weights, spread, stack

LONG = "CAFE_LONG_TESTS" in os.environ
SETTINGS = {"steps": 20, "logit_scale": 30.0, "device": "cpu", "dtype": "float64", "random_state": 0}


def made(shots, noise, text_noise, seed=0, n_classes=6, d=24):
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(n_classes, d)))

    def draw(per_class):
        y = np.arange(n_classes * per_class) % n_classes
        return centres[y] + noise / np.sqrt(d) * rng.normal(size=(len(y), d)), y

    text = centres + text_noise / np.sqrt(d) * rng.normal(size=(n_classes, d))
    return *draw(shots), text, *draw(100)


def less_what_is_shared(logits):
    """What all classes share changes no probability, and a fit leaves it out."""
    return logits - logits.mean(axis=1, keepdims=True)


def test_a_fit_predicts_what_its_mixture_says():
    """The parts come from the two methods they are taken from, GDA and TaskRes."""
    X, y, text, queries, _ = made(4, 0.5, 0.5)
    model = Auto(text, logit_scale=30.0, dtype="float64", random_state=0).fit(X, y)
    mixture, scale = model.mixture_, 30 * model.mixture_["text_scale"]
    X, queries, text = unit(X), unit(queries), unit(text)
    settings = {"epochs": 100, "batch_size": 24, "logit_scale": scale, "dtype": "float64", "random_state": 0}
    w = TaskRes(text, **settings).fit(X, y).weights_
    gaussian = GDA(text, alpha=1.0).fit(X, y).logits(queries) - ZeroShot(text).fit(X, y).logits(queries) + np.log(6)
    expected = mixture["residual"] * scale * queries @ unit(w).T + mixture["images"] * gaussian
    np.testing.assert_allclose(model.logits(queries), less_what_is_shared(expected), rtol=1e-9, atol=1e-9)


def test_what_all_classes_share_costs_no_precision():
    """Features that lie close together, as those of a random tower: Gaussians of them are large and nearly the same."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 8)
    X = unit(rng.standard_normal(24) + 1e-3 * rng.standard_normal((4, 24))[y] + 1e-3 * rng.standard_normal((32, 24)))
    fitted = Auto(random_state=0).fit(X.astype(np.float32), y)
    assert np.abs(fitted.weights_.mean(axis=0)).max() < 1e-6 * np.abs(fitted.weights_).max()
    exact = fitted.predict_proba(X.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(fitted.predict_proba(X.astype(np.float32)), exact, rtol=0, atol=2e-5)


def test_one_shot_is_its_formula():
    X, y, text, queries, _ = made(1, 0.5, 0.5)
    model = Auto(text, logit_scale=30.0, dtype="float64", random_state=0).fit(X, y)
    assert model.evidence_ == {"held_out": 0}
    assert model.mixture_["residual"] == 1
    X, queries, text = unit(X), unit(queries), unit(text)
    scale = 30 * model.mixture_["text_scale"]
    w = TaskRes(text, epochs=100, batch_size=6, logit_scale=scale, dtype="float64", random_state=0).fit(X, y).weights_
    m = X.mean(axis=0) / 2
    own = (X - m) @ unit(X - m).T
    own -= own.mean(axis=1, keepdims=True)
    np.fill_diagonal(own, 0)
    images = 0.5 / np.sqrt(np.square(own).sum() / 30)
    assert model.mixture_["images"] == pytest.approx(images)
    expected = scale * queries @ unit(w).T + images * (queries - m) @ unit(X - m).T
    np.testing.assert_allclose(model.logits(queries), less_what_is_shared(expected), rtol=1e-9, atol=1e-9)


def test_a_row_left_out_is_scored_as_by_a_model_that_never_had_it():
    """The covariance is taken anew without the row; its ridge stays that of all rows, as documented."""
    rng = np.random.default_rng(0)
    X, y = unit(rng.normal(size=(12, 7))), np.arange(12) % 3
    folds = fold_rows(y, 4, 0)

    def residuals(rows):
        own = np.stack([X[rows][y[rows] == c].mean(axis=0) for c in range(3)])
        return X[rows] - own[y[rows]]

    ridge = np.square(residuals(np.arange(12))).sum() / 11
    expected = []
    for kept, held in folds:
        means = np.stack([X[kept][y[kept] == c].mean(axis=0) for c in range(3)])
        for i in held:
            r = residuals(np.delete(np.arange(12), i))
            P = 7 * np.linalg.inv(r.T @ r + ridge * np.eye(7))
            expected.append(X[i] @ P @ means.T - np.diag(means @ P @ means.T) / 2)
    np.testing.assert_allclose(held_out_logits(fit_gaussian(X, y, 3), X, y, folds), expected, rtol=1e-9, atol=1e-9)


def test_folds_are_balanced_and_no_class_loses_its_only_row():
    y = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    folds = fold_rows(y, 4, 0)
    held = np.concatenate([rows for _, rows in folds])
    assert sorted(held) == [0, 1, 2, 3, 4, 5, 6]
    for kept, rows in folds:
        assert set(y[kept]) == {0, 1, 2}
        assert sorted([*kept, *rows]) == list(range(8))
        assert np.bincount(y[rows], minlength=3).max(initial=0) <= 2


def test_held_out_rows_are_scored_by_experts_that_did_not_see_them():
    """With labels that say nothing, experts know their own rows by heart and held-out rows not at all."""
    rng = np.random.default_rng(0)
    X, text, y = unit(rng.normal(size=(60, 48))), unit(rng.normal(size=(6, 48))), np.arange(60) % 6
    gaussian = fit_gaussian(X, y, 6)
    scores = held_out_expert_logits(X, y, text, 30.0, [(X, gaussian)], 4, SETTINGS)
    assert scores.logits.shape == (2, 60, 6)
    assert (scores.rows_of_class, scores.kept_of_class) == (10, 7.4)  # folds of 3, 3, 2 and 2
    for expert in scores.logits:
        assert np.mean(expert.argmax(axis=1) == scores.labels) < 0.4
    own = X @ gaussian.weights.T + gaussian.offset
    assert np.mean(own.argmax(axis=1) == y) > 0.8


def test_text_is_weighed_by_what_it_says_of_the_shots():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 6
    signal = np.log(np.eye(6)[y] * 0.6 + 0.4 / 6)  # a class is right with 2/3
    labels = np.array([rng.choice(6, p=np.exp(row)) for row in signal])
    assert likeliest_scale(signal, labels) == pytest.approx(1, abs=0.25)
    assert likeliest_scale(5 * signal, labels) == pytest.approx(0.2, abs=0.1)
    assert likeliest_scale(20 * rng.normal(size=(60, 6)), labels) < 0.05
    for rows in (labels[:1], 5 - labels[:1]):
        assert 0 < likeliest_scale(signal[:1], rows) < 20


def test_spread_leaves_out_what_a_model_knows_by_heart():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(500, 50)), rng.integers(50, size=500)
    z[np.arange(500), y] += 9
    assert spread(z, y) == pytest.approx(1, abs=0.05)
    assert spread(7 * z + 3, y) == pytest.approx(7 * spread(z, y))
    assert spread(np.zeros((4, 3)), y[:4] % 3) == 0


def test_centred_means_are_no_hubs():
    X = np.array([[1.0, 0.2], [1.0, -0.2], [5.0, 5.0]])
    weights, offset = centred_means(X, np.array([0, 1, 1]), 3)
    m = (X[0] + (X[1] + X[2]) / 2) / 4  # half of the mean of the two classes' means
    np.testing.assert_allclose(weights[0], unit(X[0] - m))
    np.testing.assert_allclose(offset, -weights @ m)
    assert not weights[2].any()


def test_stacking_ends_where_no_direction_lowers_its_loss():
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=80)
    experts = np.stack([scale * np.eye(4)[y] + rng.normal(size=(80, 4)) for scale in (2, 1, 0, -2)])
    centre = np.full(4, 1 / 3)

    def loss(v):
        return losses(np.tensordot(v, experts, 1), y).sum() + 5.0 * np.square(v - centre).sum() / 2

    chosen = stack(experts, y, centre, 5.0)
    assert chosen[0] > chosen[1] > 0
    assert chosen[3] == 0
    for e in range(4):
        up, down = (loss(chosen + sign * 1e-3 * np.eye(4)[e]) for sign in (1, -1))
        assert up >= loss(chosen) - 1e-6
        assert chosen[e] == 0 or down >= loss(chosen) - 1e-6


def test_an_expert_that_knows_gets_the_weight():
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    knows, guesses = 2 * np.eye(4)[y] + rng.normal(size=(400, 4)), rng.normal(size=(400, 4))
    for place in range(2):
        logits = np.stack([guesses, guesses])
        logits[place] = knows
        weights, evidence = pick_weights(HeldOutLogits(logits, guesses, y, 8.0, 6.0), 8.0)
        assert weights.argmax() == place
        assert evidence["held_out"] == 400
        assert evidence["accuracy"] > 0.8 > 0.3 > evidence["zero_shot_accuracy"]


def test_the_best_scale_of_a_gaussian_grows_with_the_rows_of_its_means():
    """As k / (k + 1) where classes lie as far apart as here; so pick_weights turns a fold's weight into all rows'."""
    rng = np.random.default_rng(0)
    n_classes, d, n = 60, 3, 100
    y = np.repeat(np.arange(n_classes), n)

    def best(rows):
        scales = []
        for _ in range(6):
            centres = 3 * rng.normal(size=(n_classes, d))
            means = centres + rng.normal(size=(n_classes, d)) / np.sqrt(rows)
            queries = centres[y] + rng.normal(size=(len(y), d))
            scales.append(likeliest_scale(queries @ means.T - np.square(means).sum(axis=1) / 2, y))
        return np.mean(scales)

    assert best(2) / best(1) == pytest.approx((2 / 3) / (1 / 2), rel=0.05)
    logits = np.stack([np.eye(3) + rng.normal(size=(3, 3)) for _ in range(2)])
    weights = [pick_weights(HeldOutLogits(logits, logits[0], np.arange(3), k, k - 1.0), 2.0)[0] for k in (2.0, 1e9)]
    np.testing.assert_allclose(weights[0] / weights[1], [1, (2 / 3) / (1 / 2)], rtol=1e-6)


def test_copies_of_rows_are_no_evidence():
    """Each image twice is one shot: nothing can be held out, and the fit is that of the images once."""
    X, y, text, queries, _ = made(1, 0.5, 0.5)
    assert distinct_rows(np.repeat(X, 2, axis=0), np.repeat(y, 2)).tolist() == list(range(0, 12, 2))
    once = Auto(text, random_state=0).fit(X, y)
    twice = Auto(text, random_state=0).fit(np.repeat(X, 3, axis=0), np.repeat(y, 3))
    np.testing.assert_array_equal(once.logits(queries), twice.logits(queries))


@pytest.mark.parametrize(("noise", "text_noise"), [(0.7, 0.1), (0.7, 2.0), (2.5, 0.2), (6.0, 0.2), (0.3, 50.0)])
@pytest.mark.parametrize("shots", [1, 2, 8])
def test_not_behind_zero_shot_and_calibrated(noise, text_noise, shots):
    """Text and images good and bad: the bounds that docs/auto.md has for real data, over five draws."""
    gains, errors, before_errors = [], [], []
    for seed in range(5):
        X, y, text, queries, labels = made(shots, noise, text_noise, seed)
        model = Auto(text, logit_scale=20.0, random_state=0).fit(X, y)
        plain = ZeroShot(text, logit_scale=20.0).fit(X, y)
        gains.append((model.predict(queries) == labels).astype(float) - (plain.predict(queries) == labels))
        errors.append(expected_calibration_error(model.predict_proba(queries), labels))
        before_errors.append(expected_calibration_error(plain.predict_proba(queries), labels))
    gains = np.stack(gains)
    error = gains.mean(axis=1).std(ddof=1) / np.sqrt(5) + gains.std() / np.sqrt(gains.size)
    assert gains.mean() >= -max(0.003, 2 * error)
    # 6 classes x 1 shot give the scale of text to about a third.
    assert np.mean(errors) <= max(np.mean(before_errors) + 0.01, 0.12 if shots == 1 else 0.08)


def random_problem(rng):
    """Return a small problem of any kind: noise or classes, copies, one row, imbalance, a class without a row."""
    n_classes, d = int(rng.integers(2, 7)), int(rng.integers(2, 65))
    with_text = bool(rng.integers(2))
    counts = rng.integers(1, 1 + int(rng.choice([1, 2, 3, 9])), size=n_classes)
    if with_text and rng.integers(2):
        counts[rng.integers(n_classes)] = 0
    y = np.repeat(np.arange(n_classes), counts)
    base = rng.normal(size=d) * rng.choice([0, 1, 30])
    centres = rng.normal(size=(n_classes, d)) * rng.choice([0, 1, 10])
    X = base + centres[y] + rng.normal(size=(len(y), d)) * rng.choice([1e-9, 1e-3, 1])
    if rng.integers(3) == 0:
        X = X[rng.integers(len(X), size=len(X))]  # copies, some under other labels
    text = base + centres * rng.integers(2) + rng.normal(size=(n_classes, d)) if with_text else None
    order = rng.permutation(len(y))
    return X[order].astype(rng.choice([np.float32, np.float64])), y[order], text, base + rng.normal(size=(5, d))


@pytest.mark.parametrize("part", range(50 if LONG else 2))
def test_any_small_problem_ends_in_probabilities(part):
    """Auto gives finite probabilities on 200 random problems; on 5,000 with CAFE_LONG_TESTS=1."""
    for seed in range(100):
        X, y, text, queries = random_problem(np.random.default_rng([part, seed]))
        scale = (1.0, 20.0, 100.0)[seed % 3]
        # Few steps are enough for what is checked; every tenth problem is fitted in a hundred.
        model = Auto(text, steps=100 if seed % 10 == 0 else 5, logit_scale=scale, random_state=0)
        try:
            model.fit(X, y)
        except InputError as error:
            assert "length zero" in str(error)
            continue
        p = model.predict_proba(queries.astype(X.dtype))
        assert p.dtype == X.dtype
        assert np.isfinite(p).all(), (part, seed)
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
        assert set(model.predict(X)) <= set(model.classes_)
        assert all(np.isfinite(v) and v >= 0 for v in model.mixture_.values()), (part, seed)


def test_two_classes_of_two_noisy_rows_are_told_apart():
    """Stacking once gave no part any weight on such rows, so that every class was as likely."""
    rng = np.random.default_rng(1)
    base = rng.normal(size=64)
    model = Auto(random_state=0).fit(base + rng.normal(size=(4, 64)), [0, 1, 0, 1])
    p = model.predict_proba(base + rng.normal(size=(50, 64)))
    assert np.ptp(p[:, 0]) > 0.01
    assert len(set(p.argmax(axis=1))) == 2


@pytest.mark.parametrize("counts", [(1, 1), (2, 2), (1, 5), (9, 1, 0), (3, 3, 0)])
def test_every_shape_of_a_task_runs(counts):
    """Two classes, one shot, classes without a row, and unequal ones."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(len(counts)), counts)
    centres = np.eye(len(counts), 8)
    X = centres[y] + 0.1 * rng.normal(size=(len(y), 8))
    model = Auto(centres, logit_scale=10.0, random_state=0).fit(X, y)
    assert np.mean(model.predict(X) == y) > 0.9
    assert np.isfinite(model.logits(X)).all()
    assert model.predict(centres).tolist() == list(range(len(counts)))  # the class without a row as well


def test_bad_parameters():
    X, y, text, _, _ = made(2, 0.5, 0.5)
    with pytest.raises(InputError, match="folds"):
        Auto(text, folds=1).fit(X, y)
