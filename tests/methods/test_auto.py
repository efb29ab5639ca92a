"""auto: the mixture is its formula, the choice rests on held-out rows, and noise ends at zero-shot."""

import numpy as np
import pytest

from cafe import GDA, Auto, TaskRes, ZeroShot
from cafe.errors import InputError
from cafe.methods.auto_parts import HeldOut, Mixture, fit_experts, held_out_scores, losses, pick_mixture
from cafe.metrics import expected_calibration_error

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
    weights, offset = experts.merged(Mixture(0.4, 0.2, 1.3))
    w = TaskRes(text, epochs=20, batch_size=24, logit_scale=30.0, dtype="float64", random_state=0).fit(X, y).weights_
    gaussian = GDA(text, alpha=1.0).fit(X, y).logits(queries) - ZeroShot(text).fit(X, y).logits(queries)
    expected = 1.3 * (30 * (0.6 * queries @ text.T + 0.4 * queries @ unit(w).T) + 0.2 * gaussian)
    np.testing.assert_allclose(queries @ weights.T + offset, expected, rtol=1e-9, atol=1e-9)


def test_held_out_rows_are_scored_by_experts_that_did_not_see_them():
    """With labels that say nothing, Gaussians know their own rows by heart and held-out rows not at all."""
    rng = np.random.default_rng(0)
    X, text, y = unit(rng.normal(size=(60, 48))), unit(rng.normal(size=(6, 48))), np.arange(60) % 6
    scores = held_out_scores(X, y, text, 4, SETTINGS)
    assert len(scores.labels) == 60
    assert np.mean(scores.gaussian.argmax(axis=1) == scores.labels) < 0.4
    experts = fit_experts(X, y, text, SETTINGS)
    assert np.mean((X @ experts.gaussian.T + experts.offset).argmax(axis=1) == y) > 0.8


def test_without_text_each_fold_has_its_own_means():
    rng = np.random.default_rng(0)
    X, y = unit(rng.normal(size=(6, 48))), np.arange(6) % 3
    scores = held_out_scores(X, y, None, 4, SETTINGS)
    # Two rows per class: the mean of what is kept is the other row, whichever is held out.
    cosines = 30 * X @ X.T
    other = {frozenset(np.round(row, 6)) for row in (cosines[i, cosines[i] < 29.9] for i in range(6))}
    assert len(scores.labels) == 6
    for row in scores.text:
        assert any(set(np.round(row, 6)) <= seen for seen in other)


def test_one_shot_has_no_evidence():
    X, y, text, _, _ = made(1, 0.5, 0.5)
    assert held_out_scores(X, y, text, 4, SETTINGS) is None
    model = Auto(text, random_state=0).fit(X, y)
    assert model.evidence_ == {"held_out": 0}
    assert (model.rho_, model.alpha_, model.tau_) == (0.5, 0.0, 1.0)


def test_an_expert_that_knows_is_taken_and_one_that_guesses_is_not():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4
    knows, guesses = 4 * np.eye(4)[y] + rng.normal(size=(200, 4)), 4 * rng.normal(size=(200, 4))
    mixture, _ = pick_mixture(HeldOut(guesses, knows, guesses, y))
    assert (mixture.rho, mixture.alpha) == (1.0, 0.0)
    mixture, evidence = pick_mixture(HeldOut(knows, guesses, guesses, y))
    assert (mixture.rho, mixture.alpha) == (0.0, 0.0)
    assert evidence["accuracy"] == evidence["zero_shot_accuracy"]
    mixture, evidence = pick_mixture(HeldOut(guesses, guesses, 10 * knows, y))
    assert mixture.alpha > 0
    assert evidence["accuracy"] > evidence["zero_shot_accuracy"]


def test_no_choice_is_less_accurate_than_zero_shot_on_the_held_out_rows():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = np.arange(40) % 4
        experts = [rng.uniform(0, 3) * np.eye(4)[y] + rng.normal(size=(40, 4)) for _ in range(3)]
        scores = HeldOut(*experts, y)
        mixture, _ = pick_mixture(scores)
        chosen = np.mean(scores.logits(mixture.rho, mixture.alpha).argmax(axis=1) == y)
        assert chosen >= np.mean(experts[0].argmax(axis=1) == y)


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
    # 48 held-out rows give the temperature to about a fifth: 0.1 of error where accuracy is a half.
    assert expected_calibration_error(model.predict_proba(queries), labels) < 0.1


def test_bad_parameters():
    X, y, text, _, _ = made(2, 0.5, 0.5)
    with pytest.raises(InputError, match="folds"):
        Auto(text, folds=1).fit(X, y)
