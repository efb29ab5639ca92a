"""auto: the mixture is its formula, the choice rests on held-out rows, and noise ends at zero-shot."""

import numpy as np
import pytest

from cafe import GDA, Auto, TaskRes, ZeroShot
from cafe.errors import InputError
from cafe.evaluation.metrics import expected_calibration_error
from cafe.methods.mixture.experts import HeldOut, fit_experts, fold_rows, held_out_scores
from cafe.methods.mixture.gaussians import fit_gaussian, held_out_logits
from cafe.methods.mixture.weights import losses, one_shot_mixture, pick_mixture, stack, units

SETTINGS = {"steps": 20, "logit_scale": 30.0, "device": "auto", "dtype": "float64", "random_state": 0}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def made(shots, noise, text_noise, seed=0, n_classes=6, d=24):
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(n_classes, d)))

    def draw(per_class):
        y = np.arange(n_classes * per_class) % n_classes
        return centres[y] + noise / np.sqrt(d) * rng.normal(size=(len(y), d)), y

    text = centres + text_noise / np.sqrt(d) * rng.normal(size=(n_classes, d))
    return *draw(shots), text, *draw(100)


def test_the_mixture_is_its_formula():
    X, y, text, queries, _ = made(4, 0.5, 0.5)
    X, queries, text = unit(X), unit(queries), unit(text)
    experts = fit_experts(X, y, text, SETTINGS)
    weights, offset = experts.merged(np.array([0.6, 0.4, 0.2, 0.0]))
    w = TaskRes(text, epochs=20, batch_size=24, logit_scale=30.0, dtype="float64", random_state=0).fit(X, y).weights_
    gaussian = GDA(text, alpha=1.0).fit(X, y).logits(queries) - ZeroShot(text).fit(X, y).logits(queries)
    expected = 30 * (0.6 * queries @ text.T + 0.4 * queries @ unit(w).T) + 0.2 * (gaussian + np.log(6))
    np.testing.assert_allclose(queries @ weights.T + offset, expected, rtol=1e-9, atol=1e-9)
    parts = experts.logits(queries)
    np.testing.assert_allclose(np.tensordot([0.6, 0.4, 0.2, 0.0], parts, 1), expected, rtol=1e-9, atol=1e-9)


