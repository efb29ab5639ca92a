"""Each method against an independent float64 derivation, a few lines written from its equation."""

import numpy as np
import pytest
from made_up_rows import rows_around_text, unit

from cafe import CLIPAdapter, LinearProbe, TipAdapter, ZeroShot
from cafe.errors import InputError


@pytest.fixture
def problem():
    return rows_around_text([0, 0, 1, 1, 3, 3, 3])


def test_zero_shot_is_the_scaled_cosine(problem):
    X, y, text, queries = problem
    expected = 30 * unit(queries) @ unit(text).T
    np.testing.assert_allclose(ZeroShot(text, logit_scale=30.0).fit(X, y).logits(queries), expected, rtol=1e-12)


def test_tip_adapter_is_its_equation(problem):
    X, y, text, queries = problem
    expected = 100 * unit(queries) @ unit(text).T
    for q in range(5):
        for key, label in zip(unit(X), y, strict=True):
            expected[q, label] += 2.0 * np.exp(-3.0 * (1 - unit(queries)[q] @ key))
    model = TipAdapter(text, alpha=2.0, beta=3.0).fit(X, y)
    np.testing.assert_allclose(model.logits(queries), expected, rtol=1e-10)


def test_linear_probe_is_scikit_learns(problem):
    from sklearn.linear_model import LogisticRegression

    X, y, text, queries = problem
    expected = LogisticRegression(C=5.0, max_iter=1000, tol=1e-10).fit(unit(X), y).predict_proba(unit(queries))
    for solver, accuracy in (("torch", 1e-4), ("scikit-learn", 1e-3)):
        probabilities = LinearProbe(text, C=5.0, solver=solver).fit(X, y).predict_proba(queries)
        np.testing.assert_allclose(probabilities[:, [0, 1, 3]], expected, rtol=accuracy)
    assert (probabilities[:, 2] == 0).all()


def test_linear_probe_on_two_classes_keeps_probabilities(problem):
    from sklearn.linear_model import LogisticRegression

    X, y, _, queries = problem
    two = y < 2
    expected = LogisticRegression(C=5.0, tol=1e-10).fit(unit(X[two]), y[two]).predict_proba(unit(queries))
    probabilities = LinearProbe(C=5.0).fit(X[two], y[two]).predict_proba(queries)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)


@pytest.mark.parametrize("variant", ["image", "text", "both"])
@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("normalize", [True, False])
def test_clip_adapter_inference_is_its_equation(problem, variant, form, normalize):
    X, y, text, queries = problem
    model = CLIPAdapter(
        text, variant=variant, form=form, alpha=0.3, beta=0.6, normalize=normalize, epochs=20, random_state=0
    ).fit(X, y)
    f, w = (unit(queries), unit(text)) if normalize else (queries, text)

    def adapter(x, side):
        out = np.maximum(x @ model.parameters_[f"{side}_down"], 0) @ model.parameters_[f"{side}_up"]
        return np.maximum(out, 0) if form == "released" else out

    if variant != "text":
        f = 0.3 * adapter(f, "image") + 0.7 * f
    if variant != "image":
        w = 0.6 * adapter(w, "text") + 0.4 * w
    np.testing.assert_allclose(model.logits(queries), 100 * unit(f) @ unit(w).T, rtol=1e-5)


@pytest.mark.parametrize("variant", ["image", "text", "both"])
def test_ratio_zero_is_zero_shot_exactly(problem, variant):
    X, y, text, queries = problem
    model = CLIPAdapter(text, variant=variant, alpha=0.0, beta=0.0, epochs=3, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.logits(queries), ZeroShot(text).fit(X, y).logits(queries))


@pytest.mark.parametrize("reduction", [1, 2, 4, 8, 16, 32])
def test_bottleneck_width(problem, reduction):
    X, y, text, _ = problem
    model = CLIPAdapter(text, reduction=reduction, epochs=1, random_state=0).fit(X, y)
    assert model.parameters_["image_down"].shape == (9, max(1, 9 // reduction))


def test_training_lowers_the_loss_and_the_default_recipe_counts_steps(problem):
    X, y, text, _ = problem
    y = y[::-1]  # zero-shot is wrong about these
    long = CLIPAdapter(text, random_state=0).fit(X, y)
    short = CLIPAdapter(text, epochs=1, random_state=0).fit(X, y)
    assert long.loss_ < short.loss_
    assert long.n_steps_ == 313


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 2, 2), (1, 3, 2), (40, 40, 40)])
def test_the_default_decay_follows_what_text_says_of_the_rows(problem, counts):
    _, _, text, _ = problem
    text = text[: len(counts)]
    y = np.repeat(np.arange(len(counts)), counts)
    shots = len(y) / len(counts)
    for labels, right in ((y, len(y)), ((y + 1) % len(counts), 0)):
        fit = CLIPAdapter(text, epochs=1, random_state=0).fit(text[labels], y)
        assert fit.weight_decay_ == pytest.approx(min(100, 10 * (right + 1) / (len(y) - right + 1) / shots))
    assert CLIPAdapter(epochs=1, random_state=0).fit(text[y], y).weight_decay_ == pytest.approx(10 / shots)


