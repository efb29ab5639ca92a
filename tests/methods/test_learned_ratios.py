"""CLIP-Adapter's learned ratios (alpha, beta) = Q(f, W), whose design is ours (docs/methods.md)."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_rows import unit
from torch.nn.functional import normalize

from cafe import CLIPAdapter, ZeroShot, fit_many
from cafe.features import Features, Split
from cafe.fitting import fit_method
from cafe.kernels.fastest import StepSizes, choose_cpu_step
from cafe.kernels.reference import START_RATIO, AdapterShape, adapter_losses_and_gradients
from cafe.methods.objectives.clip_adapter import AdapterObjective
from cafe.runs import load, save
from cafe.training.trainer import Configuration

MODES = ("scalar", "learned")


def few_shots(shots=4, n_classes=12, d=48, seed=0, n_test=240):
    """Features shaped as CLIP's are: a common direction, text off to one side, classes close together."""
    rng = np.random.default_rng(seed)
    common, gap = rng.normal(size=d), rng.normal(size=d)
    centres = common + 0.5 * rng.normal(size=(n_classes, d))
    text = centres + gap + 0.4 * rng.normal(size=(n_classes, d))

    def draw(n):
        y = np.arange(n) % n_classes
        return centres[y] + 0.5 * rng.normal(size=(n, d)), y

    return *draw(shots * n_classes), text, *draw(n_test)


# ---------------------------------------------------------------------- Q itself


def a_step(mode, seed=0):
    """Two steps' worth of things: objective, shape, parameters at the start, and a batch, in float64."""
    X, y, text, *_ = few_shots(seed=seed)
    f = normalize(torch.as_tensor(X), dim=-1)[None]
    w = normalize(torch.as_tensor(text), dim=-1)[None]
    shape = AdapterShape("both", "paper", 12, mode, mode)
    hyper = {"alpha": 0.2, "beta": 0.2, "logit_scale": 50.0}
    configuration = Configuration(np.arange(len(y)), 0, shape, hyper, 1, len(y), 1e-3, 0.0, "adamw")
    drawn = AdapterObjective(w).initial(configuration, torch.Generator().manual_seed(seed))
    parameters = {name: value.double()[None] for name, value in drawn.items()}
    labels = torch.as_tensor(y[::-1].copy())[None]  # zero-shot is wrong, so there is something to learn
    values = {name: torch.tensor([value]).double() for name, value in hyper.items()}

    def gradients(parameters):
        return adapter_losses_and_gradients(shape, parameters, values, f, labels, w, f.mean(1, keepdim=True))

    return parameters, gradients


@pytest.mark.parametrize("mode", MODES)
def test_every_part_of_q_receives_gradient(mode):
    """At the start through bias and output; U and V from the second step on, as soon as the output is not zero."""
    parameters, gradients = a_step(mode)
    _, first = gradients(parameters)
    own = [name for name in parameters if name.startswith(("alpha_", "beta_"))]
    at_once = [name for name in own if name.endswith(("_bias", "_out"))]
    assert len(at_once) == (2 if mode == "scalar" else 4)
    for name in at_once:
        assert first[name].abs().max() > 1e-8, name
    stepped = {name: value - 0.1 * first[name] for name, value in parameters.items()}
    _, second = gradients(stepped)
    for name in own:
        assert second[name].abs().max() > 1e-8, name


@pytest.mark.parametrize("variant", ["image", "text", "both"])
def test_starts_at_the_fixed_default_exactly(variant):
    X, y, text, X_test, _ = few_shots()
    still = {"variant": variant, "lr": 0.0, "random_state": 0, "dtype": "float64", "epochs": 1}
    fixed = CLIPAdapter(text, alpha=0.2, beta=0.2, **still).fit(X, y)
    for mode in MODES:
        model = CLIPAdapter(text, alpha=mode, beta=mode, **still).fit(X, y)
        for value in model.ratio_summary_:
            if not value.endswith("_std"):
                # sigmoid(log(0.2 / 0.8)): two roundings of float64, and one of float32 bias 0 (exact).
                assert model.ratio_summary_[value] == pytest.approx(0.2, abs=1e-15)
        np.testing.assert_allclose(model.logits(X_test), fixed.logits(X_test), rtol=1e-12, atol=1e-10)


