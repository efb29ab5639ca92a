"""TIMO's weights of templates in zero-shot and gda, against their equation in float64."""

import numpy as np
import pytest
from made_up_rows import unit

from cafe import GDA, ZeroShot, fit_many
from cafe.errors import InputError
from cafe.prompts import class_embeddings
from cafe.runs import load, save


@pytest.fixture
def problem():
    rng = np.random.default_rng(3)
    base = rng.normal(size=(4, 9))
    y = np.array([0, 0, 1, 1, 1, 3, 3, 3])
    templates = 3 * base + 2 * rng.normal(size=(5, 4, 9))
    return base[y] + 0.5 * rng.normal(size=(8, 9)), y, templates, rng.normal(size=(6, 9))


def derived(X, y, templates, gamma):
    """Class by class, template by template."""
    embeddings = []
    for k in range(templates.shape[1]):
        mean = unit(X)[y == k].mean(axis=0) if (y == k).any() else np.zeros(X.shape[1])
        mean = mean / max(np.linalg.norm(mean), 1e-300)
        scores = np.array([gamma * unit(template[k]) @ mean for template in templates])
        weights = np.exp(scores) / np.exp(scores).sum()
        embeddings.append(unit(sum(w * unit(template[k]) for w, template in zip(weights, templates, strict=True))))
    return np.stack(embeddings)


@pytest.mark.parametrize("gamma", [0.0, 7.0, 50.0])
def test_zero_shot_is_the_weighted_text(problem, gamma):
    X, y, templates, queries = problem
    text = class_embeddings(templates)
    model = ZeroShot(text, template_weights="timo", text_features=templates, template_gamma=gamma).fit(X, y)
    expected = 100 * unit(queries) @ derived(X, y, templates, gamma).T
    np.testing.assert_allclose(model.logits(queries), expected, rtol=1e-10)
    if gamma == 0:
        np.testing.assert_allclose(model.logits(queries), ZeroShot(text).fit(X, y).logits(queries), rtol=1e-5)


def test_gda_adds_its_gaussians_to_the_weighted_text(problem):
    X, y, templates, queries = problem
    text = class_embeddings(templates)
    plain = GDA(text).fit(X, y)
    timo, again = fit_many(X, y, [GDA(text, template_weights="timo", text_features=templates), GDA(text)])
    change = 100 * unit(queries) @ (derived(X, y, templates, 50.0) - unit(text)).T
    np.testing.assert_allclose(timo.logits(queries) - plain.logits(queries), change, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(again.logits(queries), plain.logits(queries))


def test_prompts_written_per_class_are_weighted_alike(problem):
    X, y, templates, queries = problem
    text, shuffle = class_embeddings(templates), np.random.default_rng(0).permutation(20)
    prompts, owners = templates.reshape(20, 9)[shuffle], np.tile(np.arange(4), 5)[shuffle]
    a = ZeroShot(text, template_weights="timo", text_features=templates).fit(X, y)
    b = ZeroShot(text, template_weights="timo", text_features=prompts, prompt_classes=owners).fit(X, y)
    np.testing.assert_allclose(b.logits(queries), a.logits(queries), rtol=1e-10)


def test_weighted_text_is_saved_and_other_classes_are_unweighted(problem, tmp_path):
    X, y, templates, queries = problem
    text = class_embeddings(templates)
    model = ZeroShot(text, template_weights="timo", text_features=templates).fit(X, y)
    save(model, tmp_path / "run")
    np.testing.assert_array_equal(load(tmp_path / "run").logits(queries), model.logits(queries))
    moved = model.for_classes(text[:2]).logits(queries)
    np.testing.assert_allclose(moved, ZeroShot(text[:2]).fit(X[:2], [0, 1]).logits(queries), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:overflow")
def test_extreme_rows_stay_finite(problem):
    X, y, templates, queries = problem
    odd = np.concatenate([X, np.zeros((1, 9)), np.full((1, 9), 1e20)]).astype(np.float32)
    for method in (ZeroShot, GDA):
        model = method(class_embeddings(templates), template_weights="timo", text_features=1e-20 * templates)
        model.set_params(template_gamma=1e6).fit(odd, [*y, 2, 1])
        assert np.isfinite(model.predict_proba(queries.astype(np.float32))).all()


@pytest.mark.parametrize("method", [ZeroShot, GDA])
def test_bad_templates_are_told_in_a_sentence(problem, method):
    X, y, templates, _ = problem
    text = class_embeddings(templates)
    cases = [
        ({}, "needs text_features"),
        ({"text_features": templates[:, :3]}, r"must be \(templates, 4, 9\), but its shape is \(5, 3, 9\)"),
        ({"text_features": templates[0]}, "give prompt_classes too"),
        ({"text_features": templates[0], "prompt_classes": [0, 1, 2, 2]}, "name each of the 4 classes"),
        ({"text_features": templates[0], "prompt_classes": [0, 1]}, r"\(prompts, 9\)"),
        ({"text_features": templates[:1]}, "every class has one; extract with several"),
        ({"text_features": templates[0], "prompt_classes": [0, 1, 2, 3]}, "every class has one; extract with several"),
        ({"text_features": 0 * templates}, "finite and not zero"),
        ({"text_features": templates, "template_gamma": -1}, "template_gamma"),
    ]
    for parameters, words in cases:
        with pytest.raises(InputError, match=words):
            method(text, template_weights="timo", **parameters).fit(X, y)
    with pytest.raises(InputError, match="did you mean 'timo'"):
        method(text, template_weights="time").fit(X, y)
    with pytest.raises(InputError, match="this data has no text"):
        method(template_weights="timo").fit(X, y)