def test_text_that_is_always_right_leaves_zero_shot(problem):
    """The decay stays below what an optimiser's step can bear, whatever the number of rows."""
    rng = np.random.default_rng(0)
    text = np.eye(40)
    y = np.repeat(np.arange(40), 8)
    X = text[y] + 0.05 * rng.normal(size=(len(y), 40))
    model = CLIPAdapter(text, random_state=0).fit(X, y)
    assert model.weight_decay_ == 100
    assert np.isfinite(model.predict_proba(X)).all()
    assert model.score(X, y) == 1


def test_what_is_given_goes_before_the_default_recipe(problem):
    X, y, text, _ = problem
    given = CLIPAdapter(text, epochs=2, weight_decay=0.5, batch_size=4, random_state=0).fit(X, y)
    assert (given.n_steps_, given.weight_decay_) == (int(np.ceil(2 * len(y) / 4)), 0.5)
    # The released configuration's; as an L2 penalty, 10 would leave nothing.
    assert CLIPAdapter(text, optimizer="sgd", random_state=0).fit(X[:3], y[:3]).weight_decay_ == 5e-4
    with pytest.raises(InputError, match="weight_decay of clip-adapter must be a number, at least 0"):
        CLIPAdapter(text, weight_decay=-1.0).fit(X, y)


@pytest.mark.parametrize("mode", ["scalar", "learned"])
def test_trained_ratios_start_at_the_default_and_move(problem, mode):
    X, y, text, queries = problem
    model = CLIPAdapter(text, variant="both", alpha=mode, beta=mode, random_state=0)
    y = y[::-1]  # zero-shot is wrong about these, so there is something to learn
    start = model.set_params(lr=0.0, epochs=1).fit(X, y)
    np.testing.assert_allclose(start.ratios(queries), 0.2, rtol=1e-6)
    moved = model.set_params(lr=1e-2, epochs=200).fit(X, y)
    assert np.abs(moved.ratios(queries) - 0.2).max() > 0.01


def test_learned_ratio_depends_on_the_image_and_on_the_classes(problem):
    X, y, text, queries = problem
    y = y[::-1]  # zero-shot is wrong about these, so there is something to learn
    model = CLIPAdapter(text, alpha="learned", lr=1e-2, epochs=200, random_state=0).fit(X, y)
    ratios = model.ratios(unit(queries))
    assert ratios.shape == (5, 1)
    assert np.ptp(ratios) > 1e-4
    model.class_embeddings_ = model.class_embeddings_[::-1] * [[1], [1], [1], [-2]]
    assert np.abs(model.ratios(unit(queries)) - ratios).max() > 1e-6


def test_auto_ratio_is_chosen_on_training_rows(problem):
    _, _, text, _ = problem
    rng = np.random.default_rng(0)
    y = np.arange(24) % 4
    X = text[y] + 0.5 * rng.normal(size=(24, 9))
    model = CLIPAdapter(text, alpha="auto", epochs=20, random_state=0).fit(X, y)
    assert model.selection_["policy"] == "cross-validation"
    assert model.selection_["candidates"] == 9
    assert model.alpha_ == model.selection_["chosen"]["alpha"]
    alone = CLIPAdapter(text, alpha="auto", epochs=20, random_state=0).fit(X[:4], y[:4])
    assert (alone.alpha_, alone.selection_["policy"]) == (0.2, "fixed")
    assert "at least two training rows" in alone.selection_["note"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"alpha": 1.2}, "from 0 to 1"),
        ({"alpha": -0.1}, "from 0 to 1"),
        ({"beta": "much"}, "from 0 to 1"),
        ({"variant": "images"}, "did you mean 'image'"),
        ({"form": "code"}, "unknown form"),
        ({"kernel": "tritn"}, "unknown kernel"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"reduction": 0}, "at least 1"),
        ({"epochs": 0}, "above 0"),
        ({"dtype": "float31"}, "did you mean 'float32'"),
        ({"device": "cuda:9"}, "not here"),
        ({"device": "gpu"}, "unknown device"),
        ({"random_state": "one"}, "must be an integer"),
    ],
)
def test_bad_parameters_of_clip_adapter(problem, parameters, words):
    X, y, text, _ = problem
    with pytest.raises(InputError, match=words):
        CLIPAdapter(text, **parameters).fit(X, y)


@pytest.mark.parametrize("mode", ["scalar", "learned"])
def test_weight_decay_pulls_trained_ratios_to_the_default(problem, mode):
    X, y, text, queries = problem
    strong = CLIPAdapter(text, alpha=mode, lr=1e-2, weight_decay=50.0, epochs=200, random_state=0).fit(X, y[::-1])
    np.testing.assert_allclose(strong.ratios(queries), 0.2, atol=5e-3)


def test_parameters_of_the_contract_have_their_names_and_defaults():
    """Word for word from the contract (DESIGN section 4); scripts rely on them."""
    fixed = {"class_embeddings": None, "variant": "image", "alpha": 0.2, "beta": 0.2, "reduction": 4}
    fixed |= {"form": "paper", "logit_scale": 100.0, "classes": None, "normalize": True, "kernel": "auto"}
    parameters = CLIPAdapter().get_params()
    assert {name: parameters[name] for name in fixed} == fixed
    assert parameters["device"] == "auto" and parameters["epochs"] is None
    assert {"batch_size", "lr", "optimizer", "weight_decay", "dtype", "random_state"} <= set(parameters)