def test_alpha_changes_with_the_image_and_with_the_classes():
    X, y, text, X_test, _ = few_shots()
    model = CLIPAdapter(text, alpha="learned", random_state=0).fit(X, y)
    f = unit(X_test).astype(np.float32)
    ratios = model.ratios(f)
    assert ratios.shape == (len(f), 1)
    assert ratios.std() > 1e-3  # by the image
    other = model.for_classes(text[:5] + np.random.default_rng(1).normal(size=(5, text.shape[1])))
    assert np.abs(other.ratios(f) - ratios).max() > 1e-3  # by W


def test_beta_changes_with_the_class_and_with_the_images():
    X, y, text, *_ = few_shots()
    model = CLIPAdapter(text, variant="text", beta="learned", random_state=0).fit(X, y)
    assert model.ratio_summary_["beta_std"] > 1e-3
    shifted = X + np.random.default_rng(1).normal(size=X.shape[1])
    elsewhere = CLIPAdapter(text, variant="text", beta="learned", random_state=0, lr=0.0).fit(shifted, y)
    elsewhere.parameters_ = model.parameters_  # the same Q, shown other images
    moved = elsewhere.for_classes(text).text_ - model.for_classes(text).text_
    assert np.abs(moved).max() > 1e-4


# ---------------------------------------------------------------------- after training


def assert_not_collapsed(model, X_test, text):
    """Neither all zero-shot nor all adapter, and not one number for every image or class."""
    summary = model.ratio_summary_
    for name in ("alpha", "beta"):
        assert 0.05 < summary[f"{name}_min"] <= summary[f"{name}_max"] < 0.95, summary
        assert summary[f"{name}_std"] > 1e-4, summary
    unseen = model.ratios(unit(X_test).astype(np.float32))
    assert unseen.min() > 0.05 and unseen.max() < 0.95
    assert unseen.std() > 1e-4


@pytest.mark.parametrize("shots", [1, 4])
def test_q_does_not_collapse(shots):
    X, y, text, X_test, y_test = few_shots(shots)
    grid = [
        CLIPAdapter(text, variant="both", alpha=a, beta=a, random_state=s) for a in ("learned", 0.2) for s in (1, 2)
    ]
    learned, again, *fixed = fit_many(X, y, grid)
    for model in (learned, again):
        assert_not_collapsed(model, X_test, text)
    zero_shot = ZeroShot(text).fit(X, y).score(X_test, y_test)
    mean = np.mean([m.score(X_test, y_test) for m in (learned, again)])
    assert mean > zero_shot
    # Binomial standard error of one accuracy on 240 rows is at most 3.2 points.
    assert mean > np.mean([m.score(X_test, y_test) for m in fixed]) - 0.032


@pytest.mark.skipif("CAFE_REAL_DATA" not in os.environ, reason="CAFE_REAL_DATA is unset: no real CLIP features at hand")
@pytest.mark.parametrize("shots", [1, 16])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_q_does_not_collapse_on_real_features(shots, dtype):
    data = np.load(Path(os.environ["CAFE_REAL_DATA"]) / "clip_features" / "caltech69_vitb32.npz")
    X, y, text = data[f"train_{shots}shot_features"], data[f"train_{shots}shot_labels"], data["text_features"]
    kernel = "auto" if dtype == "auto" else "cpu-direct"
    model = CLIPAdapter(
        text, variant="both", alpha="learned", beta="learned", random_state=1, dtype=dtype, kernel=kernel
    ).fit(X, y)
    assert_not_collapsed(model, data["test_features"], text)
    assert 100 * model.score(data["test_features"], data["test_labels"]) > 90.74  # zero-shot


