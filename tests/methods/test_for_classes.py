"""Scoring classes that were never trained on: possible where no weight belongs to a class, refused elsewhere."""

import numpy as np
import pytest

from cafe import CLIPAdapter, LinearProbe, TipAdapter, ZeroShot
from cafe.errors import InputError


def problem(seed=0):
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(5, 12))
    y = np.arange(24) % 3
    return text[y] + 0.5 * rng.normal(size=(24, 12)), y, text


def test_zero_shot_over_other_classes_is_zero_shot_made_for_them():
    X, y, text = problem()
    moved = ZeroShot(text[:3]).fit(X, y).for_classes(text[3:])
    made = ZeroShot(text[3:]).fit(X[:2], [0, 1])
    np.testing.assert_allclose(moved.predict_proba(X), made.predict_proba(X))
    assert moved.classes_.tolist() == [0, 1]


@pytest.mark.parametrize("variant", ["image", "text", "both"])
@pytest.mark.parametrize("ratio", [0.3, "scalar", "learned"])
def test_adapters_over_their_own_classes_are_unchanged(variant, ratio):
    X, y, text = problem()
    model = CLIPAdapter(text[:3], variant=variant, alpha=ratio, beta=ratio, epochs=5, random_state=0).fit(X, y)
    np.testing.assert_allclose(model.for_classes(text[:3]).logits(X), model.logits(X), rtol=1e-12)


def test_adapted_text_of_new_classes_is_the_equation():
    """W* = beta ReLU(W W1) W2 + (1 - beta) W on unit-length rows, from the fitted weights, written out."""
    X, y, text = problem()
    model = CLIPAdapter(text[:3], variant="text", beta=0.4, epochs=5, random_state=0, dtype="float64").fit(X, y)
    W = text[3:] / np.linalg.norm(text[3:], axis=1, keepdims=True)
    adapted = 0.4 * np.maximum(W @ model.parameters_["text_down"], 0) @ model.parameters_["text_up"] + 0.6 * W
    f = X / np.linalg.norm(X, axis=1, keepdims=True)
    expected = 100 * f @ (adapted / np.linalg.norm(adapted, axis=1, keepdims=True)).T
    np.testing.assert_allclose(model.for_classes(text[3:]).logits(X), expected, rtol=1e-10)


def test_weights_that_belong_to_classes_cannot_move():
    X, y, text = problem()
    for model in (LinearProbe(text[:3], C=1.0), TipAdapter(text[:3])):
        with pytest.raises(InputError, match="belong to the classes it was trained on"):
            model.fit(X, y).for_classes(text[3:])


def test_embeddings_of_another_width_are_refused():
    X, y, text = problem()
    with pytest.raises(InputError, match="12"):
        ZeroShot(text[:3]).fit(X, y).for_classes(text[3:, :4])


def test_two_automatic_ratios_are_chosen_one_after_the_other():
    tried = []

    def score(candidates):
        tried.extend((c.alpha, c.beta) for c in candidates)
        return [-abs(c.alpha - 0.7) - abs(c.beta - 0.4) for c in candidates]

    chosen = CLIPAdapter(variant="both", alpha="auto", beta="auto").search(score)
    assert (chosen.alpha, chosen.beta) == (0.7, 0.4)
    assert len(tried) == 18
    assert {beta for _, beta in tried[:9]} == {0.2} and {alpha for alpha, _ in tried[9:]} == {0.7}


def test_class_means_are_shared_by_fits_on_the_same_rows_only(monkeypatch):
    from cafe.methods import fit_many
    from cafe.methods.inputs import problem as room

    X, y, _ = problem(seed=3)
    calls = []
    real = room.check_arrays
    monkeypatch.setattr(room, "check_arrays", lambda *given: calls.append(len(given[2])) or real(*given))
    rows = [np.arange(12), np.arange(12), np.arange(12, 24)]
    fits = fit_many(X, y, [CLIPAdapter(alpha=a, epochs=2, random_state=0) for a in (0.2, 0.6, 0.2)], rows)
    assert calls == [12, 12]
    for fit, own in zip(fits, rows, strict=True):
        single = CLIPAdapter(alpha=fit.alpha, epochs=2, random_state=0).fit(X[own], y[own])
        np.testing.assert_allclose(fit.logits(X), single.logits(X), rtol=1e-4, atol=1e-3)
