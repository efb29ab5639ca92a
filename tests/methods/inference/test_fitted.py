"""A fitted method read from a run: what the contract test of all methods does not vary."""

import json

import numpy as np
import pytest

import cafe
from cafe.errors import InputError
from cafe.kernels import reference
from cafe.methods import make_method, method_names
from cafe.methods.inference import scores
from cafe.methods.inference.fitted import FittedMethod
from cafe.runs import load, load_to_predict, save, state_sha256


def problem(d=12, seed=0):
    generator = np.random.default_rng(seed)
    text = generator.normal(size=(4, d)).astype(np.float32)
    y = np.arange(24) % 4
    return (text[y] + 0.6 * generator.normal(size=(24, d))).astype(np.float32), y, text


def reread(fitted, folder):
    save(fitted, folder)
    light = load_to_predict(folder)
    assert type(light) is FittedMethod
    return light


@pytest.mark.parametrize("variant", ["image", "text", "both"])
@pytest.mark.parametrize("ratio", [0.4, "scalar", "learned"])
@pytest.mark.parametrize("form", ["paper", "released"])
def test_every_form_of_the_adapter(tmp_path, variant, ratio, form):
    X, y, text = problem()
    fitted = cafe.CLIPAdapter(text, variant=variant, alpha=ratio, beta=ratio, form=form, random_state=0).fit(X, y)
    assert np.array_equal(reread(fitted, tmp_path).logits(X), fitted.logits(X))


@pytest.mark.parametrize("bias", np.linspace(-1, 1, 9, dtype=np.float32))
def test_a_trained_number_is_the_same_ratio_after_it_was_saved(bias):
    """Its sigmoid in float32 was not always that in float64, rounded."""
    saved = scores.trained_ratio({"alpha_bias": float(bias)}, "alpha")
    assert scores.trained_ratio({"alpha_bias": np.asarray(bias)}, "alpha") == saved


def test_before_the_projection(tmp_path):
    X, y, text = problem()
    projection = np.random.default_rng(1).normal(size=(12, 12)).astype(np.float32)
    fitted = cafe.ProLIP(text, projection=projection, random_state=0).fit(X, y)
    assert np.array_equal(reread(fitted, tmp_path).logits(X), fitted.logits(X))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", sorted(scores.SCORES.keys() - {"coop"}))
def test_class_means_and_rows_as_they_are(tmp_path, name, normalize):
    X, y, _ = problem()
    fitted = make_method(name, normalize=normalize).fit(X, y)
    light = reread(fitted, tmp_path)
    assert np.array_equal(light.logits(X), fitted.logits(X))
    whole = light.estimator()
    assert type(whole) is type(fitted)
    assert np.array_equal(whole.logits(X), fitted.logits(X))
    assert state_sha256(whole) == state_sha256(light) == state_sha256(load(tmp_path))


def test_rows_that_cannot_be_scored(tmp_path):
    X, y, text = problem()
    light = reread(cafe.ZeroShot(text).fit(X, y), tmp_path)
    with pytest.raises(InputError, match="width 12; got"):
        light.logits(X[:, :5])
    with pytest.raises(InputError, match="NaN"):
        light.logits(np.full((1, 12), np.nan))


def test_a_run_of_version_1_is_read_whole(tmp_path):
    """It has no checksums, so it is tried out, as the classifier that it is."""
    X, y, text = problem()
    save(cafe.ZeroShot(text).fit(X, y), tmp_path)
    document = json.loads((tmp_path / "run.json").read_text())
    del document["sha256"]
    (tmp_path / "run.json").write_text(json.dumps({**document, "run_version": 1}))
    assert type(load_to_predict(tmp_path)) is cafe.ZeroShot


def test_names_and_numbers_are_those_of_the_methods():
    assert scores.SCORES.keys() <= set(method_names())
    assert scores.START_LOGIT == reference.START_LOGIT