def test_a_fit_predicts_what_its_mixture_says():
    X, y, text, queries, _ = made(4, 0.5, 0.5)
    model = Auto(text, logit_scale=30.0, dtype="float64", random_state=0).fit(X, y)
    experts = fit_experts(unit(X), y, unit(text), {**SETTINGS, "steps": 100})
    expected = np.tensordot(list(model.mixture_.values()), experts.logits(unit(queries)), 1)
    np.testing.assert_allclose(model.logits(queries), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("about_classes", [True, False])
def test_a_row_left_out_is_scored_as_by_a_model_that_never_had_it(about_classes):
    """The covariance is taken anew without the row; its ridge stays that of all rows, as documented."""
    rng = np.random.default_rng(0)
    X, y = unit(rng.normal(size=(12, 7))), np.arange(12) % 3
    folds = fold_rows(y, 4, 0)
    found = held_out_logits(fit_gaussian(X, y, 3, about_classes), X, y, folds)

    def residuals(rows):
        own = np.stack([X[rows][y[rows] == c].mean(axis=0) for c in range(3)])
        return X[rows] - (own[y[rows]] if about_classes else X[rows].mean(axis=0))

    ridge = np.square(residuals(np.arange(12))).sum() / 11
    expected = []
    for kept, held in folds:
        means = np.stack([X[kept][y[kept] == c].mean(axis=0) for c in range(3)])
        for i in held:
            r = residuals(np.delete(np.arange(12), i))
            P = 7 * np.linalg.inv(r.T @ r + ridge * np.eye(7))
            expected.append(X[i] @ P @ means.T - np.diag(means @ P @ means.T) / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


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
    scores = held_out_scores(X, y, text, 6, 4, SETTINGS)
    assert scores.logits.shape == (4, 60, 6)
    for expert in scores.logits[1:]:
        assert np.mean(expert.argmax(axis=1) == scores.labels) < 0.4
    own = fit_experts(X, y, text, SETTINGS).logits(X)
    assert all(np.mean(expert.argmax(axis=1) == y) > 0.8 for expert in own[2:])


def test_without_text_each_fold_has_its_own_means():
    rng = np.random.default_rng(0)
    X, y = unit(rng.normal(size=(6, 48))), np.arange(6) % 3
    scores = held_out_scores(X, y, None, 3, 4, SETTINGS)
    # Two rows per class: the mean of what is kept is the other row, whichever is held out.
    cosines = 30 * X @ X.T
    other = {frozenset(np.round(row, 4)) for row in (cosines[i, cosines[i] < 29.9] for i in range(6))}
    assert len(scores.labels) == 6
    for row in scores.logits[0].astype(np.float64):
        assert any(set(np.round(row, 4)) <= seen for seen in other)


def test_one_shot_has_no_evidence():
    X, y, text, _, _ = made(1, 0.5, 0.5)
    assert held_out_scores(unit(X), y, unit(text), 6, 4, SETTINGS) is None
    model = Auto(text, random_state=0).fit(X, y)
    assert model.evidence_ == {"held_out": 0}
    shares = [model.mixture_[name] for name in ("text", "within")]
    assert shares == [0.4, 0.0]
    assert model.mixture_["residual"] > 0
    assert model.mixture_["total"] > 0


def test_units_make_experts_spread_alike_beside_their_own_class():
    rng = np.random.default_rng(0)
    y = rng.integers(5, size=50)
    z = rng.normal(size=(50, 5))
    loud = 7 * z + 3
    found = units(np.stack([z, loud, np.zeros_like(z)]), y)
    np.testing.assert_allclose(found, [1, 1 / 7, 0], rtol=1e-9)
    np.testing.assert_allclose(one_shot_mixture(np.stack([z, z, 0 * z, loud]), y, True), [0.4, 0.6, 0, 0.2 / 7])


def test_stacking_ends_where_no_direction_lowers_its_loss():
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=80)
    experts = np.stack([scale * np.eye(4)[y] + rng.normal(size=(80, 4)) for scale in (2, 1, 0, -2)])
    centre = np.full(4, 1 / 3)

    def loss(v):
        return losses(np.tensordot(v, experts, 1), y).sum() + 5.0 * np.square(v - centre).sum() / 2

    found = stack(experts, y, centre, 5.0)
    assert found[0] > found[1] > 0
    assert found[3] == 0
    for e in range(4):
        up, down = (loss(found + sign * 1e-3 * np.eye(4)[e]) for sign in (1, -1))
        assert up >= loss(found) - 1e-6
        assert found[e] == 0 or down >= loss(found) - 1e-6


def test_an_expert_that_knows_gets_the_weight():
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    knows, guesses = 2 * np.eye(4)[y] + rng.normal(size=(400, 4)), rng.normal(size=(3, 400, 4))
    for place in range(4):
        logits = np.insert(guesses, place, knows, axis=0)
        mixture, evidence = pick_mixture(HeldOut(logits, y, 8.0), True)
        assert mixture.argmax() == place
        # Within a standard error of the difference, which is about a point here.
        assert evidence["accuracy"] >= evidence["zero_shot_accuracy"] - 0.01


def test_zero_shot_is_taken_where_the_mixture_is_clearly_less_accurate():
    """Just above one shot it is the equal mixture, whatever the rows say; three wrong experts outvote the text."""
    rng = np.random.default_rng(0)
    y = np.arange(100) % 4
    text = np.eye(4)[y] + 0.1 * rng.normal(size=(100, 4))
    wrong = np.eye(4)[(y + 1) % 4] + 0.1 * rng.normal(size=(3, 100, 4))
    mixture, evidence = pick_mixture(HeldOut(np.stack([text, *wrong]), y, 1.05), True)
    assert mixture.tolist() == [1, 0, 0, 0]
    assert evidence["accuracy"] == evidence["zero_shot_accuracy"]


def test_losses_are_negative_log_probabilities():
    z, y = np.random.default_rng(0).normal(size=(7, 3)) * 50, np.arange(7) % 3
    p = np.exp(z - z.max(axis=1, keepdims=True))
    np.testing.assert_allclose(losses(z, y), -np.log((p / p.sum(axis=1, keepdims=True))[np.arange(7), y]), rtol=1e-9)


@pytest.mark.parametrize(("noise", "text_noise"), [(0.7, 0.1), (0.7, 2.0), (2.5, 0.2)])
def test_not_worse_than_zero_shot_and_calibrated(noise, text_noise):
    X, y, text, queries, labels = made(8, noise, text_noise)
    model = Auto(text, logit_scale=20.0, random_state=0).fit(X, y)
    plain = ZeroShot(text, logit_scale=20.0).fit(X, y)
    correct, before = model.predict(queries) == labels, plain.predict(queries) == labels
    error = np.std(correct.astype(float) - before) / np.sqrt(len(labels))
    assert correct.mean() >= before.mean() - max(0.003, error)
    # 48 held-out rows give the scale to about a fifth: 0.1 of error where accuracy is a half.
    assert expected_calibration_error(model.predict_proba(queries), labels) < 0.1


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


def test_bad_parameters():
    X, y, text, _, _ = made(2, 0.5, 0.5)
    with pytest.raises(InputError, match="folds"):
        Auto(text, folds=1).fit(X, y)