@pytest.mark.skipif("CAFE_REAL_DATA" not in os.environ, reason="CAFE_REAL_DATA is unset: no real CLIP features at hand")
@pytest.mark.parametrize(("variant", "ratio"), [("image", "alpha"), ("text", "beta"), ("both", "beta")])
def test_precision_and_form_that_are_chosen_leave_learned_ratios_where_float32_has_them(variant, ratio):
    """In bfloat16 the folded form's rounding once drove them from 0.35 to 0.49."""
    data = np.load(Path(os.environ["CAFE_REAL_DATA"]) / "clip_features" / "caltech69_vitb32.npz")
    X, y, text = data["train_1shot_features"], data["train_1shot_labels"], data["text_features"]
    ratios = {}
    for dtype in ("float32", "bfloat16"):
        step = StepSizes(AdapterShape(variant, "paper", 128, "learned", "learned"), len(y), X.shape[1], len(text))
        kernel, _ = choose_cpu_step("auto", dtype, step, len(y))
        model = CLIPAdapter(
            text, variant=variant, alpha="learned", beta="learned", random_state=1, dtype=dtype, kernel=kernel
        ).fit(X, y)
        ratios[dtype] = model.ratio_summary_[f"{ratio}_mean"]
    # Of the way that training moves the ratio, a fifth may be rounding; the folded form's was as long as the way.
    assert abs(ratios["bfloat16"] - ratios["float32"]) < abs(ratios["float32"] - START_RATIO) / 5, ratios


def test_the_folded_form_of_learned_ratios_is_in_float32_unless_bfloat16_is_asked_for():
    sizes = StepSizes(AdapterShape("text", "paper", 128, "fixed", "learned"), 256, 512, 1000)
    assert choose_cpu_step("cpu-folded", "auto", sizes, 4000) == ("cpu-folded", "float32")
    assert choose_cpu_step("cpu-folded", "bfloat16", sizes, 4000) == ("cpu-folded", "bfloat16")


# ---------------------------------------------------------------------- rows


def features():
    X, y, text, X_test, y_test = few_shots(shots=6)
    sides = {"train": (X, y), "test": (X_test, y_test)}
    splits = {
        name: Split(x.astype(np.float32), labels, np.array([f"{name}{i}" for i in range(len(x))]))
        for name, (x, labels) in sides.items()
    }
    return Features(splits, tuple("abcdefghijkl"), text.astype(np.float32)[None], logit_scale=50.0)


def test_rows_hold_mean_and_spread_of_trained_ratios(tmp_path):
    parameters = {"variant": "both", "alpha": "learned", "beta": "scalar"}
    fitted = fit_method(features(), "clip-adapter", parameters, shots=4)
    row = json.loads(json.dumps(fitted.row))
    alpha = fitted.estimator.ratios(unit(features().splits["test"].image_features))
    assert row["alpha_min"] <= row["alpha_mean"] <= row["alpha_max"]
    assert row["alpha_std"] > 0
    assert row["alpha_mean"] == pytest.approx(alpha.mean(), abs=0.05)  # of training images, so near
    assert (row["beta_std"], row["beta_mean"]) == (0, pytest.approx(fitted.estimator.beta_, rel=1e-6))
    assert "alpha_mean" not in fit_method(features(), "clip-adapter", {"alpha": 0.3}, shots=4).row
    save(fitted.estimator, tmp_path / "run")
    assert load(tmp_path / "run").row_extras() == fitted.estimator.row_extras()


@pytest.mark.parametrize("variant", ["image", "text", "both"])
def test_auto_is_chosen_by_the_selection_policy(variant):
    ratio = {"image": {"alpha"}, "text": {"beta"}, "both": {"alpha", "beta"}}[variant]
    parameters = {"variant": variant, "alpha": "auto", "beta": "auto", "epochs": 10}
    row = fit_method(features(), "clip-adapter", parameters, shots=4).row
    assert row["selection"]["policy"] == "cross-validation"
    assert set(row["selection"]["chosen"]) == ratio
    for name in ratio:
        assert row["params"][name] == row["selection"]["chosen"][name] in CLIPAdapter.grid[name]
